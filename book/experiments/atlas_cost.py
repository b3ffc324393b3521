"""What every cell of the atlas costs, for chapter 07: the time of a training step, and its memory at the peak.

    python -m book.experiments.atlas_cost

measures the cells of the `cpu` grid, row by row, against the standard one, class token at 0 without registers, as the
grid trains them (experiment `atlas_cost`); with `--records`, where the grid's surface is complete, its sweep over the
number of registers too. What is compared runs in alternating rounds, on the GPU where there is one; run it alone on a
machine. An interrupted command goes on where it stopped.
"""

from itertools import groupby

from dtl_lib.lab import atlas, bench
from dtl_lib.lab.atlas import Cell, Grid

from . import rounds

EXPERIMENT = "atlas_cost"
ROUNDS = {"cpu": 60, "cuda": 200}


def groups(grid: Grid, swept: list[Cell]) -> list[list[Cell]]:
    """What runs in the same rounds: the rows of the surface, and what the sweep has beyond them."""
    rows = [list(row) for _, row in groupby(grid.cells(), key=lambda cell: cell.cls)]
    more = [cell for cell in swept if cell not in grid.cells()]
    return rows + ([more] if more else [])


def main(arguments: list[str] | None = None) -> None:
    """Every cell of a grid."""
    parser = rounds.parser(__doc__.splitlines()[0], ROUNDS)
    parser.add_argument("--grid", choices=tuple(atlas.grids()), default="cpu")
    parser.add_argument("--records", help="the folder of the grid's own records, for the place of its sweep")
    options = parser.parse_args(arguments)
    grid, standard = atlas.grids()[options.grid], Cell(0)
    bench.keep_memory()
    how = bench.BenchConfig(options.batch_size or grid.recipe.batch_size, device=options.device, recipe=grid.recipe)
    title = f"{options.grid}, {{}}: training step, {how}"
    swept = atlas.sweep(grid, atlas.read(grid, options.records)) if options.records else []
    again = {f"{standard}, {rounds.AGAIN}": standard}
    for cells in groups(grid, swept):
        labels = {str(standard): standard} | (again if standard in cells else {}) | {str(cell): cell for cell in cells}
        configs = {label: cell.config(grid.config) for label, cell in labels.items()}
        count = options.rounds or ROUNDS[rounds.kind(options)]
        rounds.compare(EXPERIMENT, title, configs, how, count, options)


if __name__ == "__main__":
    main()
