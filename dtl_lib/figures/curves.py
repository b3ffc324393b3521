"""Curves, and estimates with their intervals."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from .style import COLOURS, WIDTH, array, legend_below, styled
from .tables import typeset

DECADES = 1e4  # an axis that spans more has a tick a decade
FEW = 10  # points so few are marked one by one, and on a logarithmic axis each has its tick


@styled
def show_curves(
    curves: Mapping[str, tuple],
    x: str,
    y: str,
    level: tuple[float, str] | None = None,
    log: str = "",
    width: float = WIDTH,
    low: float | None = None,
) -> Figure:
    """Named curves over one axis, labelled where they end.

    Args:
        curves: name → (x values, y values), or (x, y, low, high) for a curve with a band.
        x, y: what the axes are, with their unit.
        level: a horizontal line to compare with, and its name.
        log: axes that are logarithmic: "x", "y" or "xy".
        low: where the vertical axis begins; None leaves it to the values.
    """
    figure, axis = plt.subplots(figsize=(width, 3.4))
    for index, (name, (across, up, *band)) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        line, mark = ("-", "--", "-.", ":")[index % 4], "o" if len(across) <= FEW else ""
        axis.plot(across, up, color=colour, label=name, linestyle=line, marker=mark)
        if band:
            axis.fill_between(across, *band, color=colour, alpha=0.2, linewidth=0)
    if level is not None:
        axis.axhline(level[0], color="#777777", linewidth=1, linestyle=(0, (1, 2)))
        axis.annotate(level[1], (1, level[0]), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axis.set(xlabel=x, ylabel=y, xscale="log" if "x" in log else "linear", yscale="log" if "y" in log else "linear")
    axis.set_ylim(bottom=low)
    marks = sorted({float(place) for across, *_ in curves.values() for place in across})
    if all(place.is_integer() for place in marks) and "x" not in log:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))  # such as blocks: there is none between two
    if "x" in log:
        axis.xaxis.set_major_formatter(_number)
        if len(marks) <= FEW:
            named = _apart(marks)
            axis.set_xticks(marks, [_number(place) if place in named else "" for place in marks])
        axis.minorticks_off()
    if "y" in log:
        low_end, high_end = axis.get_ylim()
        axis.yaxis.set_major_locator(LogLocator(subs=(1,) if high_end > DECADES * low_end else (1, 2, 5)))
        axis.yaxis.set_major_formatter(_number)
        axis.minorticks_off()
    if len(curves) > 1:
        legend_below(figure, axis)
    return figure


@styled
def show_lines(
    rows, names: Sequence[str], x: str, y: str, colours: Sequence | None = None, width: float = WIDTH
) -> Figure:
    """Many lines over their index, such as the channels of a vector by position.

    Args:
        rows: (lines, points).
        names: one a line.
    """
    figure, axis = plt.subplots(figsize=(width, 3.0))
    for index, (row, name) in enumerate(zip(array(rows), names)):
        axis.plot(row, label=name, color=(colours or COLOURS)[index % len(colours or COLOURS)])
    axis.set(xlabel=x, ylabel=y)
    legend_below(figure, axis)
    return figure


@styled
def show_intervals(
    estimates: Mapping[str, tuple[float, ...]],
    x: str,
    reference: str | None = None,
    width: float = WIDTH,
    level: float | None = None,
    linear: float | None = None,
) -> Figure:
    """Estimates with their ± from top to bottom, with a line through what to compare them with.

    Args:
        estimates: name → (value, half width of its interval), (value, low, high), or (value,): without an interval its
            mark is hollow.
        x: what the values are, with their unit.
        reference: the name of the estimate to compare with.
        level: a value to compare with, such as 0 for differences.
        linear: the axis is linear from −linear to linear, and logarithmic beyond; linear throughout where None.
    """
    figure, axis = plt.subplots(figsize=(width, 0.7 + 0.34 * len(estimates)))
    for row, (name, (value, *interval)) in enumerate(estimates.items()):
        colour = COLOURS[1] if name == reference else COLOURS[0]
        if not interval:
            axis.plot(value, row, "o", color=colour, markerfacecolor="none", markeredgewidth=2)
            continue
        below, above = (value - interval[0], interval[1] - value) if len(interval) == 2 else 2 * interval
        axis.errorbar(value, row, xerr=[[below], [above]], fmt="o", color=colour, capsize=3)
    if reference is not None:
        axis.axvline(estimates[reference][0], color=COLOURS[1], linewidth=1, linestyle=":")
    if level is not None:
        axis.axvline(level, color="#777777", linewidth=1, linestyle=":")
    if linear is not None:
        axis.set_xscale("symlog", linthresh=linear, linscale=1.5)
        left, right = (10 if abs(end) > 10 * linear else 4 for end in axis.dataLim.intervalx)
        ticks = [step * linear for step in (-left, -1, -0.5, 0, 0.5, 1, right)]
        axis.set_xticks(ticks, [_number(tick) for tick in ticks], minor=False)
        axis.minorticks_off()
        axis.update_datalim([(tick, 0) for tick in ticks])
        axis.autoscale_view(scaley=False)  # a mark at the end is not cut
    axis.set_yticks(range(len(estimates)), list(estimates))
    axis.set(xlabel=x, ylim=(len(estimates) - 0.4, -0.6))  # the last row stays clear of the axis
    axis.spines["left"].set_visible(False)
    axis.tick_params(left=False)
    return figure


@styled
def show_runs(
    groups: Mapping[str, Sequence[float]], x: str, level: float | None = None, width: float = WIDTH
) -> Figure:
    """A row of marks for each group, one mark a run, and a short line at their mean.

    Args:
        groups: name → the runs' values.
        x: what the values are, with their unit.
        level: a value to compare with, such as 0 for differences.
    """
    figure, axis = plt.subplots(figsize=(width, 0.7 + 0.34 * len(groups)))
    for row, values in enumerate(map(array, groups.values())):
        axis.plot(values, [row] * len(values), "o", color=COLOURS[0], alpha=0.7)
        axis.plot([values.mean()] * 2, [row - 0.3, row + 0.3], color=COLOURS[1], linewidth=2)
    if level is not None:
        axis.axvline(level, color="#777777", linewidth=1, linestyle=":")
    axis.set_yticks(range(len(groups)), list(groups))
    axis.set(xlabel=x, ylim=(len(groups) - 0.4, -0.6))
    axis.spines["left"].set_visible(False)
    axis.tick_params(left=False)
    return figure


@styled
def show_bars(names: Sequence[str], values, x: str, width: float = WIDTH, digits: int = 2) -> Figure:
    """Named values as horizontal bars from 0, the first on top.

    Args:
        names: one a bar.
        values: their lengths.
        x: what they are, with their unit.
        digits: after the point, in the label of a bar.
    """
    figure, axis = plt.subplots(figsize=(width, 0.6 + 0.32 * len(names)))
    bars = axis.barh(range(len(names)), array(values), color=COLOURS[0], height=0.7)
    axis.bar_label(bars, fmt=f"%.{digits}f", padding=3)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel=x, xlim=(0, 1.12 * max(array(values))))
    axis.tick_params(left=False)
    return figure


@styled
def show_roofline(
    rate: float, bandwidth: float, reached: Mapping[str, tuple[float, float]], width: float = WIDTH
) -> Figure:
    """The rates operations reach, under the roof set by memory and arithmetic (Williams et al. 2009, figure 1).

    Args:
        rate: operations a second, at most.
        bandwidth: bytes a second, at most.
        reached: name → (operations a byte, operations a second).
    """
    figure, axis = plt.subplots(figsize=(width, 3.8))
    across, up = array([point[0] for point in reached.values()]), array([point[1] for point in reached.values()]) / 1e9
    ends = array([min(across.min(), rate / bandwidth) / 2, rate / bandwidth, max(across.max(), rate / bandwidth) * 3])
    axis.plot(ends, (bandwidth * ends / 1e9).clip(max=rate / 1e9), color="#777777", linewidth=1.5)
    axis.plot(across, up, "o", color=COLOURS[0])
    for name, right, above in zip(reached, across, up):
        axis.annotate(name, (right, above), xytext=(7, -3), textcoords="offset points", va="top")
    for text, at in ((f"{bandwidth / 1e9:,.0f} GB/s", ends[:2]), (f"{rate / 1e9:,.0f} GFLOP/s", ends[1:])):
        middle = at.prod() ** 0.5
        spot = (middle, min(rate, bandwidth * middle) / 1e9)
        axis.annotate(
            text, spot, xytext=(-4, 5), textcoords="offset points", ha="right" if at[0] == ends[0] else "center"
        )
    axis.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s", ylim=(up.min() / 3, rate / 3e8))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(_number)
    axis.minorticks_off()
    return figure


@styled
def show_agreement(
    groups: Mapping[str, Sequence[tuple[float, float, float, float]]], x: str, y: str, size: float = WIDTH
) -> Figure:
    """Measured against predicted values, with the line where they agree.

    Args:
        groups: name → points: predicted, measured, and the ends of the measurement's interval.
        x, y: what the axes are, with their unit.
        size: inches a side.
    """
    figure, axis = plt.subplots(figsize=(size, size))
    for index, (name, points) in enumerate(groups.items()):
        across, up, low, high = (array(values) for values in zip(*points))
        ends, colour = [up - low, high - up], COLOURS[index % len(COLOURS)]
        axis.errorbar(across, up, yerr=ends, fmt="osD^v"[index % 5], color=colour, label=name, capsize=2, linewidth=1)
    ends = [min(axis.get_xlim()[0], axis.get_ylim()[0]), max(axis.get_xlim()[1], axis.get_ylim()[1])]
    axis.plot(ends, ends, color="#777777", linewidth=1, linestyle=":", label="as predicted", zorder=0)
    axis.set(xlabel=x, ylabel=y, xlim=ends, ylim=ends)
    axis.set_box_aspect(1)
    legend_below(figure, axis)
    return figure


@styled
def show_ratios(
    groups: Mapping[str, Sequence[tuple[float, float, float, float]]], x: str, y: str, width: float = WIDTH
) -> Figure:
    """Ratios with their intervals over a logarithmic axis, and the line at 1.

    Args:
        groups: name → points: place on the axis, ratio, and the ends of its interval.
        x, y: what the axes are, with their unit.
    """
    figure, axis = plt.subplots(figsize=(width, 3.4))
    axis.axhline(1, color="#777777", linewidth=1, linestyle=":", zorder=0)
    for index, (name, points) in enumerate(groups.items()):
        across, up, low, high = (array(values) for values in zip(*points))
        across, colour = across * 1.05 ** (index - len(groups) / 2), COLOURS[index % len(COLOURS)]  # side by side
        ends = [up - low, high - up]
        axis.errorbar(across, up, yerr=ends, fmt="osD^v"[index % 5], color=colour, label=name, capsize=2, linewidth=1)
    axis.set(xlabel=x, ylabel=y, xscale="log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(_number)
    axis.minorticks_off()
    legend_below(figure, axis)
    return figure


@styled
def show_histograms(groups: Mapping[str, Sequence], x: str, y: str, bins: int = 24, width: float = WIDTH) -> Figure:
    """Histograms under each other on the same logarithmic axes: where the values of each group lie, as shares of it.

    Args:
        groups: name → positive values.
        x, y: what the axes are, with their unit.
        bins: equally wide on the logarithmic axis.
    """
    values = {name: array(group).ravel() for name, group in groups.items()}
    low, high = min(one.min() for one in values.values()), max(one.max() for one in values.values())
    edges = low * (high / low) ** (array(range(bins + 1)) / bins)
    edges[-1] *= 1.001  # the largest value is in the last bin
    figure, axes = plt.subplots(len(values), 1, figsize=(width, 1.3 * len(values) + 0.5), sharex=True, sharey=True)
    for axis, (name, group), colour in zip(axes, values.items(), COLOURS):
        axis.hist(group, edges, weights=group * 0 + 1 / len(group), color=colour)
        axis.set(xscale="log", yscale="log", title=name)
        axis.minorticks_off()
    axes[-1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[-1].xaxis.set_major_formatter(_number)
    axes[-1].yaxis.set_major_formatter(_number)
    axes[-1].minorticks_off()
    axes[-1].set_xlabel(x)
    figure.supylabel(y)
    return figure


def _apart(marks: Sequence[float]) -> list[float]:
    """Those of the places on a logarithmic axis that can have a number each, from the last one on."""
    places = [place for place in marks if place > 0]
    named = places[-1:]
    for place in reversed(places[:-1]):
        if named[-1] / place >= (places[-1] / places[0]) ** (1 / FEW):
            named.append(place)
    return named


def _number(value: float, _place: int | None = None) -> str:
    """What stands at a tick."""
    return typeset(f"{value:g}")
