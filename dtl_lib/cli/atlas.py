"""`dtl atlas`: train a grid of places for the tokens, and print what came of it."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from .. import ledger
from ..host import find_device
from .atlas_grid import (
    EXPERIMENT,
    add_own_grid,
    asked_grid,
    check_same_data,
    command_of,
    has_own,
    own_flags,
    recorded_grid,
)
from .atlas_output import paragraphs
from .parser import Parser, positive
from .shared_flags import add_device

if TYPE_CHECKING:
    from ..data import Sets
    from ..lab.atlas import Grid

SUMMARY = "Train a ViT for each choice of entry blocks in a grid, and show the results."
NAMED, OWN = ("cpu", "gpu"), "own"
RUN, SHOW = ("weights", "jobs", "device", "quiet"), ("value", "figure")
FORMATS = (".png", ".pdf", ".svg")
EXAMPLE = "--depth 4 --cls 0,2,none --seeds 0,1"


def flags(parser: Parser) -> None:
    """Run or show; which grid, and the flags of either."""
    parser.add_argument(
        "what", choices=("run", "show"), help="run: train every cell that has no record yet; show: print the results"
    )
    default = "own where such a flag is given, or --records holds its runs; else cpu"
    which = f"cpu or gpu, which are fixed, or own: the one that the flags below describe (default: {default})"
    parser.add_argument("--grid", choices=(*NAMED, OWN), help=which)
    where = "folder of the records (default: the ledger's own, for cpu and gpu alone)"
    parser.add_argument("--records", "--output-dir", metavar="DIR", help=where)
    training = parser.add_argument_group("dtl atlas run")
    training.add_argument("--weights", metavar="DIR", help="save the weights of every run in DIR")
    training.add_argument("--jobs", type=positive, metavar="N", help="runs in parallel (default: 1)")
    add_device(training)
    training.add_argument("--quiet", action="store_true", help="print a line for each run instead of a progress bar")
    shown = parser.add_argument_group("dtl atlas show")
    shown.add_argument("--value", metavar="NAME", help="which recorded value to show (default: accuracy)")
    shown.add_argument("--figure", metavar="FILE", help="also draw a figure, as .png, .pdf or .svg")
    add_own_grid(parser)


def main(args: Namespace) -> None:
    """`dtl atlas run`, `dtl atlas show`."""
    other, unused = ("show", SHOW) if args.what == "run" else ("run", RUN)
    wrong = [f"--{name}" for name in unused if getattr(args, name)]
    if wrong := wrong or (own_flags(args) if args.what == "show" else []):
        raise ValueError(f"{wrong[0]} is a flag of dtl atlas {other}: leave it out")
    args.grid = _which(args)
    if args.grid == OWN and not args.records:
        raise ValueError("say which folder the records of your own grid are in: --records DIR")
    (_run if args.what == "run" else _show)(args)


def _which(args: Namespace) -> str:
    """The name of the grid that is meant."""
    mine = own_flags(args)
    if args.grid in NAMED and mine:
        raise ValueError(f"the grid {args.grid} is fixed, and {mine[0]} describes one of your own: leave one out")
    if args.grid or mine:
        return args.grid or OWN
    if not has_own(args.records):
        return "cpu"
    from ..lab import atlas

    if both := [name for name in NAMED if name in (grids := atlas.grids()) and _holds(grids[name], args.records)]:
        raise ValueError(f"{args.records} holds records of {both[0]} and of your own grid: say which, --grid NAME")
    return OWN


def _holds(grid: Grid, folder: str) -> bool:
    return ledger.path(grid.experiment, folder).is_file()


def _run(args: Namespace) -> None:
    from ..lab import atlas
    from ..lab.atlas.run import mend

    asked = asked_grid(args) if own_flags(args) else None
    find_device(args.device)
    experiment = EXPERIMENT if args.grid == OWN else atlas.grids()[args.grid].experiment
    ledger.check_writable(experiment, args.records)
    if repaired := mend(ledger.path(experiment, args.records)):
        print(repaired)
    grid, command, about = _own(asked, args.records) if args.grid == OWN else _named(args.grid)
    records = atlas.read(grid, args.records)
    left, total = atlas.count_runs(grid, records)
    print(f"{args.grid}: {_size(grid)}: {left} of {total} runs left{_others(grid, records)}{about}", flush=True)
    progress = not args.quiet and sys.stdout.isatty()
    options = {"jobs": args.jobs or 1, "weights": args.weights, "device": args.device, "progress": progress}
    with closing(atlas.run(grid, args.records, command=command, **options)) as made:
        for count, record in enumerate(made, 1):
            if not progress:
                what = f"{record.what}, seed {record.seed}: {record.get('accuracy'):.2%}"
                print(f"{what}, {record.get('seconds'):.0f} s; {left - count} of {total} runs left", flush=True)
    print(f"complete; for the results: {_command('show', args)}")


def _named(name: str) -> tuple[Grid, str, str]:
    """Grid, command for its records, and what is said of it."""
    from ..lab import atlas

    return atlas.grids()[name], f"dtl atlas run --grid {name}", ""


def _own(asked: tuple[Grid, Sets] | None, folder: str) -> tuple[Grid, str, str]:
    """The same of the grid that the flags describe, or without flags of the one that has been begun."""
    if asked:
        grid, sets = asked
        check_same_data(grid, folder)
    elif grid := recorded_grid(folder):
        sets = grid.sets()
    else:
        raise ValueError(f"{folder} holds no records of your own grid yet: say which, such as {EXAMPLE}")
    steps, images = grid.recipe.steps(len(sets.train)), grid.recipe.batch_size
    return grid, command_of(grid), f"\n{sets.describe()}; {steps:,} steps of {images} images a run"


def _show(args: Namespace) -> None:
    from ..lab import atlas
    from ..lab.atlas.draw import PERCENTAGES
    from ..lab.atlas.run import half_record

    if args.figure and Path(args.figure).suffix not in FORMATS:
        raise ValueError(f"--figure is a file that ends in {', '.join(FORMATS)}, not {args.figure!r}")
    own = args.grid == OWN
    experiment = EXPERIMENT if own else atlas.grids()[args.grid].experiment
    if half := half_record(ledger.path(experiment, args.records)):
        raise ValueError(f"{half}, as a run leaves that dies while it writes: {_command('run', args)} repeats it")
    grid = recorded_grid(args.records) if own else atlas.grids()[args.grid]
    records, value = atlas.read(grid, args.records) if grid else {}, args.value or "accuracy"
    if not records:
        path = ledger.path(experiment, args.records)
        raise ValueError(f"{path} holds no records yet: run {_command('run', args)}{' …' * own}")
    if value not in (names := atlas.value_names(records.values())):
        raise ValueError(f"the records have no value {value!r}; they have {', '.join(names)}")
    findings = atlas.find(grid, records, value, 100.0 if value in PERCENTAGES else 1.0)
    left, total = atlas.count_runs(grid, records)
    also = f"{_others(grid, records)}\n{command_of(grid)}" if own else ""
    print(f"{args.grid}: {_size(grid)}: {total - left} of {total} runs are recorded, {left} missing{also}\n")
    print("\n\n".join(paragraphs(grid, findings, value, registered=not own)))
    if args.figure:
        atlas.draw(grid, findings, value, registered=not own).savefig(args.figure)
        print(f"\nfigure saved in {args.figure}")


def _size(grid: Grid) -> str:
    surface = f"{len(grid.cls)} × {len(grid.reg)} places × {len(grid.seeds)} seed{'s' * (len(grid.seeds) > 1)}"
    numbers = ", ".join(map(str, grid.sweep))
    return f"{surface}, then {numbers} registers at the best" if numbers else surface


def _others(grid: Grid, records) -> str:
    """How many records are of no run of the grid; the sweep's are where it has one."""
    cells = set(grid.cells())
    others = 0 if grid.sweep else sum(cell not in cells or seed not in grid.seeds for cell, seed in records)
    return f"; {others} recorded runs of other places or seeds are left out" if others else ""


def _command(what: str, args: Namespace) -> str:
    return f"dtl atlas {what} --grid {args.grid}" + (f" --records {shlex.quote(args.records)}" if args.records else "")
