"""What follows up the atlas, for chapters 05 and 07: a second learning rate, longer training, a deeper model.

    python -m book.experiments.atlas_followup rate --jobs 2
    python -m book.experiments.atlas_followup length --jobs 2
    python -m book.experiments.atlas_followup depth --jobs 2

`rate` runs the `cpu` grid's surface at half its learning rate (72 runs, two and a half core-hours). `length` trains the
class token at 0 and at 4 for 1, 3 and 10 epochs: both rates with two seeds, then the rate with the higher held-out
accuracy with three more (42 runs, seven core-hours). `depth` has twelve blocks and enters at 0, 3, 6 and 9 (20 runs,
two core-hours). Predictions and analysis are in `book/predictions.md`. A run that has a record is not repeated, so an
interrupted command continues where it stopped.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

from dtl_lib import ledger
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import followup
from dtl_lib.lab.atlas.grid import Grid


def rate(run) -> Iterator[ledger.Record]:
    """The second learning rate."""
    yield from run(followup.half_rate())


def length(run) -> Iterator[ledger.Record]:
    """The shorter first. `run(grid)` makes a grid's missing runs; its records are read where it puts them."""
    for epochs in followup.EPOCHS:
        by_rate = followup.lengths(epochs)
        for grid in by_rate.values():
            yield from run(replace(grid, seeds=followup.CHOOSING))
        records = {rate: run.read(grid) for rate, grid in by_rate.items()}
        for cell, rate in followup.better_rates(records, followup.CHOOSING).items():
            yield from run(replace(by_rate[rate], cls=(cell.cls,)))


def depth(run) -> Iterator[ledger.Record]:
    """The deep model; every place's first seed before any place's second."""
    yield from run(followup.deep())


class Runner:
    """Makes a grid's missing runs.

    Args:
        command: what to type for the same.
        jobs: runs beside each other.
        folder: where the records go; the library's ledger where None.
    """

    def __init__(self, command: str, jobs: int, folder: str | None):
        self.command, self.jobs, self.folder = command, jobs, folder

    def __call__(self, grid: Grid) -> Iterator[ledger.Record]:
        atlas.drop_partial_record(grid, self.folder)
        return atlas.run(grid, self.folder, command=self.command, jobs=self.jobs, device="cpu", progress=False)

    def read(self, grid: Grid):
        """The records that a grid has."""
        return atlas.read(grid, self.folder)


STUDIES = {study.__name__: study for study in (rate, length, depth)}


def main(arguments: list[str] | None = None) -> None:
    """The runs of a study that have no record yet, a line each."""
    parser = argparse.ArgumentParser(
        prog="python -m book.experiments.atlas_followup", description=__doc__.splitlines()[0]
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other (default: 1)")
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    options = parser.parse_args(arguments)
    command = f"python -m book.experiments.atlas_followup {options.study}"
    for record in STUDIES[options.study](Runner(command, options.jobs, options.folder)):
        what = f"{record.experiment}: {record.what}, seed {record.seed}"
        print(f"{what}: {record.get('accuracy'):.1%}, {record.get('seconds'):.0f} s", flush=True)


if __name__ == "__main__":
    main()
