"""Everything a grid's records say about one value, complete or not; `dtl atlas show`, README and chapters read it."""

from collections.abc import Mapping
from dataclasses import dataclass

from ...ledger import Record
from .analysis import (
    Estimate,
    Level,
    Surface,
    TestedContrast,
    best,
    main_effects,
    means,
    pareto,
    slope,
    surface,
    tested_contrasts,
)
from .contrasts import contrasts
from .grid import Cell, Grid, Job
from .run import missing, sweep
from .strata import Strata, crossed, strata

Effects = tuple[dict[int | str, Estimate], dict[int | None, Estimate]]
TESTED = "accuracy"  # the one value that the book's predictions test


@dataclass(frozen=True)
class Findings:
    """What the records say about one value; None or empty where runs are missing or it does not apply.

    Attributes:
        mean: of each cell of the surface that has the value, over the seeds there are.
        missing: runs of the surface and, once that is complete, of the sweep.
        cost: multiply–adds an image of every cell of the surface and the sweep.
        surface: with its spread, over the cells that have the value, as registered.
        effects: main effects of the class token's places, and of the registers', as registered.
        best: the cell of highest held-out accuracy, at which the sweep runs.
        tested: the contrasts, as registered; of test accuracy alone.
        sweep: means over the number of registers at the best cell.
        sweep_surface: the same, with its spread.
        slope: of the sweep.
        strata: the surface with the noise of each error stratum, which is the analysis that holds (post hoc).
        post_hoc_effects: as `effects`, by strata.
        post_hoc: as `tested`, by strata.
    """

    mean: dict[Cell, float]
    missing: list[Job]
    cost: dict[Cell, int]
    surface: Surface | None = None
    effects: Effects | None = None
    best: Cell | None = None
    tested: tuple[TestedContrast, ...] = ()
    sweep: dict[Cell, float] | None = None
    sweep_surface: Surface | None = None
    slope: Estimate | None = None
    strata: Strata | None = None
    post_hoc_effects: Effects | None = None
    post_hoc: tuple[TestedContrast, ...] = ()

    def points(self) -> dict[str, tuple[float, ...]]:
        """By a cell's name: M multiply–adds, value and, where there is one, half of its interval."""
        half = () if self.surface is None else (self.surface.half,)
        return {str(cell): (self.cost[cell] / 1e6, mean, *half) for cell, mean in self.mean.items()}

    def front(self) -> list[str]:
        """The names of the cells that no other beats in both cost and value, the cheapest first."""
        return pareto(self.points())


def find(grid: Grid, records: Mapping[Job, Record], value: str = TESTED, scale: float = 1.0) -> Findings:
    """Everything the records say about a value.

    Args:
        grid: which cells and seeds.
        records: as `read` gives them.
        value: a name that `number` knows.
        scale: what to multiply it by: 100 for points.
    """
    records = {(cell, seed): record for (cell, seed), record in records.items() if seed in grid.seeds}
    mean = means(records, value, scale, cells=grid.cells())
    runs_missing = missing(grid.cells(), grid.seeds, records)
    if runs_missing:
        return Findings(mean, runs_missing, costs(grid, grid.cells()))
    several = len(grid.seeds) > 1  # one run a cell has no spread
    whole = surface(records, value, scale, cells=list(mean), seeds=grid.seeds) if several and len(mean) > 1 else None
    layers = strata(records, value, scale, cells=list(mean), seeds=grid.seeds) if whole and crossed(mean) else None
    asked = contrasts(grid) if value == TESTED else []
    sweep_cells = sweep(grid, records)
    runs_missing = missing(sweep_cells, grid.seeds, records)
    swept = means(records, value, scale, cells=sweep_cells)
    complete = not runs_missing and several and len(swept) > 1
    return Findings(
        mean,
        runs_missing,
        costs(grid, [*grid.cells(), *sweep_cells]),
        whole,
        whole and main_effects(whole),
        best(Level(means(records, "held_out", cells=grid.cells()), grid.seeds)),
        tuple(tested_contrasts(whole, asked)) if whole else (),
        swept,
        surface(records, value, scale, cells=list(swept), seeds=grid.seeds) if complete else None,
        slope(records, value, scale, cells=list(swept), seeds=grid.seeds) if complete else None,
        layers,
        layers and main_effects(layers),
        tuple(tested_contrasts(layers, asked)) if layers else (),
    )


def costs(grid: Grid, cells) -> dict[Cell, int]:
    """Multiply–adds an image of each cell, from its plan."""
    return {cell: cell.config(grid.config).cost().total for cell in cells}
