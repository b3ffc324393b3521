"""One style sheet for every figure: readable at half width, safe for colour-blind readers, calm on light and dark."""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

# Okabe and Ito's palette, without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# A kind of token has one colour in every figure and drawing; groups of registers take the last ones in turn.
TOKENS = {"cls": "#0072B2", "dist": "#CC79A7", "patches": "#8c9299"}
REGISTERS = ("#D55E00", "#009E73", "#E69F00")
MAP = "viridis"
SIGNED = "RdBu_r"
MARK = "#ff2d6f"
ABSENT = "#a6a6a6"  # neither the brightest thing on a dark page nor the darkest on a light one
INK = "#111111"  # text on a coloured cell; black text on the page itself turns light in the book's dark mode
WIDTH = 5.0  # inches; a figure is no wider, so that its one size of text can be read on a telephone
SIZE = 11  # points
LINE = 0.19  # inches that a line of text takes

STYLE: dict[Any, Any] = {  # by matplotlib's own names
    "axes.grid": False,
    "axes.labelsize": SIZE,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": SIZE,
    "figure.constrained_layout.use": True,
    "figure.dpi": 130,
    "figure.facecolor": "white",
    "figure.figsize": (WIDTH, 3.4),
    "figure.labelsize": SIZE,
    "font.size": SIZE,
    "image.cmap": MAP,
    "image.interpolation": "nearest",
    "legend.fontsize": SIZE,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "savefig.dpi": 130,
    "text.parse_math": False,  # a label is a name: two `$` in it are no mathematics, and one is no error
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
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


def panels(
    count: int, columns: int | None = None, size: float = 2.2, height: float | None = None, width: float = WIDTH
):
    """A figure of `count` panels without axes, and the panels."""
    columns = min(count, columns or 3)
    rows = -(-count // columns)
    scale = min(1.0, width / (size * columns))
    tall = (height or size * 1.1) * scale * rows
    figure, axes = plt.subplots(rows, columns, figsize=(size * scale * columns, tall), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, list(axes.flat[:count])


def legend_below(figure, axis, columns: int = 2) -> None:
    """The names of what an axis shows, under it."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def token_colours(names: Iterable[str]) -> dict[str, str]:
    """The colour of each group of tokens, by name."""
    registers = itertools.cycle(REGISTERS)
    return {name: TOKENS.get(name) or next(registers) for name in names}


def array(value) -> np.ndarray:
    """A tensor, list or array as a NumPy array that can be drawn."""
    if hasattr(value, "detach"):
        return value.detach().float().cpu().numpy()
    return np.asarray(value)
