"""What follows up the atlas, for chapters 05 and 07: another rate, longer training, a deeper model, a larger one.

    python -m book.experiments.atlas_followup rate --jobs 2
    python -m book.experiments.atlas_followup length --jobs 2
    python -m book.experiments.atlas_followup depth --jobs 2

`rate` runs the `cpu` grid's surface at half its learning rate (72 runs, two and a half core-hours). `length` trains the
class token at 0 and at 4 for 1, 3 and 10 epochs: both rates with two seeds, then the rate with the higher held-out
accuracy with three more (42 runs, seven core-hours). `depth` has twelve blocks and enters at 0, 3, 6 and 9 (20 runs,
two core-hours). `large` has twelve blocks of width 192 on CIFAR-10, both rates with two seeds and the better one with
three more (28 runs). `python -m book.experiments.gpu` makes `large`, and in minutes `rate` and `length`. Predictions
and analysis are in `book/predictions.md`. A run that has a record is not repeated, so an interrupted command continues
where it stopped.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import torch

from dtl_lib import ledger
from dtl_lib.data import load
from dtl_lib.data.images import Sets
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import followup
from dtl_lib.lab.atlas.grid import Cell, Grid
from dtl_lib.lab.atlas.train_cell import fresh, measured

from .stacked import fit_all
from .study import Run, Study


def rate(run) -> Iterator[ledger.Record]:
    """The second learning rate."""
    yield from run(followup.half_rate())


def length(run) -> Iterator[ledger.Record]:
    """The shorter first. `run(grid)` makes a grid's missing runs; its records are read where it puts them."""
    for epochs in followup.EPOCHS:
        yield from at_two_rates(run, followup.lengths(epochs))


def depth(run) -> Iterator[ledger.Record]:
    """The deep model; every place's first seed before any place's second."""
    yield from run(followup.deep())


def large(run) -> Iterator[ledger.Record]:
    """The model of the `gpu` grid, in minutes."""
    yield from at_two_rates(run, followup.large())


def at_two_rates(run, by_rate: dict[float, Grid]) -> Iterator[ledger.Record]:
    """Every place at both rates with two seeds, then the other seeds at each place's better rate."""
    for grid in by_rate.values():
        yield from run(replace(grid, seeds=followup.CHOOSING))
    chosen = followup.better_rates({rate: run.read(grid) for rate, grid in by_rate.items()}, followup.CHOOSING)
    for rate, grid in by_rate.items():
        if places := tuple(cell.cls for cell in grid.cells() if chosen[cell] == rate):
            yield from run(replace(grid, cls=places))


def on_a_gpu() -> tuple[Study, ...]:
    """`length` and `rate` as studies whose seeds are trained as one; all five of `length` at both rates."""
    grids = [grid for epochs in reversed(followup.EPOCHS) for grid in followup.lengths(epochs).values()]
    return tuple(study_of(grid, "length") for grid in grids) + (study_of(followup.half_rate(), "rate"),)


def study_of(grid: Grid, name: str) -> Study:
    """A grid's surface as a study of the same records."""
    runs = tuple(
        Run(str(cell), seed, cell.config(grid.config), replace(grid.recipe, seed=seed))
        for cell in grid.cells()
        for seed in grid.seeds
    )
    command = f"python -m book.experiments.atlas_followup {name}"
    return Study(grid.experiment, command, runs, partial(one_cell, grid), 0, partial(one_stack, grid))


def one_cell(grid: Grid, run: Run, device: str) -> dict:
    """The values of a run's record."""
    return one_stack(grid, [run], device)[0]


def one_stack(grid: Grid, runs: Sequence[Run], device: str) -> list[dict]:
    """The values of the records of runs of one cell, trained as one; in float32, as on a CPU, on a GPU, too."""
    torch.backends.cudnn.allow_tf32 = False
    cell, sets = Cell.from_config(runs[0].config), _sets(grid.data, grid.data_path)
    models = [fresh(grid, cell, run.seed) for run in runs]
    results = fit_all(models, sets, [replace(run.recipe, amp="off") for run in runs], device)
    data = {"data": [int(part.fingerprint(), 16) for part in (sets.train, sets.held_out, sets.test)]}
    return [measured(*each, run.recipe, sets) | data for *each, run in zip(models, results, runs)]


@cache
def _sets(name: str, path: str | None) -> Sets:
    """The images of a grid, once in a process."""
    return load(name, path)


class Runner:
    """Makes a grid's missing runs.

    Args:
        command: what to type for the same.
        jobs: runs beside each other.
        folder: where the records go; the library's ledger where None.
        device: as in `fit`.
    """

    def __init__(self, command: str, jobs: int, folder: str | None, device: str = "cpu"):
        self.command, self.jobs, self.folder, self.device = command, jobs, folder, device

    def __call__(self, grid: Grid) -> Iterator[ledger.Record]:
        atlas.drop_partial_record(grid, self.folder)
        return atlas.run(grid, self.folder, command=self.command, jobs=self.jobs, device=self.device, progress=False)

    def read(self, grid: Grid):
        """The records that a grid has."""
        return atlas.read(grid, self.folder)


STUDIES = {study.__name__: study for study in (rate, length, depth, large)}


def main(arguments: list[str] | None = None) -> None:
    """The runs of a study that have no record yet, a line each."""
    parser = argparse.ArgumentParser(
        prog="python -m book.experiments.atlas_followup", description=__doc__.splitlines()[0]
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other (default: 1)")
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    parser.add_argument("--device", default="cpu", help="as in dtl train (default: cpu)")
    options = parser.parse_args(arguments)
    command = f"python -m book.experiments.atlas_followup {options.study}"
    for record in STUDIES[options.study](Runner(command, options.jobs, options.folder, options.device)):
        what = f"{record.experiment}: {record.what}, seed {record.seed}"
        print(f"{what}: {record.get('accuracy'):.1%}, {record.get('seconds'):.0f} s", flush=True)


if __name__ == "__main__":
    main()
