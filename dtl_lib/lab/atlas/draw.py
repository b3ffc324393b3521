"""The figure of a grid's findings, and how each value is called and written."""

import math
from collections.abc import Iterable, Sequence

from ... import figures
from .findings import Findings
from .grid import Cell, Grid

PERCENTAGES = {
    "accuracy": "test accuracy, %",
    "held_out": "held-out accuracy, %",
    "on_registers": "class token's attention on registers, %",
}
LABELS = {
    **PERCENTAGES,
    "entropy": "entropy of the class token's attention, nats",
    "norm_ratio": "98th percentile of patch norms over their median",
    "loss": "test loss, nats",
    "multiply_adds": "multiply–adds an image",
}


def draw(grid: Grid, findings: Findings, value: str = "accuracy", *, registered: bool = False):
    """The surface as a heat map, complete or not; of an accuracy also what it costs. Returns matplotlib's figure.

    Args:
        grid: whose cells.
        findings: what `find` says about `value`.
        value: its name.
        registered: whether a cell's interval is that of the registered analysis; else it is that of the strata.
    """
    level = findings.surface if registered else findings.strata
    best = findings.best if grid.sweep else None  # the cell at which the sweep is
    half = level.half if level else None
    surface = {
        "values": [[findings.mean.get(cell, math.nan) for cell in cells] for cells in rows_of(grid)],
        "rows": place_names(grid.cls),
        "columns": place_names(grid.reg),
        "half": half,
        "label": LABELS.get(value, value),
        "mark": (grid.cls.index(best.cls), grid.reg.index(best.reg)) if best else None,
        "digits": digits(findings.mean.values(), value),
    }
    if value not in ("accuracy", "held_out"):
        return figures.show_surface(**surface)
    kinds = {str(cell): "class token" if isinstance(cell.cls, int) else cell.cls for cell in findings.mean}
    points = {name: (cost, mean, *([half] if level else [])) for name, (cost, mean, *_) in findings.points().items()}
    cost = {"points": points, "front": findings.front(), "kinds": kinds, "y": LABELS[value]}
    return figures.show_atlas(surface, cost)


def rows_of(grid: Grid) -> list[list[Cell]]:
    """The surface's cells, a list for each place of the class token."""
    cells, wide = grid.cells(), len(grid.reg)
    return [cells[at : at + wide] for at in range(0, len(cells), wide)]


def place_names(places: Sequence) -> list[str]:
    """The places of one axis, as tables and figures name them."""
    return ["none" if place is None else str(place) for place in places]


def digits(values: Iterable[float], value: str) -> int:
    """After the point: one for per cent, else three digits in all."""
    top = max(map(abs, values), default=0)
    return 1 if value in PERCENTAGES else max(0, 2 - math.floor(math.log10(top or 1)))
