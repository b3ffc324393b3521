"""The runs behind chapter 04: how soon runs leave chance, and what each ingredient of a recipe does.

    python -m book.experiments.training plateau
    python -m book.experiments.training ingredients

attain what the records of `training_plateau` and `training_ingredients` say, three seeds each. A run that has a record
is not repeated, so an interrupted command continues where it stopped. One thread: the
numbers do not depend on how many cores there are.
"""

import sys
from dataclasses import replace

import torch

from dtl_lib import data, ledger
from dtl_lib.data import Shapes
from dtl_lib.data.shapes.generator import PARTS
from dtl_lib.models import ViT
from dtl_lib.train import Recipe, fit

SEEDS = (0, 1, 2)
CURVE_IMAGES = 500  # held-out images that the curves are measured on
PLATEAU = Recipe(max_steps=1500, batch_size=32, lr=2e-3, warmup_steps=50, eval_every=100, log_every=100)
INGREDIENTS = replace(PLATEAU, max_steps=800, eval_every=200, log_every=200)
FEW = 300  # training images of the ingredients' runs: few enough to be memorised

# name → level, training images, changes to the recipe, changes to the model
PLATEAUS = {
    "level 1, patches of 8": (1, None, {}, {}),
    "level 1, patches of 4": (1, None, {}, {"patch_size": 4}),
    "level 2, patches of 8": (2, None, {}, {}),
    "level 2, batches of 128": (2, None, {"batch_size": 128, "max_steps": 375, "eval_every": 25}, {}),
    "level 3, patches of 8": (3, None, {}, {}),
}
RECIPES = {
    "nothing added": ({}, {}),
    "crop and flip": ({"crop": 4, "flip": True}, {}),
    "mixup": ({"mixup": 0.8}, {}),
    "CutMix": ({"cutmix": 1.0}, {}),
    "smoothing": ({"smoothing": 0.1}, {}),
    "random erasing": ({"erase": 0.25}, {}),
    "stochastic depth": ({}, {"drop_path": 0.2}),
    "moving average": ({"ema": 0.995}, {}),
    "no cosine": ({"min_lr": INGREDIENTS.lr}, {}),
    "no warm-up": ({"warmup_steps": 0}, {}),
    "crop, flip and mixup": ({"crop": 4, "flip": True, "mixup": 0.8}, {}),
}


def plateau() -> None:
    """Held-out accuracy every 100 steps, from one change at a time."""
    for seed in SEEDS:
        for name, (level, samples, recipe, model) in PLATEAUS.items():
            run("plateau", name, seed, level, samples, replace(PLATEAU, **{"seed": seed, **recipe}), model)


def ingredients() -> None:
    """Test accuracy with one ingredient at a time, on few images."""
    for seed in SEEDS:
        for name, (recipe, model) in RECIPES.items():
            run("ingredients", name, seed, 1, FEW, replace(INGREDIENTS, **{"seed": seed, **recipe}), model)


def run(part: str, name: str, seed: int, level: int, samples: int | None, recipe: Recipe, changes: dict) -> None:
    """One run and its record, unless the ledger has it."""
    experiment = f"training_{part}"
    if (name, seed) in done(experiment):
        return
    torch.manual_seed(seed)
    model = ViT.build("vit_shapes_patch8_32", **changes)
    sets = data.load("shapes", level=level, samples=samples)
    start = PARTS["held_out"]
    sets = replace(sets, held_out=Shapes(32, level, 0, start, CURVE_IMAGES, "shapes held out"))
    result = fit(model, sets, recipe, progress=False)
    rows = [row for row in result.history if "accuracy" in row]
    values = {
        "accuracy": result.test.accuracy,
        "train_loss": rows[-1]["loss"],
        "steps": [row["step"] for row in rows],
        "held_out": [row["accuracy"] for row in rows],
        "level": level,
        "training_images": len(sets.train),
    }
    command = f"python -m book.experiments.training {part}"
    config, about = model.config.to_dict(), recipe.to_dict()
    ledger.add(experiment, name, command, "cpu", values, n=result.test.n, seed=seed, config=config, recipe=about)
    print(f"{name}, seed {seed}: {result.test}", flush=True)


def done(experiment: str) -> set[tuple[str, int]]:
    """(name, seed) of the runs that have a record."""
    return {(record.what, record.seed) for record in ledger.read(experiment, missing_ok=True)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = {"plateau": plateau, "ingredients": ingredients}
    if len(sys.argv) != 2 or sys.argv[1] not in parts:
        sys.exit(f"give one of: {' or '.join(parts)}")
    parts[sys.argv[1]]()
