"""Lengths of tokens after every block, and where they part."""

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
    """Histograms under each other, each from 0 to its own maximum on a square-root scale; a dashed line at a cut.

    Args:
        counts: (rows, bins); bins are equally wide on the logarithmic axis.
        edges: lower end of the first bin and upper end of the last, positive.
        names: one a row, written beside it.
        x: what is counted, with its unit.
        cuts: where the values of a row part; beyond it bins have another colour. None: they do not.
    """
    counts = np.sqrt(array(counts))
    ends = np.geomspace(*edges, counts.shape[1] + 1)
    figure, axes = plt.subplots(len(counts), 1, figsize=(width, 0.42 * len(counts) + 1.0), sharex=True)
    for axis, row, name, cut in zip(np.atleast_1d(axes), counts, names, cuts):
        beyond = np.zeros(len(row), bool) if cut is None else ends[1:] > cut
        colours = np.where(beyond, COLOURS[1], COLOURS[0])
        axis.bar(ends[:-1], row / row.max(), np.diff(ends), align="edge", color=colours)
        if cut is not None:
            axis.axvline(cut, color="#777777", linewidth=1, linestyle="--")
        axis.set(xscale="log", yticks=[], ylim=(0, 1.05))
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    line = "" if all(cut is None for cut in cuts) else "\ndashed: where they part"
    axis.set_xlabel(f"{x}\nheight: square root of the count{line}")
    return figure
