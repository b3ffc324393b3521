"""Values of every block: of each head, and shares that make up a whole."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import COLOURS, WIDTH, array, legend_below, styled, token_colours


@styled
def show_heads(
    values, y: str, low=None, high=None, control=None, control_name: str = "untrained", width: float = WIDTH
) -> Figure:
    """A value of every head, block by block, as a dot; what to compare with lies behind as a band.

    Args:
        values: (blocks, heads).
        y: what they are, with their unit.
        low, high: ends of their intervals, of the same shape; None draws none, and nor does NaN.
        control: (blocks, heads) of another model: the band goes from its lowest head to its highest.
        control_name: what it is.
    """
    values = array(values)
    blocks, heads = values.shape
    figure, axis = plt.subplots(figsize=(width, 3.4))
    if control is not None:
        control = array(control)
        edges = np.repeat(np.arange(blocks + 1) - 0.5, 2)[1:-1]
        ends = (np.repeat(end, 2) for end in (control.min(axis=1), control.max(axis=1)))
        axis.fill_between(edges, *ends, color="#999999", linewidth=2, label=f"{control_name}, all heads")
    across = np.arange(blocks)[:, None] + np.linspace(-0.3, 0.3, heads + 2)[1:-1]  # side by side
    ends = None
    if low is not None and high is not None and not np.isnan(low).all():
        ends = np.nan_to_num([values - array(low), array(high) - values]).reshape(2, -1)
    axis.errorbar(
        across.ravel(), values.ravel(), yerr=ends, fmt="o", markersize=4, linewidth=1, color=COLOURS[0], label="a head"
    )
    axis.set(xlabel="block", ylabel=y, ylim=(0, None), xlim=(-0.6, blocks - 0.4))
    axis.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    legend_below(figure, axis)
    return figure


@styled
def show_flow(shares: Mapping[str, Mapping[str, Sequence[float]]], width: float = WIDTH) -> Figure:
    """Where attention goes, block by block: a bar from 0 to 1 whose parts are what each group of tokens gets.

    Args:
        shares: title of a panel → group → its share in each block; NaN where there is none.
    """
    names = list(dict.fromkeys(name for groups in shares.values() for name in groups))
    colours = token_colours(names)
    figure, axes = plt.subplots(
        len(shares), 1, squeeze=False, sharex=True, figsize=(width, 0.8 + 1.35 * len(shares))
    )  # fmt: skip
    for axis, (title, groups) in zip(axes.flat, shares.items()):
        below = 0.0
        for name, values in groups.items():
            values = np.nan_to_num(array(values))
            axis.bar(range(len(values)), values, bottom=below, width=0.85, color=colours[name], label=name)
            below = below + values
        axis.set(title=title, ylim=(0, 1), yticks=(0, 0.5, 1))
        axis.set_xlim(-0.6, len(values) - 0.4)
    axes.flat[-1].set_xlabel("block")
    axes.flat[-1].xaxis.set_major_locator(MaxNLocator(12, integer=True))
    figure.supylabel("share of attention")
    fullest = max(axes.flat, key=lambda axis: len(axis.containers))
    legend_below(figure, fullest, columns=min(4, len(names)))
    return figure
