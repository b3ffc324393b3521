"""Statistics of an atlas's records by error strata: what a difference compares decides which noise it has.

The registered analysis in `analysis` takes the runs of a seed for independent. They are not: the cells of one row share
weights and the order of images, and so a part of their noise, which an average over the row keeps. This analysis is
post hoc. It is the classical one of two crossed factors whose blocks are the seeds: rows are compared by row × seed,
columns by column × seed, and interactions by what is left (Searle, Casella & McCulloch, Variance Components, ch. 4).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...ledger import Record
from .analysis import Estimate, Level, number, surface
from .grid import Cell, Job

EXACT = 1e-9  # what weights that sum to 0 may sum to in floating point


class Stratum(NamedTuple):
    """The noise of one kind of difference: of a single run of a single cell, its mean square and degrees of freedom."""

    mean_square: float
    freedom: int


@dataclass(frozen=True)
class Strata(Level):
    """A value over rows (the class token's places) × columns (the registers'), with each stratum's noise.

    Attributes:
        rows: the cells, row by row.
        seed: of what all cells have in common: how much a seed is better everywhere.
        row_by_seed: of differences between rows.
        column_by_seed: of differences between columns.
        residual: of interactions.
    """

    rows: tuple[tuple[Cell, ...], ...]
    seed: Stratum
    row_by_seed: Stratum
    column_by_seed: Stratum
    residual: Stratum

    @property
    def half(self) -> float:
        """Half of the 95 % interval of one cell's mean against the mean of all cells, of the same seeds."""
        return self.effect([self.rows[0][0]]).half

    @property
    def half_alone(self) -> float:
        """Half of the 95 % interval of one cell's mean by itself, with what a seed does to all cells left in."""
        return self.estimate({self.rows[0][0]: 1}).half

    def unpaired(self) -> "Strata":
        """For rows that share no seeds: what a seed does to all of a row's cells is noise of rows' differences, too."""
        pooled, freedom = (self.seed, self.row_by_seed), self.seed.freedom + self.row_by_seed.freedom
        noise = Stratum(sum(of.mean_square * of.freedom for of in pooled) / freedom, freedom)
        return replace(self, seed=noise, row_by_seed=noise)

    def estimate(self, weights: Mapping[Cell, float]) -> Estimate:
        """A weighted sum of cells' means.

        The weights are split into the parts that compare rows, columns, and neither. A sum within one stratum has its
        exact t interval; where it mixes strata, variances add and the degrees of freedom are Satterthwaite's (1946):
        otherwise two single cells, which differ in row and column, could not be compared. Weights that do not sum to 0
        have the seeds' own differences in their error.

        Raises:
            ValueError: where a cell is not of this grid.
        """
        if unknown := [cell for cell in weights if cell not in self.mean]:
            raise ValueError(f"{unknown[0]} is not a cell of this grid")
        parts = _parts(np.array([[weights.get(cell, 0.0) for cell in row] for row in self.rows]))
        strata = (self.seed, self.row_by_seed, self.column_by_seed, self.residual)
        variances = [
            (stratum.mean_square * float((part**2).sum()) / len(self.seeds), stratum.freedom)
            for part, stratum in zip(parts, strata)
            if (part**2).sum() > EXACT**2
        ]
        variance, scatter = sum(v for v, _ in variances), sum(v**2 / freedom for v, freedom in variances)
        value = sum(weight * self.mean[cell] for cell, weight in weights.items())
        least = min((freedom for _, freedom in variances), default=self.residual.freedom)  # where nothing varies
        return Estimate(value, variance**0.5, variance**2 / scatter if scatter else float(least))


def strata(
    records: Mapping[Job, Record], value: str = "accuracy", scale: float = 1.0, *,
    cells: Sequence[Cell] | None = None, seeds: Sequence[int] | None = None,
) -> Strata:  # fmt: skip
    """The strata of a value over cells that have every seed.

    Args: as in `surface`.

    Raises:
        ValueError: as in `surface`; where the cells are not all pairs of some rows and columns.
    """
    level = surface(records, value, scale, cells=cells, seeds=seeds)
    rows = by_row(level.mean)
    runs = np.array([[[scale * number(records[c, s], value) for s in level.seeds] for c in row] for row in rows])
    high, wide, times = runs.shape
    freedoms = [size * (times - 1) for size in (1, high - 1, wide - 1, (high - 1) * (wide - 1))]
    noise = _parts(runs - runs.mean(axis=2, keepdims=True))
    squares = [float((part**2).sum()) for part in noise]
    return Strata(level.mean, level.seeds, rows, *(Stratum(s / (f or 1), f) for s, f in zip(squares, freedoms)))


def crossed(cells: Iterable[Cell]) -> bool:
    """Whether the cells are all pairs of some rows and columns, as `strata` needs them."""
    cells = set(cells)
    return len({cell.cls for cell in cells}) * len({(cell.reg, cell.num_reg) for cell in cells}) == len(cells)


def by_row(cells: Iterable[Cell]) -> tuple[tuple[Cell, ...], ...]:
    """Cells as rows (one place of the class token each) and columns (one place and number of registers each).

    Raises:
        ValueError: where a pair of a row and a column is not there.
    """
    at = {(cell.cls, (cell.reg, cell.num_reg)): cell for cell in cells}
    rows, columns = (list(dict.fromkeys(key[side] for key in at)) for side in (0, 1))
    if missing := [(row, column) for row in rows for column in columns if (row, column) not in at]:
        (cls, place) = missing[0]
        raise ValueError(f"{Cell(cls, *place)} is not among the cells: strata need every pair of a row and a column")
    return tuple(tuple(at[row, column] for column in columns) for row in rows)


def _parts(values: np.ndarray) -> list[np.ndarray]:
    """`(rows, columns, …)` as four orthogonal terms: the mean, rows, columns and interaction, all of one shape."""
    mean = values.mean(axis=(0, 1), keepdims=True)
    rows, columns = values.mean(axis=1, keepdims=True) - mean, values.mean(axis=0, keepdims=True) - mean
    return [np.broadcast_to(part, values.shape) for part in (mean, rows, columns, values - mean - rows - columns)]
