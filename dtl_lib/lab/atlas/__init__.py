"""The location atlas: the same training for every place at which tokens can enter, and what came of it."""

from .analysis import (
    Estimate,
    Surface,
    TestedContrast,
    best,
    main_effects,
    means,
    number,
    pareto,
    slope,
    surface,
    tested_contrasts,
    value_names,
    verdict,
)
from .contrasts import Contrast, contrasts, stages
from .draw import draw
from .findings import Findings, costs, find
from .grid import ATTENTION, POOLING, Cell, Grid, grids
from .run import (
    Interrupted,
    count_runs,
    drop_partial_record,
    missing,
    read,
    records_file,
    run,
    runs_left,
    sweep,
)
from .strata import Strata, Stratum, crossed, strata
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
    "Strata",
    "Stratum",
    "Surface",
    "TestedContrast",
    "best",
    "contrasts",
    "costs",
    "crossed",
    "count_runs",
    "draw",
    "drop_partial_record",
    "find",
    "grids",
    "main_effects",
    "means",
    "missing",
    "number",
    "pareto",
    "read",
    "records_file",
    "run",
    "runs_left",
    "slope",
    "stages",
    "strata",
    "surface",
    "sweep",
    "tested_contrasts",
    "value_names",
    "verdict",
]
