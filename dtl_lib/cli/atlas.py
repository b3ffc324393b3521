"""`dtl atlas`: run a grid of places for the tokens, and say what came of it."""

import math
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from ..lab import atlas
from ..lab.atlas import Cell, Findings, Grid

RUN, SHOW = ("weights", "jobs", "device", "quiet"), ("value", "figure")
FORMATS = (".png", ".pdf", ".svg")
SHARES = {
    "accuracy": "test accuracy, %",
    "held_out": "held-out accuracy, %",
    "on_registers": "class token's attention on registers, %",
}
WORDS = {
    **SHARES,
    "entropy": "entropy of the class token's attention, nats",
    "norm_ratio": "98th percentile of patch norms over their median",
    "loss": "test loss, nats",
    "multiply_adds": "multiply–adds an image",
}


def main(args: Namespace) -> None:
    """`dtl atlas run`, `dtl atlas show`."""
    other, theirs = ("show", SHOW) if args.what == "run" else ("run", RUN)
    for name in theirs:
        if getattr(args, name):
            raise ValueError(f"--{name} belongs to dtl atlas {other}: leave it out")
    (_run if args.what == "run" else _show)(args, atlas.grids()[args.grid])


def _run(args: Namespace, grid: Grid) -> None:
    if note := atlas.drop_partial_record(grid, args.records):
        print(note)
    left, total = atlas.count_runs(grid, atlas.read(grid, args.records))
    print(f"{args.grid}: {_size(grid)}: {left} of {total} runs left", flush=True)
    progress = not args.quiet and sys.stdout.isatty()
    about = {"jobs": args.jobs or 1, "weights": args.weights, "device": args.device, "progress": progress}
    with closing(atlas.run(grid, args.records, command=f"dtl atlas run --grid {args.grid}", **about)) as records:
        for count, record in enumerate(records, 1):
            if not progress:
                what = f"{record.what}, seed {record.seed}: {record.get('accuracy'):.2%}"
                print(f"{what}, {record.get('seconds'):.0f} s; {left - count} of {total} runs left", flush=True)
    print(f"complete; what it says: {_command('show', args)}")


def _show(args: Namespace, grid: Grid) -> None:
    if args.figure and Path(args.figure).suffix not in FORMATS:
        raise ValueError(f"--figure is a file that ends in {', '.join(FORMATS)}, not {args.figure!r}")
    records, value = atlas.read(grid, args.records), args.value or "accuracy"
    if not records:
        path = atlas.records_file(grid, args.records)
        raise ValueError(f"{path} holds no records yet: run {_command('run', args)}")
    if value not in (names := atlas.value_names(records.values())):
        raise ValueError(f"the records have no value {value!r}; they have {', '.join(names)}")
    found = atlas.find(grid, records, value, 100.0 if value in SHARES else 1.0)
    left, total = atlas.count_runs(grid, records)
    print(f"{args.grid}: {_size(grid)}: {total - left} of {total} runs are recorded, {left} missing\n")
    print("\n\n".join(_parts(grid, found, value)))
    if args.figure:
        _draw(grid, found, value).savefig(args.figure)
        print(f"\ndrawn in {args.figure}")


def _parts(grid: Grid, found: Findings, value: str) -> Iterator[str]:
    """What is printed, a paragraph each."""
    digits, name = _digits(found.mean.values(), value), WORDS.get(value, value)
    spread = f"; ± {found.surface.half:.{digits + 1}f} a cell (95 %)" if found.surface else "; means of what there is"
    yield f"{name}{spread}\n{_table(grid, found.mean, digits)}"
    if found.effects:
        yield _effects(found, digits + 1)
    if found.tested:
        yield _contrasts(found.tested)
    if found.best:
        yield f"best held-out accuracy, of cells with registers and a class token: {found.best}"
    if found.sweep:
        yield _sweep(found, name, digits)
    yield f"M multiply–adds an image\n{_table(grid, {cell: cost / 1e6 for cell, cost in found.cost.items()}, 2)}"


def _table(grid: Grid, values: Mapping[Cell, float], digits: int) -> str:
    """Rows: where the class token enters; columns: where the registers do."""
    rows = [["", *_names(grid.reg)]]
    for cells, name in zip(_by_row(grid), _names(grid.cls)):
        rows.append([name, *(f"{values[cell]:,.{digits}f}" if cell in values else "" for cell in cells)])
    head = f"{'class token enters at':21}{'registers enter at':>{11 * len(grid.reg)}}"
    return "\n".join([head, *_aligned(rows, [-21] + [11] * len(grid.reg))])


def _effects(found: Findings, digits: int) -> str:
    rows = []
    for what, effects in zip(("class token at", "registers at"), found.effects):
        for place, effect in effects.items():
            name = f"{what} {place}" if isinstance(place, int) else place or "no registers"
            rows.append([name, _signed(effect.value, digits), f" ± {effect.half:.{digits}f}"])
    return "\n".join(
        ["main effects: a row's or column's mean less the mean of all cells (95 %)", *_aligned(rows, [-21, 11, 0])]
    )


def _contrasts(tested: Sequence[atlas.TestedContrast]) -> str:
    rows = [["contrast, percentage points", "estimate", "95 %", "p (Holm)", "   verdict"]]
    for one in tested:
        low, high = (_signed(one.estimate.value + side * one.estimate.half, 2) for side in (-1, 1))
        p = "< 0.001" if one.p < 0.001 else f"{one.p:.3f}"
        rows.append([one.name, _signed(one.estimate.value, 2), f"{low} to {high}", p, f"   {atlas.verdict(one)}"])
    return "\n".join(_aligned(rows, [-max(len(row[0]) for row in rows), 11, 18, 11, 0]))


def _sweep(found: Findings, name: str, digits: int) -> str:
    rows = [
        ["registers", *(str(cell.num_reg) for cell in found.sweep)],
        ["mean", *(f"{mean:,.{digits}f}" for mean in found.sweep.values())],
        ["M multiply–adds", *(f"{found.cost[cell] / 1e6:,.2f}" for cell in found.sweep)],
    ]
    lines = [f"{name}, by the number of registers there", *_aligned(rows, [-21] + [11] * len(found.sweep))]
    if found.slope:
        value, half = _signed(found.slope.value, digits + 1), f"{found.slope.half:.{digits + 1}f}"
        tested = f", p = {found.slope.p:.3f}" if found.tested else ""
        lines.append(f"± {found.sweep_surface.half:.{digits + 1}f} a cell (95 %)")
        lines.append(f"slope: {value} ± {half} a doubling of 1 + registers (95 %){tested}")
    return "\n".join(lines)


def _draw(grid: Grid, found: Findings, value: str):
    """The surface; for accuracies also what they cost."""
    from .. import figures

    best = found.best
    surface = {
        "values": [[found.mean.get(cell, math.nan) for cell in cells] for cells in _by_row(grid)],
        "rows": _names(grid.cls),
        "columns": _names(grid.reg),
        "half": found.surface.half if found.surface else None,
        "label": WORDS.get(value, value),
        "mark": (grid.cls.index(best.cls), grid.reg.index(best.reg)) if best else None,
        "digits": _digits(found.mean.values(), value),
    }
    if value not in ("accuracy", "held_out"):
        return figures.show_surface(**surface)
    kinds = {str(cell): "class token" if isinstance(cell.cls, int) else cell.cls for cell in found.mean}
    cost = {"points": found.points(), "front": found.front(), "kinds": kinds, "y": WORDS[value]}
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
    return 1 if value in SHARES else max(0, 2 - math.floor(math.log10(top or 1)))


def _aligned(rows: Iterable[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Lines of cells, to the left where a width is below 0."""
    lines = ("".join(f"{cell:{'<' if w < 0 else '>'}{abs(w)}}" for cell, w in zip(row, widths)) for row in rows)
    return [line.rstrip() for line in lines]


def _signed(value: float, digits: int) -> str:
    return f"{value:+,.{digits}f}".replace("-", "−")


def _command(what: str, args: Namespace) -> str:
    return f"dtl atlas {what} --grid {args.grid}" + (f" --records {shlex.quote(args.records)}" if args.records else "")
