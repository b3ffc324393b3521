"""Where the class token looks, for chapter 07: models of the atlas's plans, trained on shapes, whose objects are known.

    python -m book.experiments.atlas_shapes

trains the atlas's small model with the class token at 0, at 4 and in class attention, without registers and with four
from 0, on `shapes` level 1, and measures the class token's map in the last block where it asks (experiment
`atlas_shapes`): mean over heads, and the one head that overlaps most on held-out shapes. Beside each score stands what
a flat map gets (`chance`), the same maps on other images' objects (`elsewhere`), the model before it was trained
(`untrained`), the patches' brightness taken as a map (`bright`; at level 1 the object is the brighter thing), and how
much of each patch the object covers (`cover`): about the best that a map can do.
A run that has a record is not repeated, so an interrupted command continues where it stopped. One thread: the numbers
do not depend on the cores.
"""

import argparse
from dataclasses import replace

import torch
from einops import reduce

from dtl_lib import checkpoint, data, ledger
from dtl_lib.data import Shapes
from dtl_lib.data.shapes import generator as shapes
from dtl_lib.host import device_name
from dtl_lib.lab.atlas import ATTENTION, Cell, Grid, grids, missing
from dtl_lib.lab.atlas.grid import weights_name
from dtl_lib.lab.atlas.train_cell import fresh, train_cell
from dtl_lib.models import ViT
from dtl_lib.probes import objects
from dtl_lib.probes.attention import attention_row, entropy, share
from dtl_lib.probes.norms import norm_ratio
from dtl_lib.tape import Tape, record
from dtl_lib.train import Recipe

EXPERIMENT, LEVEL = "atlas_shapes", 1
HELD_OUT, TEST = 500, 1000  # shapes: the head is chosen on the first, everything is measured on the second
RECIPE = Recipe(max_steps=1000, batch_size=32, lr=2e-3, warmup_steps=100, eval_every=1000, log_every=100)
SCORES = {"pointing": objects.pointing_game, "iou": objects.iou}


def shapes_grid(recipe: Recipe = RECIPE) -> Grid:
    """The atlas's model on shapes, and a part of its cells."""
    base = grids()["cpu"]
    config = replace(base.config, mean=shapes.MEAN, std=shapes.STD)
    return Grid(EXPERIMENT, "shapes", config, recipe, (0, 4, ATTENTION), (None, 0), base.num_reg, sweep=())


def shapes_sets() -> data.Sets:
    """Shapes to train on, 500 held out and 1,000 for the test."""
    sets = data.load("shapes", level=LEVEL)
    few = {"held_out": HELD_OUT, "test": TEST}
    parts = {name: Shapes(32, LEVEL, 0, shapes.PARTS[name], n, f"shapes {name}") for name, n in few.items()}
    return replace(sets, **parts)


def look(model: ViT, untrained: ViT, sets: data.Sets) -> dict:
    """What the class token does in the last block, and how well its map covers the object, beside baselines.

    Args:
        model: trained.
        untrained: the same before its first step.
        sets: of shapes; the head is chosen on `held_out`, all values are of `test`.
    """
    held_out_maps, _ = class_maps(model, sets.held_out)
    head = objects.iou(held_out_maps, masks(sets.held_out)).mean(dim=0).argmax().item()
    maps, tape = class_maps(model, sets.test)
    before, _ = class_maps(untrained, sets.test)
    last, test_masks, patch = model.plan.blocks - 1, masks(sets.test), model.config.patch_size
    pixels = sets.test.raw(torch.arange(len(sets.test)))
    bright, cover = by_patch(pixels, patch), by_patch(test_masks, patch)
    values = {"head": head, "norm_ratio": norm_ratio(tape, model.plan.depth - 1)}
    values["entropy"] = entropy(attention_row(tape, last)).mean().item()
    if "reg" in model.plan.layout(last):
        values["on_registers"] = share(tape, last, "reg").mean().item()
    by_name = {"": maps.mean(dim=1), "_head": maps[:, head], "_untrained": before.mean(dim=1)}
    by_name |= {"_bright": bright, "_cover": cover}
    return values | scores(by_name, test_masks) | scores({"_heads": maps}, test_masks)


def scores(by_name: dict[str, torch.Tensor], object_masks: torch.Tensor) -> dict:
    """Mean scores of maps by name; of the first also by chance and elsewhere; maps with heads give a list."""
    values, first = {}, next(iter(by_name.values()))
    for score_name, score in SCORES.items():
        results = {name: score(maps, object_masks) for name, maps in by_name.items()}
        if first.ndim == 3:
            baselines = (objects.chance, objects.elsewhere)
            results |= {f"_{baseline.__name__}": baseline(score, first, object_masks) for baseline in baselines}
        values |= {score_name + name: result.double().mean(dim=0).tolist() for name, result in results.items()}
    return values


def by_patch(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """Means over patches, `(batch, rows, columns)`, of `(batch, height, width)`, or with colours before the height."""
    pixels = (pixels if pixels.ndim == 4 else pixels[:, None]).float()
    return reduce(pixels, "b colours (rows h) (columns w) -> b rows columns", "mean", h=patch, w=patch)


@torch.inference_mode()
def class_maps(model: ViT, images: Shapes) -> tuple[torch.Tensor, Tape]:
    """The class token's maps of all images, `(batch, heads, rows, columns)`, in the last block, and the tape."""
    x, _ = images.batch(torch.arange(len(images)))
    with record(model.eval()) as tape:
        model(x)
    return tape.maps(model.plan.blocks - 1), tape


def masks(images: Shapes) -> torch.Tensor:
    """The objects' pixels: those covered by more than half."""
    return images.masks(torch.arange(len(images))) > 0.5


def run(grid: Grid, cell: Cell, seed: int, sets: data.Sets, folder: str | None, weights: str | None) -> None:
    """One run and its record, and its weights where they are wanted."""
    model, values = train_cell(grid, cell, seed, sets, device="cpu")
    n, command = values.pop("n"), "python -m book.experiments.atlas_shapes"
    values |= look(model, fresh(grid, cell, seed), sets) | {"level": LEVEL}
    about = {"config": model.config.to_dict(), "recipe": replace(grid.recipe, seed=seed).to_dict()}
    if weights:
        card = {
            "data": {"name": sets.train.name, "fingerprint": sets.train.fingerprint()},
            "recipe": about["recipe"], "seed": seed, "accuracy": values["accuracy"], "n": n, "command": command,
            "device": device_name("cpu"), "minutes": values["seconds"] / 60,
        }  # fmt: skip
        checkpoint.save_model(f"{weights}/shapes_{weights_name(cell, seed)}", model, card)
    ledger.add(EXPERIMENT, str(cell), command, "cpu", values, n=n, seed=seed, folder=folder, **about)
    points = ", ".join(f"{what} {values[f'pointing_{what}']:.0%}" for what in ("elsewhere", "untrained", "chance"))
    print(f"{cell}, seed {seed}: {values['accuracy']:.1%}; points at {values['pointing']:.0%} ({points})", flush=True)


def done(folder: str | None) -> set[tuple[Cell, int]]:
    """The runs that have a record."""
    records = ledger.read(EXPERIMENT, folder, missing_ok=True)
    return {(Cell.from_config(record.config), record.seed) for record in records}


def main(arguments: list[str] | None = None) -> None:
    """The runs that have no record yet; every cell's first seed before any cell's second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    parser.add_argument("--weights", help="a folder to keep the weights in")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    grid, sets = shapes_grid(), shapes_sets()
    for cell, seed in missing(grid.cells(), options.seeds, done(options.folder)):
        run(grid, cell, seed, sets, options.folder, options.weights)


if __name__ == "__main__":
    main()
