"""The class token's attention maps of the atlas's cells, from the weights that its run kept: the library stores them.

    python -m book.experiments.atlas_maps --weights runs/atlas/weights

The models of one seed, the class token's last block, three bundled photos; a few seconds on two cores.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dtl_lib.lab.atlas import grids, maps


def main(arguments: Sequence[str]) -> int:
    """Compute the maps and write them; 2 where weights are missing."""
    parser = argparse.ArgumentParser(prog=maps.COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--grid", choices=grids(), default="cpu")
    parser.add_argument("--weights", type=Path, required=True, help="the folder that the atlas's run wrote them to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=maps.FOLDER, help="where the maps go")
    options = parser.parse_args(arguments)
    grid = grids()[options.grid]
    try:
        models = maps.trained(options.weights, options.seed)
        cells = grid.cells()
        if missing := [cell for cell in cells if cell not in models]:
            raise ValueError(
                f"{options.weights} lacks {len(missing)} cells of seed {options.seed}, such as {missing[0]}"
            )
        class_maps = maps.maps_of({cell: models[cell] for cell in cells}, seed=options.seed)
        file = maps.save(class_maps, grid.experiment, options.folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{file}: maps of {len(class_maps.by_cell)} cells, {file.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
