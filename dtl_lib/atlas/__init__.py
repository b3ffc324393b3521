"""The location atlas: the same training for every place at which tokens can enter, and what came of it."""

from .grid import ATTENTION, POOLING, Cell, Grid, grids
from .run import Interrupted, missing, read, run

__all__ = ["ATTENTION", "POOLING", "Cell", "Grid", "Interrupted", "grids", "missing", "read", "run"]
