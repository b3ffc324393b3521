"""What an atlas's records say: cells, main effects and contrasts, with intervals from the seeds of all cells together.

Three seeds alone cannot resolve a cell. Every run is taken as cell + seed + noise, least squares, and the noise's
variance is estimated from the residuals of all runs: (cells − 1) × (seeds − 1) degrees of freedom.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..ledger import Record
from .contrasts import Contrast
from .grid import POOLING, Cell

LEVEL = 0.95


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


def surface(records: Mapping[tuple[Cell, int], Record], value: str = "accuracy", scale: float = 1.0) -> Surface:
    """The surface of a value over cells that have every seed.

    Args:
        records: by cell and seed.
        value: a name that `Record.get` finds.
        scale: what to multiply it by: 100 for points.

    Raises:
        ValueError: where a cell lacks a seed that another has: which, and how to run it.
    """
    cells = list(dict.fromkeys(cell for cell, _ in records))
    seeds = tuple(sorted({seed for _, seed in records}))
    if lacking := [(cell, seed) for cell in cells for seed in seeds if (cell, seed) not in records]:
        cell, seed = lacking[0]
        raise ValueError(f"{len(lacking)} runs are missing, such as {cell}, seed {seed}: run dtl atlas run again")
    if len(cells) < 2 or len(seeds) < 2:
        raise ValueError(f"{len(cells)} cells × {len(seeds)} seeds have no spread to speak of: it takes two of both")
    found = {key: scale * record.get(value) for key, record in records.items()}
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


def best(surface: Surface) -> Cell:
    """The cell with registers and a class token whose mean is highest: of held-out accuracy, never of the test's."""
    choices = [cell for cell in surface.mean if cell.reg is not None and cell.cls != POOLING]
    return max(choices, key=surface.mean.get)


def slope(records: Mapping[tuple[Cell, int], Record], value: str = "accuracy", scale: float = 1.0) -> Estimate:
    """Change of a value from one doubling of (1 + registers) to the next, least squares, seeds taken out.

    Args:
        records: of the sweep, by cell and seed; as in `surface`.
    """
    level = surface(records, value, scale)
    x = {cell: math.log2(1 + cell.num_reg) for cell in level.mean}
    centre = math.fsum(x.values()) / len(x)
    spread = math.fsum((at - centre) ** 2 for at in x.values())
    return level.estimate({cell: (at - centre) / spread for cell, at in x.items()})


def _quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))
