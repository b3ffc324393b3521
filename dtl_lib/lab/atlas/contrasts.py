"""The contrasts between cells that an atlas tests, written down before the first run."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .grid import ATTENTION, POOLING, Cell, Grid


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of cells' means whose weights sum to 0: "a − b" is above 0 where a is better.

    Attributes:
        name: what is compared.
        weights: cell → weight.
    """

    name: str
    weights: dict[Cell, float]


def contrasts(grid: Grid) -> list[Contrast]:
    """The comparisons that are made on a grid's surface, in the order of the book's predictions.

    Early means the first half of the trunk, late the second; the block in the middle begins the second. What is no
    class token in the trunk is compared with its first place. A comparison that the grid has only one side of is left
    out.
    """
    cells = grid.cells()
    token = [cell for cell in cells if isinstance(cell.cls, int)]
    early, late = ([c for c in token if (c.cls >= grid.config.depth / 2) == side] for side in (False, True))
    first = min((cell.cls for cell in token), default=0)
    places = sorted(reg for reg in grid.reg if reg is not None) or [None]  # of registers
    asked = [
        Contrast("class token late − early", _difference(late, early)),
        Contrast(f"class attention − class token at {first}", _difference(_at(cells, ATTENTION), _at(cells, first))),
        Contrast(f"average pooling − class token at {first}", _difference(_at(cells, POOLING), _at(cells, first))),
        Contrast("registers − none", _registers(cells)),
        Contrast(
            f"registers at {places[-1]} − registers at {places[0]}",
            _difference(*([c for c in cells if c.reg == place] for place in (places[-1], places[0]))),
        ),
        Contrast("what registers bring: late − early class token", _minus(_registers(late), _registers(early))),
    ]
    return [contrast for contrast in asked if contrast.weights]


def stages(grid: Grid) -> tuple[Grid, ...]:
    """Parts of a grid in the order to run them, each in the next: contrasts can be tested long before all is done.

    First the class token at 0 and late, each without registers and with some from 0, over all seeds; then the class
    token's other kinds; then everything.
    """
    places = [place for place in grid.cls if isinstance(place, int)]
    late = next(place for place in reversed(places) if place < grid.config.depth - 1)
    registers = tuple(reg for reg in grid.reg if reg in (None, 0))
    corner = replace(grid, cls=(0, late), reg=registers, sweep=())
    others = tuple(place for place in grid.cls if not isinstance(place, int))
    return corner, replace(corner, cls=(0, late, *others)), grid


def _difference(plus: list[Cell], minus: list[Cell]) -> dict[Cell, float]:
    """Nothing where a side is empty, or both are the same."""
    if not plus or not minus or plus == minus:
        return {}
    return {cell: 1 / len(plus) for cell in plus} | {cell: -1 / len(minus) for cell in minus}


def _registers(cells: Iterable[Cell]) -> dict[Cell, float]:
    cells = list(cells)
    return _difference([c for c in cells if c.reg is not None], [c for c in cells if c.reg is None])


def _minus(plus: dict[Cell, float], minus: dict[Cell, float]) -> dict[Cell, float]:
    return plus | {cell: -weight for cell, weight in minus.items()} if plus and minus else {}


def _at(cells: Iterable[Cell], place: int | str) -> list[Cell]:
    return [cell for cell in cells if cell.cls == place]
