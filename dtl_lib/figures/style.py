"""One style sheet for every figure: readable at half width, safe for colour-blind readers, calm on light and dark."""

import functools
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

# Okabe and Ito's palette, without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MAP = "viridis"
SIGNED = "RdBu_r"
MARK = "#ff2d6f"
ABSENT = "#d9d9d9"

STYLE: dict[Any, Any] = {  # by matplotlib's own names
    "axes.grid": False,
    "axes.labelsize": 11,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.dpi": 130,
    "figure.facecolor": "white",
    "font.size": 11,
    "image.cmap": MAP,
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "savefig.dpi": 130,
    "text.parse_math": False,  # a label is a name: two `$` in it are no mathematics, and one is no error
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A drawing function under the book's style; its figure is closed for pyplot, so that a cell shows it once."""

    @functools.wraps(draw)
    def drawing(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            figure.canvas.draw()  # text takes its size here, inside the style
            plt.close(figure)
            return figure

    return drawing


def panels(count: int, columns: int | None = None, size: float = 2.2, height: float | None = None):
    """A figure of `count` panels without axes, and the panels."""
    columns = min(count, columns or 6)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, (height or size * 1.1) * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, list(axes.flat[:count])


def array(value) -> np.ndarray:
    """A tensor, list or array as a NumPy array that can be drawn."""
    if hasattr(value, "detach"):
        return value.detach().float().cpu().numpy()
    return np.asarray(value)
