"""What follows up the `cpu` grid: a second learning rate, longer training, a deeper model, a larger one on a GPU.

The grids, and the numbers that the book's predictions ask of them. Seeds are the replicates: runs of one seed
share weights and the order of the images, so everything is paired by seed. Where versions of PyTorch draw other weights
from a seed (`begin_alike`), a mean of differences by seed still has a valid interval, if a longer one; a noise that is
pooled over rows has not, unless it is that of `Strata.unpaired`.
"""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ...config import named
from ...data.shapes import generator as shapes
from ...ledger import Record
from ...train.recipe import Recipe
from .analysis import Estimate
from .grid import NEVER, Cell, Grid, Job, grids
from .run import missing, read

RATES = 2e-3, 1e-3  # the atlas's own, and half of it
EPOCHS = 1, 3, 10
PLACES = 0, 4  # of the class token, where length is varied
SEEDS = tuple(range(5))
CHOOSING = 0, 1  # seeds by which a place's rate is chosen
SAME_DRAWS_SINCE = 2, 14  # of PyTorch; what `trunc_normal_` draws from a seed has changed between 2.11 and this
LARGE_RATES = 1e-3, 5e-4
LARGE_PLACES = 0, 3, 6, 9


def half_rate() -> Grid:
    """The `cpu` grid's surface at half its learning rate."""
    grid = grids()["cpu"]
    return replace(grid, experiment="atlas_half_rate", recipe=replace(grid.recipe, lr=RATES[1]), sweep=())


def lengths(epochs: float) -> dict[float, Grid]:
    """The class token at 0 and at 4 for so many epochs, a grid for each learning rate."""
    grid, made = grids()["cpu"], {}
    for rate, name in zip(RATES, ("", "_half_rate")):
        recipe = replace(grid.recipe, max_steps=None, epochs=epochs, lr=rate, eval_every=NEVER)
        experiment = f"atlas_{epochs:g}_epochs{name}"
        made[rate] = replace(grid, experiment=experiment, recipe=recipe, cls=PLACES, reg=(None,), sweep=(), seeds=SEEDS)
    return made


def deep() -> Grid:
    """Twelve blocks on `shapes`, the class token at 0, 3, 6 and 9: the zoo's recipe, with more seeds."""
    config = replace(named("vit_shapes_patch8_32"), patch_size=4, depth=12, plan=None, mean=shapes.MEAN, std=shapes.STD)
    recipe = Recipe(max_steps=1200, batch_size=32, lr=1e-3, warmup_steps=100, eval_every=1200, log_every=100)
    return Grid("atlas_deep", "shapes", config, recipe, (0, 3, 6, 9), (None,), sweep=(), seeds=SEEDS)


def large() -> dict[float, Grid]:
    """The model of the `gpu` grid in ten epochs of large batches, without registers; a grid for each rate."""
    grid, made = grids()["gpu"], {}
    for rate, name in zip(LARGE_RATES, ("", "_half_rate")):
        recipe = replace(
            grid.recipe, epochs=10, batch_size=512, lr=rate, warmup_epochs=1, trivial=False, smoothing=0.0
        )  # fmt: skip
        places = {"cls": LARGE_PLACES, "reg": (None,), "sweep": (), "seeds": SEEDS}
        made[rate] = replace(grid, experiment=f"atlas_large{name}", recipe=recipe, **places)
    return made


def better_rates(
    by_rate: Mapping[float, Mapping[Job, Record]], seeds: Sequence[int] | None = None
) -> dict[Cell, float]:
    """The learning rate of each cell whose held-out accuracy is higher, mean over seeds; the first where they tie.

    Args:
        by_rate: rate → records by cell and seed.
        seeds: to choose by; those that a cell has at every rate where None.

    Raises:
        ValueError: where a cell lacks such runs at one of the rates: which.
    """
    chosen = {}
    for cell in dict.fromkeys(cell for records in by_rate.values() for cell, _ in records):
        at = {rate: {seed for other, seed in records if other == cell} for rate, records in by_rate.items()}
        used = set.intersection(*at.values()) if seeds is None else set(seeds)
        if not used or any(used - there for there in at.values()):
            raise ValueError(f"{cell}: both rates need runs of the same seeds: the command that makes them continues")
        means = {
            rate: statistics.fmean(records[cell, seed].get("held_out") for seed in sorted(used))
            for rate, records in by_rate.items()
        }
        chosen[cell] = max(means, key=means.get)
    return chosen


def at_better_rate(
    by_rate: Mapping[float, Mapping[Job, Record]], seeds: Sequence[int] | None = None
) -> dict[Job, Record]:
    """The records of every cell at its better rate. Args and errors: as in `better_rates`."""
    chosen = better_rates(by_rate, seeds)
    return {(cell, seed): record for rate, records in by_rate.items() for (cell, seed), record in records.items()
            if chosen[cell] == rate}  # fmt: skip


def surface_at_better_rate(folder=None) -> dict[Job, Record]:
    """The `cpu` grid's surface, each cell at the better of its two rates; empty until both rates have every run."""
    grid, by_rate = grids()["cpu"], {}
    for rate, other in zip(RATES, (grid, half_rate())):
        records = read(other, folder)
        if missing(grid.cells(), grid.seeds, records):
            return {}
        by_rate[rate] = {job: record for job, record in records.items() if job[0] in grid.cells()}  # not the sweep's
    return at_better_rate(by_rate, grid.seeds)


def begin_alike(records: Iterable[Record]) -> bool:
    """Whether runs of one seed began with the same weights, by the PyTorch that made them; a doubt is a no."""
    draws: dict[int | None, set] = {}
    for record in records:
        version = tuple(map(int, re.findall(r"\d+", record.torch)[:2]))
        draws.setdefault(record.seed, set()).add(min(version, SAME_DRAWS_SINCE))
    return all(len(versions) == 1 for versions in draws.values())


def length_records(epochs: float, folder=None) -> dict[Job, Record]:
    """The runs of a length, each place at its own rate."""
    by_rate = {rate: read(grid, folder) for rate, grid in lengths(epochs).items()}
    return at_better_rate(by_rate, CHOOSING)


def late_minus_early(records: Mapping[Job, Record], value: str = "accuracy", scale: float = 100.0) -> dict[int, float]:
    """The class token at 4 less the class token at 0, by seed; in points unless `scale` says otherwise."""
    early, late = (
        {seed: record.get(value) for (cell, seed), record in records.items() if cell.cls == place} for place in PLACES
    )
    return {seed: scale * (late[seed] - early[seed]) for seed in sorted(early.keys() & late.keys())}


def gain_with_length(short: Mapping[int, float], long: Mapping[int, float]) -> Estimate:
    """(late − early after the longer training) − (late − early after the shorter), paired by seed.

    Args:
        short, long: of `late_minus_early`.

    Raises:
        ValueError: where fewer than two seeds have all four runs.
    """
    return over_seeds([long[seed] - short[seed] for seed in sorted(short.keys() & long.keys())])


def trend(records: Mapping[Job, Record], value: str = "accuracy", scale: float = 100.0) -> Estimate:
    """The slope of a value against the class token's entry block, a block: least squares per seed, t over seeds.

    Args:
        records: by cell and seed; seeds that lack one of the cells are left out.
        value, scale: what, and what to multiply it by: 100 for points.

    Raises:
        ValueError: where fewer than two seeds have every cell.
    """
    cells = list(dict.fromkeys(cell for cell, _ in records))
    whole = [seed for seed in sorted({seed for _, seed in records}) if all((cell, seed) in records for cell in cells)]
    blocks = [cell.cls for cell in cells]
    slopes = [
        statistics.linear_regression(blocks, [scale * records[cell, seed].get(value) for cell in cells]).slope
        for seed in whole
    ]
    return over_seeds(slopes)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one number a seed, with its standard error: Student's t over seeds.

    Raises:
        ValueError: for fewer than two.
    """
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs at least two, not {len(values)}: the command continues")
    error = statistics.stdev(values) / len(values) ** 0.5
    return Estimate(statistics.fmean(values), error, len(values) - 1)
