"""Statistics of an atlas's records: cells, main effects and contrasts, with intervals pooled over all cells' seeds.

Three seeds alone cannot resolve a cell. Every run is taken as cell + seed + noise, least squares, and the noise's
variance is estimated from the residuals of all runs: (cells − 1) × (seeds − 1) degrees of freedom. That is the analysis
that the book's predictions registered. It takes the noise of a seed's runs for independent, which it is not: `strata`
has the intervals that hold.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...ledger import Record
from .contrasts import Contrast
from .grid import POOLING, Cell, Job

LEVEL = 0.95
ALPHA = 0.05  # of Holm's procedure


@dataclass(frozen=True)
class Level:
    """A value over the cells; a subclass's `estimate(weights)` says how well a weighted sum of them is known.

    Attributes:
        mean: of each cell, over seeds.
        seeds: of the runs of every cell.
    """

    mean: dict[Cell, float]
    seeds: tuple[int, ...]

    def effect(self, cells: Sequence[Cell], among: Sequence[Cell] | None = None) -> "Estimate":
        """How far the mean of `cells` lies from the mean of all cells (or of `among`)."""
        among = list(self.mean) if among is None else among
        return self.estimate({cell: (cell in cells) / len(cells) - 1 / len(among) for cell in among})


@dataclass(frozen=True)
class Surface(Level):
    """A value over the cells, analysed as registered: all noise taken for independent.

    Attributes:
        deviation: the pooled standard deviation of a run, once cell and seed are taken out.
        freedom: its degrees of freedom.
    """

    deviation: float
    freedom: int

    @property
    def half(self) -> float:
        """Half of the 95 % interval of one cell's mean against the others of the same seeds."""
        return quantile(self.freedom) * self.deviation / math.sqrt(len(self.seeds))

    def estimate(self, weights: Mapping[Cell, float]) -> "Estimate":
        """A weighted sum of cells' means; weights that sum to 0 leave the seeds' own differences out."""
        value = math.fsum(weight * self.mean[cell] for cell, weight in weights.items())
        error = self.deviation * math.sqrt(math.fsum(w**2 for w in weights.values()) / len(self.seeds))
        return Estimate(value, error, self.freedom)


@dataclass(frozen=True)
class Estimate:
    """A difference with its standard error and degrees of freedom."""

    value: float
    error: float
    freedom: float

    @property
    def half(self) -> float:
        """Half of the 95 % interval (Student's t)."""
        return quantile(self.freedom) * self.error

    @property
    def p(self) -> float:
        """The probability of a difference at least as large if there were none (two-sided t test)."""
        from scipy.stats import t

        return float(2 * t.sf(abs(self.value) / self.error, self.freedom)) if self.error else float(self.value == 0)


@dataclass(frozen=True)
class TestedContrast:
    """A contrast's estimate; `p` is corrected by Holm's procedure over all contrasts tested together."""

    name: str
    estimate: Estimate
    p: float


def number(record: Record, name: str) -> float | None:
    """One of a record's values, or `norm_ratio`; None where the record has no such number.

    `norm_ratio` is what `probes.norms.norm_ratio` says about the trunk's last block, from the recorded quantiles.
    """
    if name == "norm_ratio":
        high, median = (record.values.get(quantile) for quantile in ("norm_98", "norm_50"))
        return high[-1] / median[-1] if high and median else None
    value = record.values.get(name)
    return None if isinstance(value, list) else value


def value_names(records: Iterable[Record]) -> list[str]:
    """The names for which `number` has a value in at least one of the records."""
    names = dict.fromkeys(name for record in records for name in (*record.values, "norm_ratio"))
    return [name for name in names if any(number(record, name) is not None for record in records)]


def means(
    records: Mapping[Job, Record], value: str = "accuracy", scale: float = 1.0, *, cells: Iterable[Cell] | None = None
) -> dict[Cell, float]:
    """Each cell's mean over the seeds that are there; a cell without the value is left out. Args: as in `surface`."""
    by_cell: dict[Cell, list[float]] = {cell: [] for cell in (_cells(records) if cells is None else cells)}
    for (cell, _), record in records.items():
        if cell in by_cell and (recorded := number(record, value)) is not None:
            by_cell[cell].append(scale * recorded)
    return {cell: math.fsum(values) / len(values) for cell, values in by_cell.items() if values}


def surface(
    records: Mapping[Job, Record], value: str = "accuracy", scale: float = 1.0, *,
    cells: Sequence[Cell] | None = None, seeds: Sequence[int] | None = None,
) -> Surface:  # fmt: skip
    """The surface of a value over cells that have every seed.

    Args:
        records: by cell and seed.
        value: a name that `number` knows.
        scale: what to multiply it by: 100 for points.
        cells: which, such as `grid.cells()`; those of the records where None.
        seeds: which; those of the records where None.

    Raises:
        ValueError: where a run is missing: which, and how to run it; where a record has no such number.
    """
    cells = _cells(records) if cells is None else list(cells)
    seeds = tuple(sorted({seed for _, seed in records} if seeds is None else seeds))
    if missing := [(cell, seed) for seed in seeds for cell in cells if (cell, seed) not in records]:
        cell, seed = missing[0]
        raise ValueError(f"{len(missing)} runs are missing, such as {cell}, seed {seed}: dtl atlas run continues")
    if len(cells) < 2 or len(seeds) < 2:
        raise ValueError(f"{len(cells)} cells × {len(seeds)} seeds have no spread: at least two of each are needed")
    runs = {(cell, seed): number(records[cell, seed], value) for cell in cells for seed in seeds}
    if without := [job for job, recorded in runs.items() if recorded is None]:
        raise ValueError(f"{without[0][0]}, seed {without[0][1]}, has no {value}: leave such cells out")
    runs = {job: scale * recorded for job, recorded in runs.items()}
    mean = {cell: math.fsum(runs[cell, seed] for seed in seeds) / len(seeds) for cell in cells}
    seed_mean = {seed: math.fsum(runs[cell, seed] for cell in cells) / len(cells) for seed in seeds}
    grand_mean = math.fsum(mean.values()) / len(cells)
    residuals = [runs[c, s] - mean[c] - seed_mean[s] + grand_mean for c in cells for s in seeds]
    freedom = (len(cells) - 1) * (len(seeds) - 1)
    return Surface(mean, seeds, math.sqrt(math.fsum(r**2 for r in residuals) / freedom), freedom)


def tested_contrasts(surface: Level, contrasts: Sequence[Contrast]) -> list[TestedContrast]:
    """Every contrast, in the order given, with p-values corrected by Holm's step-down procedure."""
    estimates = [surface.estimate(contrast.weights) for contrast in contrasts]
    order, corrected, least = sorted(range(len(estimates)), key=lambda at: estimates[at].p), {}, 0.0
    for rank, at in enumerate(order):
        least = max(least, min(1.0, estimates[at].p * (len(estimates) - rank)))
        corrected[at] = least
    return [TestedContrast(contrast.name, estimates[at], corrected[at]) for at, contrast in enumerate(contrasts)]


def verdict(tested: TestedContrast, point: float = 1.0) -> str:
    """Whether a difference is found, small, both or neither, in the words of the book's predictions.

    Args:
        tested: a contrast of a surface in percentage points.
        point: the difference below which it is small.
    """
    verdicts = []
    if tested.p < ALPHA:
        verdicts.append("found")
    if abs(tested.estimate.value) + tested.estimate.half < point:
        verdicts.append("smaller than a point")
    return ", ".join(verdicts) or "cannot tell"


def main_effects(surface: Level) -> tuple[dict[int | str, Estimate], dict[int | None, Estimate]]:
    """How far each place of the class token, and each of the registers, lies from the mean of all cells."""
    cells = list(surface.mean)
    by_cls = {cls: surface.effect([cell for cell in cells if cell.cls == cls]) for cls in _unique(c.cls for c in cells)}
    by_reg = {reg: surface.effect([cell for cell in cells if cell.reg == reg]) for reg in _unique(c.reg for c in cells)}
    return by_cls, by_reg


def pareto(points: Mapping[Any, Sequence[float]]) -> list:
    """The names of the points that no other beats in cost and accuracy, the cheapest first.

    Args:
        points: name → (cost, accuracy, …); a point beats another that is no better in either and worse in one.
    """

    def beaten(cost: float, accuracy: float) -> bool:
        others = ((other[0], other[1]) for other in points.values())
        return any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in others)

    front = [name for name, (cost, accuracy, *_) in points.items() if not beaten(cost, accuracy)]
    return sorted(front, key=lambda name: points[name][0])


def best(level: Level) -> Cell | None:
    """The cell with registers and a class token whose mean is highest: of held-out accuracy, never of the test's.

    None where no cell has both.
    """
    choices = [cell for cell in level.mean if cell.reg is not None and cell.cls != POOLING]
    return max(choices, key=level.mean.get, default=None)


def slope(
    records: Mapping[Job, Record], value: str = "accuracy", scale: float = 1.0, *,
    cells: Sequence[Cell] | None = None, seeds: Sequence[int] | None = None,
) -> Estimate:  # fmt: skip
    """Change of a value from one doubling of (1 + registers) to the next, least squares, seeds taken out.

    Args: as in `surface`, of the sweep.
    """
    level = surface(records, value, scale, cells=cells, seeds=seeds)
    x = {cell: math.log2(1 + cell.num_reg) for cell in level.mean}
    centre = math.fsum(x.values()) / len(x)
    spread = math.fsum((at - centre) ** 2 for at in x.values())
    return level.estimate({cell: (at - centre) / spread for cell, at in x.items()})


def _cells(records: Mapping[Job, Record]) -> list[Cell]:
    return _unique(cell for cell, _ in records)


def _unique(values: Iterable) -> list:
    return list(dict.fromkeys(values))


@cache
def quantile(freedom: float) -> float:
    """How many standard errors reach to the end of a 95 % interval (Student's t)."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))
