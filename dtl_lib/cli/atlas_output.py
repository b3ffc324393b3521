"""What `dtl atlas show` prints: tables of a grid's findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..lab.atlas import Cell, Findings, Grid, Strata, TestedContrast
    from ..lab.atlas.findings import Effects


def paragraphs(grid: Grid, findings: Findings, value: str, registered: bool) -> Iterator[str]:
    """What is printed, a paragraph each.

    Args:
        registered: whether the grid's analysis was registered: it comes first then, and the one by strata is post hoc.
    """
    from ..lab.atlas.draw import LABELS
    from ..lab.atlas.draw import digits as digits_of

    digits, name = digits_of(findings.mean.values(), value), LABELS.get(value, value)
    level = findings.surface if registered else findings.strata
    half = level and f"± {level.half:.{digits + 1}f} a cell (95 %), the seeds' own effect left out"
    means = "means over the runs so far" if findings.missing else "means"
    yield f"{name}; {half or means}\n{_table(grid, findings.mean, digits)}"
    effects = (findings.effects, findings.post_hoc_effects) if registered else (findings.post_hoc_effects,)
    if effects[0]:
        yield _effects([each for each in effects if each], digits + 1)
    if findings.tested and registered:
        yield f"as registered: all noise taken for independent\n{_contrasts(findings.tested)}"
    if findings.post_hoc:
        yield f"{_noise(findings.strata, registered)}\n{_contrasts(findings.post_hoc)}"
    if not registered and (without := _lacks(grid, findings)):
        yield without
    if findings.best and grid.sweep:
        yield f"best held-out accuracy among cells with registers and a class token: {findings.best}"
    if findings.sweep:
        yield _sweep(findings, name, digits)
    yield f"M multiply–adds an image\n{_table(grid, {cell: cost / 1e6 for cell, cost in findings.cost.items()}, 2)}"


def _lacks(grid: Grid, findings: Findings) -> str:
    """Why there are no intervals, in one line; nothing where there are."""
    if findings.strata:
        return ""
    lacking, what = len(findings.missing), "no intervals, main effects or contrasts"
    if not findings.surface and lacking:
        return f"{what} yet: they need every run of the grid, and {lacking} {'is' if lacking == 1 else 'are'} missing"
    if len(grid.seeds) < 2:
        return f"{what}: one seed has no spread; add some, such as --seeds {grid.seeds[0]},{grid.seeds[0] + 1}"
    return f"{what}: they compare cells, and {len(findings.mean)} has this value"


def _table(grid: Grid, values: Mapping[Cell, float], digits: int) -> str:
    """Rows: where the class token enters; columns: where the registers do."""
    from ..lab.atlas.draw import place_names, rows_of

    rows = [["", *place_names(grid.reg)]]
    for cells, name in zip(rows_of(grid), place_names(grid.cls)):
        rows.append([name, *(f"{values[cell]:,.{digits}f}" if cell in values else "" for cell in cells)])
    head = f"{'class token enters at':21}{'registers enter at':>{max(19, 11 * len(grid.reg))}}"
    return "\n".join([head, *_aligned(rows, [-21] + [11] * len(grid.reg))])


def _effects(analyses: Sequence[Effects], digits: int) -> str:
    """Main effects, each with the half interval of every analysis."""
    rows = []
    for what, *by_analysis in zip(("class token at", "registers at"), *analyses):
        if len(by_analysis[0]) < 2:  # nothing to compare the one place with
            continue
        for place, effect in by_analysis[0].items():
            name = f"{what} {place}" if isinstance(place, int) else place or "no registers"
            halves = [f" ± {one.half:.{digits}f}" for effects in by_analysis if (one := effects.get(place))]
            rows.append([name, _signed(effect.value, digits), *halves])
    which = "; first as registered, then by strata" if len(analyses) > 1 else ""
    head = f"main effects: a row's or column's mean minus the mean of all cells (95 %{which})"
    return "\n".join([head, *_aligned(rows, [-21, 11, 0, 0])])


def _noise(strata: Strata, registered: bool) -> str:
    """What the intervals by strata are made of."""
    shared, rest = strata.row_by_seed, strata.residual
    text = "by error strata: rows by row × seed, columns by column × seed, the interaction by the residual"
    if rest.freedom:
        times = f"{shared.mean_square / rest.mean_square:.1f}" if rest.mean_square else "∞"
        what = "the registered analysis were right" if registered else "the runs of a seed were independent"
        text += f"\n(mean square of row × seed over the residual's: {times}; 1 if {what})"
    return f"post hoc, {text}" if registered else text


def _contrasts(tested: Sequence[TestedContrast]) -> str:
    from ..lab.atlas import verdict

    rows = [["contrast, percentage points", "estimate", "95 %", "p (Holm)", "   verdict"]]
    for one in tested:
        low, high = (_signed(one.estimate.value + side * one.estimate.half, 2) for side in (-1, 1))
        p = "< 0.001" if one.p < 0.001 else f"{one.p:.3f}"
        rows.append([one.name, _signed(one.estimate.value, 2), f"{low} to {high}", p, f"   {verdict(one)}"])
    return "\n".join(_aligned(rows, [-max(len(row[0]) for row in rows), 11, 18, 11, 0]))


def _sweep(findings: Findings, name: str, digits: int) -> str:
    rows = [
        ["registers", *(str(cell.num_reg) for cell in findings.sweep)],
        ["mean", *(f"{mean:,.{digits}f}" for mean in findings.sweep.values())],
        ["M multiply–adds", *(f"{findings.cost[cell] / 1e6:,.2f}" for cell in findings.sweep)],
    ]
    lines = [f"{name}, by the number of registers there", *_aligned(rows, [-21] + [11] * len(findings.sweep))]
    if findings.slope:
        value, half = _signed(findings.slope.value, digits + 1), f"{findings.slope.half:.{digits + 1}f}"
        tested = f", p = {findings.slope.p:.3f}" if findings.tested else ""
        lines.append(f"± {findings.sweep_surface.half:.{digits + 1}f} a cell (95 %)")
        lines.append(f"slope: {value} ± {half} a doubling of 1 + registers (95 %){tested}")
    return "\n".join(lines)


def _aligned(rows: Iterable[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Lines of cells, to the left where a width is below 0."""
    lines = ("".join(f"{cell:{'<' if w < 0 else '>'}{abs(w)}}" for cell, w in zip(row, widths)) for row in rows)
    return [line.rstrip() for line in lines]


def _signed(value: float, digits: int) -> str:
    return f"{value:+,.{digits}f}".replace("-", "−")
