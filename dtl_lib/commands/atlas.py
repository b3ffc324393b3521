"""`dtl atlas`: run a grid of places for the tokens, and draw what came of it."""

from argparse import Namespace
from pathlib import Path

from .. import atlas


def main(args: Namespace) -> None:
    """`dtl atlas run`, `dtl atlas show`."""
    (_run if args.what == "run" else _show)(args)


def _run(args: Namespace) -> None:
    grid = atlas.grids()[args.grid]
    done, command = atlas.read(grid, args.records), f"dtl atlas run --grid {args.grid}"
    jobs = atlas.missing(grid.cells(), grid.seeds, done)
    print(f"{args.grid}: {len(grid.cells())} cells × {len(grid.seeds)} seeds, {len(jobs)} runs left", flush=True)
    about = {"command": command, "workers": args.jobs, "weights": args.weights, "device": args.device}
    for record in atlas.run(grid, jobs, args.records, progress=not args.quiet, **about):
        if args.quiet:
            print(f"{record.what}, seed {record.seed}: {record.get('accuracy'):.2%}", flush=True)


def _show(args: Namespace) -> None:
    raise ValueError(f"not yet: {Path(args.records or '.')}")
