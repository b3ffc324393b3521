"""What an atlas's records say: cells, main effects and contrasts, with intervals from the seeds of all cells together.

Three seeds alone cannot resolve a cell. Every run is taken as cell + seed + noise, least squares, and the noise's
variance is estimated from the residuals of all runs: (cells − 1) × (seeds − 1) degrees of freedom.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...ledger import Record
from .contrasts import Contrast
from .grid import POOLING, Cell, Job

LEVEL = 0.95
ALPHA = 0.05  # of Holm's procedure


@dataclass(frozen=True)
class Surface:
    """A value over the cells.

    Attributes:
        mean: of each cell, over seeds.
        seeds: which.
        deviation: the pooled standard deviation of a run, once cell and seed are taken out.
        freedom: its degrees of freedom.
    """

    mean: dict[Cell, float]
    seeds: tuple[int, ...]
    deviation: float
    freedom: int

    @property
    def half(self) -> float:
        """Half of the 95 % interval of one cell's mean against the others of the same seeds."""
        return _quantile(self.freedom) * self.deviation / math.sqrt(len(self.seeds))

    def estimate(self, weights: Mapping[Cell, float]) -> "Estimate":
        """A weighted sum of cells' means; weights that sum to 0 leave the seeds' own differences out."""
        value = math.fsum(weight * self.mean[cell] for cell, weight in weights.items())
        error = self.deviation * math.sqrt(math.fsum(w**2 for w in weights.values()) / len(self.seeds))
        return Estimate(value, error, self.freedom)

    def effect(self, cells: Sequence[Cell], among: Sequence[Cell] | None = None) -> "Estimate":
        """How far the mean of `cells` lies from the mean of all cells (or of `among`)."""
        among = list(self.mean) if among is None else among
        return self.estimate({cell: (cell in cells) / len(cells) - 1 / len(among) for cell in among})


@dataclass(frozen=True)
class Estimate:
    """A difference with its standard error and degrees of freedom."""

    value: float
    error: float
    freedom: int

    @property
    def half(self) -> float:
        """Half of the 95 % interval (Student's t)."""
        return _quantile(self.freedom) * self.error

    @property
    def p(self) -> float:
        """How often a difference as large would be seen if there were none."""
        from scipy.stats import t

        return float(2 * t.sf(abs(self.value) / self.error, self.freedom)) if self.error else float(self.value == 0)


@dataclass(frozen=True)
class Tested:
    """A contrast's estimate; `p` is Holm's, over all contrasts tested together."""

    name: str
    estimate: Estimate
    p: float


def number(record: Record, name: str) -> float | None:
    """One of a record's values, or `norm_ratio`; None where the record has no such number."""
    if name == "norm_ratio":
        return norm_ratio(record) if "norm_98" in record.values else None
    found = record.values.get(name)
    return None if isinstance(found, list) else found


def numbers(records: Iterable[Record]) -> list[str]:
    """The names that `number` finds in at least one of the records."""
    names = dict.fromkeys(name for record in records for name in (*record.values, "norm_ratio"))
    return [name for name in names if any(number(record, name) is not None for record in records)]


def norm_ratio(record: Record) -> float:
    """The 98th percentile of the patch tokens' lengths over their median, after the trunk's last block.

    Far above 1 where a few tokens are of another kind (Vision Transformers Need Registers, §2.1).
    """
    return record.values["norm_98"][-1] / record.values["norm_50"][-1]


def means(
    records: Mapping[Job, Record], value: str = "accuracy", scale: float = 1.0, *, cells: Iterable[Cell] | None = None
) -> dict[Cell, float]:
    """Each cell's mean over the seeds that are there; a cell without the value is left out. Args: as in `surface`."""
    found: dict[Cell, list[float]] = {cell: [] for cell in (_cells(records) if cells is None else cells)}
    for (cell, _), record in records.items():
        if cell in found and (seen := number(record, value)) is not None:
            found[cell].append(scale * seen)
    return {cell: math.fsum(seen) / len(seen) for cell, seen in found.items() if seen}


def surface(
    records: Mapping[Job, Record], value: str = "accuracy", scale: float = 1.0, *,
    cells: Sequence[Cell] | None = None, seeds: Sequence[int] | None = None,
) -> Surface:  # fmt: skip
    """The surface of a value over cells that have every seed.

    Args:
        records: by cell and seed.
        value: a name that `number` finds.
        scale: what to multiply it by: 100 for points.
        cells: which, such as `grid.cells()`; those of the records where None.
        seeds: which; those of the records where None.

    Raises:
        ValueError: where a run is missing: which, and how to run it; where a record has no such number.
    """
    cells = _cells(records) if cells is None else list(cells)
    seeds = tuple(sorted({seed for _, seed in records} if seeds is None else seeds))
    if lacking := [(cell, seed) for seed in seeds for cell in cells if (cell, seed) not in records]:
        cell, seed = lacking[0]
        raise ValueError(f"{len(lacking)} runs are missing, such as {cell}, seed {seed}: dtl atlas run goes on")
    if len(cells) < 2 or len(seeds) < 2:
        raise ValueError(f"{len(cells)} cells × {len(seeds)} seeds have no spread to speak of: it takes two of both")
    found = {(cell, seed): number(records[cell, seed], value) for cell in cells for seed in seeds}
    if without := [key for key, seen in found.items() if seen is None]:
        raise ValueError(f"{without[0][0]}, seed {without[0][1]}, has no {value}: leave such cells out")
    found = {key: scale * seen for key, seen in found.items()}
    mean = {cell: math.fsum(found[cell, seed] for seed in seeds) / len(seeds) for cell in cells}
    of_seed = {seed: math.fsum(found[cell, seed] for cell in cells) / len(cells) for seed in seeds}
    all_of_them = math.fsum(mean.values()) / len(cells)
    rest = [found[c, s] - mean[c] - of_seed[s] + all_of_them for c in cells for s in seeds]
    freedom = (len(cells) - 1) * (len(seeds) - 1)
    return Surface(mean, seeds, math.sqrt(math.fsum(r**2 for r in rest) / freedom), freedom)


def tested(surface: Surface, contrasts: Sequence[Contrast]) -> list[Tested]:
    """Every contrast, in the order given, with p-values that Holm's step-down procedure has corrected."""
    found = [surface.estimate(contrast.weights) for contrast in contrasts]
    order, corrected, least = sorted(range(len(found)), key=lambda at: found[at].p), {}, 0.0
    for rank, at in enumerate(order):
        least = max(least, min(1.0, found[at].p * (len(found) - rank)))
        corrected[at] = least
    return [Tested(contrast.name, found[at], corrected[at]) for at, contrast in enumerate(contrasts)]


def verdict(tested: Tested, point: float = 1.0) -> str:
    """What a contrast comes to, in the words of the book's predictions.

    Args:
        tested: of a surface in percentage points.
        point: what counts as small.
    """
    said = []
    if tested.p < ALPHA:
        said.append("found")
    if abs(tested.estimate.value) + tested.estimate.half < point:
        said.append("smaller than a point")
    return ", ".join(said) or "cannot tell"


def main_effects(surface: Surface) -> tuple[dict[int | str, Estimate], dict[int | None, Estimate]]:
    """How far each place of the class token, and each of the registers, lies from the mean of all cells."""
    cells = list(surface.mean)
    of_cls = {cls: surface.effect([cell for cell in cells if cell.cls == cls]) for cls in _kinds(c.cls for c in cells)}
    of_reg = {reg: surface.effect([cell for cell in cells if cell.reg == reg]) for reg in _kinds(c.reg for c in cells)}
    return of_cls, of_reg


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


def best(surface: Surface) -> Cell:
    """The cell with registers and a class token whose mean is highest: of held-out accuracy, never of the test's."""
    choices = [cell for cell in surface.mean if cell.reg is not None and cell.cls != POOLING]
    return max(choices, key=surface.mean.get)


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
    return _kinds(cell for cell, _ in records)


def _kinds(values: Iterable) -> list:
    return list(dict.fromkeys(values))


def _quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))
