"""The location atlas: the same training for every place at which tokens can enter, and what came of it."""

from .analysis import (
    Estimate,
    Surface,
    Tested,
    best,
    main_effects,
    means,
    norm_ratio,
    number,
    numbers,
    pareto,
    slope,
    surface,
    tested,
    verdict,
)
from .contrasts import Contrast, contrasts, stages
from .findings import Findings, costs, find
from .grid import ATTENTION, POOLING, Cell, Grid, grids
from .run import Interrupted, count, left, mend, missing, read, records_file, run, sweep
from .workers import RunFailed

__all__ = [
    "ATTENTION",
    "POOLING",
    "Cell",
    "Contrast",
    "Estimate",
    "RunFailed",
    "Findings",
    "Grid",
    "Interrupted",
    "Surface",
    "Tested",
    "best",
    "contrasts",
    "costs",
    "count",
    "find",
    "grids",
    "left",
    "main_effects",
    "means",
    "mend",
    "missing",
    "norm_ratio",
    "number",
    "numbers",
    "pareto",
    "read",
    "records_file",
    "run",
    "slope",
    "stages",
    "surface",
    "sweep",
    "tested",
    "verdict",
]
