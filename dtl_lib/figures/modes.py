"""Lengths of tokens after every block, and the cut between two modes."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .style import COLOURS, WIDTH, array, styled


@styled
def show_modes(
    counts, edges: Sequence[float], names: Sequence[str], x: str, cuts: Sequence[float | None], width: float = WIDTH
) -> Figure:
    """Histograms under each other, each from 0 to its own maximum on a square-root scale; a dashed line at the cut.

    Args:
        counts: (rows, bins); bins are equally wide on the logarithmic axis.
        edges: lower end of the first bin and upper end of the last, positive.
        names: one a row, written beside it.
        x: what is counted, with its unit.
        cuts: one a row; what lies beyond it has another colour, and a bar across it has both. None: no cut.
    """
    counts = np.sqrt(array(counts))
    ends = np.geomspace(*edges, counts.shape[1] + 1)
    figure, axes = plt.subplots(len(counts), 1, figsize=(width, 0.42 * len(counts) + 1.0), sharex=True)
    for axis, row, name, cut in zip(np.atleast_1d(axes), counts, names, cuts):
        at = ends[-1] if cut is None else cut
        for colour, split in zip(COLOURS, (ends.clip(max=at), ends.clip(min=at))):
            axis.stairs(row / row.max(), split, fill=True, color=colour)
        if cut is not None:
            axis.axvline(cut, color="#777777", linewidth=1, linestyle="--")
        axis.set(xscale="log", yticks=[], ylim=(0, 1.05))
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    line = "" if all(cut is None for cut in cuts) else "\ndashed: the cut"
    axis.set_xlabel(f"{x}\nheight: square root of the count{line}")
    return figure
