"""`dtl atlas`: train a grid of places for the tokens, and print what came of it."""

from __future__ import annotations

import math
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from .parser import Parser, positive
from .shared_flags import add_device

if TYPE_CHECKING:
    from ..lab.atlas import Cell, Findings, Grid, Strata, TestedContrast

SUMMARY = "Train a ViT for each choice of entry blocks in a grid, and show the results."
RUN, SHOW = ("weights", "jobs", "device", "quiet"), ("value", "figure")
FORMATS = (".png", ".pdf", ".svg")
PERCENTAGES = {
    "accuracy": "test accuracy, %",
    "held_out": "held-out accuracy, %",
    "on_registers": "class token's attention on registers, %",
}
LABELS = {
    **PERCENTAGES,
    "entropy": "entropy of the class token's attention, nats",
    "norm_ratio": "98th percentile of patch norms over their median",
    "loss": "test loss, nats",
    "multiply_adds": "multiply–adds an image",
}


def flags(parser: Parser) -> None:
    """Run or show; which grid, and the flags of either."""
    parser.add_argument(
        "what", choices=("run", "show"), help="run: train every cell that has no record yet; show: print the results"
    )
    parser.add_argument("--grid", choices=("cpu", "gpu"), default="cpu", help="which grid (default: cpu)")
    parser.add_argument("--records", metavar="DIR", help="folder of the records (default: the ledger's own)")
    training = parser.add_argument_group("dtl atlas run")
    training.add_argument("--weights", metavar="DIR", help="save the weights of every run in DIR")
    training.add_argument("--jobs", type=positive, metavar="N", help="runs in parallel (default: 1)")
    add_device(training)
    training.add_argument("--quiet", action="store_true", help="print a line for each run instead of a progress bar")
    shown = parser.add_argument_group("dtl atlas show")
    shown.add_argument("--value", metavar="NAME", help="which recorded value to show (default: accuracy)")
    shown.add_argument("--figure", metavar="FILE", help="also draw a figure, as .png, .pdf or .svg")


def main(args: Namespace) -> None:
    """`dtl atlas run`, `dtl atlas show`."""
    from ..lab import atlas

    other, unused = ("show", SHOW) if args.what == "run" else ("run", RUN)
    for name in unused:
        if getattr(args, name):
            raise ValueError(f"--{name} is a flag of dtl atlas {other}: leave it out")
    (_run if args.what == "run" else _show)(args, atlas.grids()[args.grid])


def _run(args: Namespace, grid: Grid) -> None:
    from ..lab import atlas

    if repaired := atlas.drop_partial_record(grid, args.records):
        print(repaired)
    left, total = atlas.count_runs(grid, atlas.read(grid, args.records))
    print(f"{args.grid}: {_size(grid)}: {left} of {total} runs left", flush=True)
    progress = not args.quiet and sys.stdout.isatty()
    options = {"jobs": args.jobs or 1, "weights": args.weights, "device": args.device, "progress": progress}
    with closing(atlas.run(grid, args.records, command=f"dtl atlas run --grid {args.grid}", **options)) as records:
        for count, record in enumerate(records, 1):
            if not progress:
                what = f"{record.what}, seed {record.seed}: {record.get('accuracy'):.2%}"
                print(f"{what}, {record.get('seconds'):.0f} s; {left - count} of {total} runs left", flush=True)
    print(f"complete; for the results: {_command('show', args)}")


def _show(args: Namespace, grid: Grid) -> None:
    from ..lab import atlas

    if args.figure and Path(args.figure).suffix not in FORMATS:
        raise ValueError(f"--figure is a file that ends in {', '.join(FORMATS)}, not {args.figure!r}")
    records, value = atlas.read(grid, args.records), args.value or "accuracy"
    if not records:
        path = atlas.records_file(grid, args.records)
        raise ValueError(f"{path} holds no records yet: run {_command('run', args)}")
    if value not in (names := atlas.value_names(records.values())):
        raise ValueError(f"the records have no value {value!r}; they have {', '.join(names)}")
    findings = atlas.find(grid, records, value, 100.0 if value in PERCENTAGES else 1.0)
    left, total = atlas.count_runs(grid, records)
    print(f"{args.grid}: {_size(grid)}: {total - left} of {total} runs are recorded, {left} missing\n")
    print("\n\n".join(_paragraphs(grid, findings, value)))
    if args.figure:
        _draw(grid, findings, value).savefig(args.figure)
        print(f"\nfigure saved in {args.figure}")


def _paragraphs(grid: Grid, findings: Findings, value: str) -> Iterator[str]:
    """What is printed, a paragraph each."""
    digits, name = _digits(findings.mean.values(), value), LABELS.get(value, value)
    half = (
        findings.surface and f"± {findings.surface.half:.{digits + 1}f} a cell (95 %), the seeds' own effect left out"
    )
    yield f"{name}; {half or 'means over the runs so far'}\n{_table(grid, findings.mean, digits)}"
    if findings.effects:
        yield _effects(findings, digits + 1)
    if findings.tested:
        yield f"as registered: all noise taken for independent\n{_contrasts(findings.tested)}"
    if findings.post_hoc:
        yield f"{_noise(findings.strata)}\n{_contrasts(findings.post_hoc)}"
    if findings.best:
        yield f"best held-out accuracy among cells with registers and a class token: {findings.best}"
    if findings.sweep:
        yield _sweep(findings, name, digits)
    yield f"M multiply–adds an image\n{_table(grid, {cell: cost / 1e6 for cell, cost in findings.cost.items()}, 2)}"


def _table(grid: Grid, values: Mapping[Cell, float], digits: int) -> str:
    """Rows: where the class token enters; columns: where the registers do."""
    rows = [["", *_names(grid.reg)]]
    for cells, name in zip(_by_row(grid), _names(grid.cls)):
        rows.append([name, *(f"{values[cell]:,.{digits}f}" if cell in values else "" for cell in cells)])
    head = f"{'class token enters at':21}{'registers enter at':>{11 * len(grid.reg)}}"
    return "\n".join([head, *_aligned(rows, [-21] + [11] * len(grid.reg))])


def _effects(findings: Findings, digits: int) -> str:
    rows, post_hoc = [], findings.post_hoc_effects or ({}, {})
    for what, effects, by_strata in zip(("class token at", "registers at"), findings.effects, post_hoc):
        for place, effect in effects.items():
            name = f"{what} {place}" if isinstance(place, int) else place or "no registers"
            halves = [f" ± {one.half:.{digits}f}" for one in (effect, by_strata.get(place)) if one]
            rows.append([name, _signed(effect.value, digits), *halves])
    which = "; first as registered, then by strata" if findings.post_hoc_effects else ""
    head = f"main effects: a row's or column's mean minus the mean of all cells (95 %{which})"
    return "\n".join([head, *_aligned(rows, [-21, 11, 0, 0])])


def _noise(strata: Strata) -> str:
    """What the post hoc intervals are made of."""
    shared, rest = strata.row_by_seed, strata.residual
    times = f"{shared.mean_square / rest.mean_square:.1f}" if rest.mean_square else "∞"
    return (
        "post hoc, by error strata: rows by row × seed, columns by column × seed, the interaction by the residual\n"
        f"(mean square of row × seed over the residual's: {times}; 1 if the registered analysis were right)"
    )


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


def _draw(grid: Grid, findings: Findings, value: str):
    """The surface; for accuracies also what they cost."""
    from .. import figures

    best = findings.best
    surface = {
        "values": [[findings.mean.get(cell, math.nan) for cell in cells] for cells in _by_row(grid)],
        "rows": _names(grid.cls),
        "columns": _names(grid.reg),
        "half": findings.surface.half if findings.surface else None,
        "label": LABELS.get(value, value),
        "mark": (grid.cls.index(best.cls), grid.reg.index(best.reg)) if best else None,
        "digits": _digits(findings.mean.values(), value),
    }
    if value not in ("accuracy", "held_out"):
        return figures.show_surface(**surface)
    kinds = {str(cell): "class token" if isinstance(cell.cls, int) else cell.cls for cell in findings.mean}
    cost = {"points": findings.points(), "front": findings.front(), "kinds": kinds, "y": LABELS[value]}
    return figures.show_atlas(surface, cost)


def _size(grid: Grid) -> str:
    surface = f"{len(grid.cls)} × {len(grid.reg)} places × {len(grid.seeds)} seeds"
    numbers = ", ".join(map(str, grid.sweep))
    return f"{surface}, then {numbers} registers at the best" if numbers else surface


def _names(places: Iterable) -> list[str]:
    return ["none" if place is None else str(place) for place in places]


def _by_row(grid: Grid) -> list[list[Cell]]:
    cells, wide = grid.cells(), len(grid.reg)
    return [cells[at : at + wide] for at in range(0, len(cells), wide)]


def _digits(values: Iterable[float], value: str) -> int:
    """After the point: one for per cent, else three digits in all."""
    top = max(map(abs, values), default=0)
    return 1 if value in PERCENTAGES else max(0, 2 - math.floor(math.log10(top or 1)))


def _aligned(rows: Iterable[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Lines of cells, to the left where a width is below 0."""
    lines = ("".join(f"{cell:{'<' if w < 0 else '>'}{abs(w)}}" for cell, w in zip(row, widths)) for row in rows)
    return [line.rstrip() for line in lines]


def _signed(value: float, digits: int) -> str:
    return f"{value:+,.{digits}f}".replace("-", "−")


def _command(what: str, args: Namespace) -> str:
    return f"dtl atlas {what} --grid {args.grid}" + (f" --records {shlex.quote(args.records)}" if args.records else "")
