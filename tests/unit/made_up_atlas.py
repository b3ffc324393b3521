"""An atlas that nobody ran: 6 × 4 cells, three seeds, numbers and maps from a formula."""

import math

import torch

from dtl_lib.lab.atlas import Cell, Grid, grids
from dtl_lib.lab.atlas.view import Maps
from dtl_lib.ledger import Record


def grid() -> Grid:
    """The grid of two cores."""
    return grids()["cpu"]


def values(grid: Grid, cell: Cell, at: int, seed: int) -> dict:
    """Values that a run might record."""
    values = {
        "accuracy": 0.43 + 0.012 * math.sin(1.7 * at) + 0.004 * math.cos(5.1 * at + 2.3 * seed),
        "multiply_adds": cell.config(grid.config).cost().total,
        "norm_50": [4.0, 6.0 + 0.01 * seed],
        "norm_98": [5.0, 9.0 + 0.2 * at],
    }
    if cell.cls != "average pooling":
        values["entropy"] = 3.0 + 0.04 * at + 0.03 * math.sin(seed + at)
        if cell.reg is not None:
            values["on_registers"] = 0.03 + 0.004 * at + 0.002 * math.sin(seed + 3 * at)
    return values


def record(grid: Grid, cell: Cell, seed: int, values: dict) -> Record:
    """A record as a run of the atlas writes it."""
    about = ("made_up", str(cell), "none", "2026-01-31T12:00:00+00:00", "none", "0", "0")
    return Record(*about, seed=seed, n=100, values=values, config=cell.config(grid.config).to_dict())


def records(grid: Grid) -> dict[tuple[Cell, int], Record]:
    """Of every cell and seed."""
    pairs = [(at, cell, seed) for at, cell in enumerate(grid.cells()) for seed in grid.seeds]
    return {(cell, seed): record(grid, cell, seed, values(grid, cell, at, seed)) for at, cell, seed in pairs}


def maps(grid: Grid) -> Maps:
    """A bright patch that moves with the cell and the head."""
    of = {}
    for at, cell in enumerate(grid.cells()):
        if cell.cls != "average pooling":
            heat = torch.full((3, 4, 8, 8), 0.004)
            for photo in range(3):
                for head in range(4):
                    heat[photo, head, (at + head) % 8, (2 * head + photo) % 8] = 0.3 + 0.01 * at
            of[cell] = heat
    return Maps(("chelsea", "rocket", "coffee"), of, 0, {})
