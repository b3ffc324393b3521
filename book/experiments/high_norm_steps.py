"""When in training do high-norm tokens appear? Small models that are looked into at steps 0, 1, 3, 10, 30 … to the end.

    python -m book.experiments.high_norm_steps

Five runs of twelve blocks: three seeds on CIFAR-10, which has to be there (`DTL_DATA`), and two on `shapes`. A record
has, for each step looked at, the 98th percentile and the longest of the patches' norms over their median, before block
0 and after each block, and what `probes.find_outliers` says. At the end comes the registers paper's claim, as a row of
`registers_paper`. What was expected is in `book/predictions.md`, committed before the first run.
"""

import os
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from book.experiments.study import Run, Study, main
from dtl_lib import data, ledger, probes, record
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.tokens import PATCHES
from dtl_lib.train import Recipe, fit

EXPERIMENT, PAPER, COMMAND = "high_norm_steps", "registers_paper", "python -m book.experiments.high_norm_steps"
CLAIM = "they appear after a third of training (2.1, Fig. 4b), in models trained here and looked into on the way: "
CIFAR, SHAPES = "CIFAR-10", "shapes"
ORDER = ((CIFAR, 0), (SHAPES, 0), (CIFAR, 1), (SHAPES, 1), (CIFAR, 2))
STEPS = (0, 1, 3, 10, 30, 100, 300, 1000, 2000)
LOOKED_AT, HIGH = 500, 0.98  # images of the test set; the percentile
CONFIG = ViTConfig(image_size=32, patch_size=4, dim=64, depth=12, heads=4, classes=10)
RECIPE = Recipe(max_steps=STEPS[-1], batch_size=32, lr=1e-3, warmup_steps=100, eval_every=STEPS[-1], log_every=100)
TOY = ViTConfig(image_size=32, patch_size=16, dim=8, depth=2, heads=2, classes=10)


def study(scale: str) -> Study:
    """The runs, first seeds before later ones; there is no larger scale than that of a CPU."""
    config = TOY if scale == "toy" else CONFIG
    recipe = replace(RECIPE, max_steps=3, warmup_steps=1, batch_size=4, eval_every=3) if scale == "toy" else RECIPE
    order = ((SHAPES, 0),) if scale == "toy" else ORDER
    of = {CIFAR: {"crop": 4, "flip": True}, SHAPES: {}}
    runs = tuple(Run(what, seed, config, replace(recipe, seed=seed, **of[what])) for what, seed in order)
    return Study(EXPERIMENT, COMMAND, runs, measure)


@cache
def sets(what: str) -> data.Sets:
    """The images of a data set; held out and tested on are the few that are looked at."""
    made = data.load("shapes") if what == SHAPES else data.load("cifar10", os.environ.get("DTL_DATA"))
    test = made.test
    if what == SHAPES:
        few = data.Shapes(32, test.level, test.seed, test.start, LOOKED_AT, test.name)
    else:
        pixels, labels = test.raw(range(LOOKED_AT)), test.labels(range(LOOKED_AT))
        few = data.InMemory(test.name, test.classes, test.mean, test.std, pixels, labels)
    return replace(made, held_out=few, test=few)


@torch.no_grad()
def look(model: ViT, images: Tensor, labels: Tensor) -> dict:
    """Lengths before block 0 and after each block, as shares of their median, and what the detector finds."""
    with record(model.eval()) as tape:
        right = model(images).argmax(dim=1) == labels
    found, blocks = probes.find_outliers(tape), range(tape.plan.depth)
    lengths = [tape.norms(block)[PATCHES].flatten().double() for block in ("input", *blocks)]
    return {
        "median": [float(one.median()) for one in lengths],
        "p98": [float(one.quantile(HIGH) / one.median()) for one in lengths],
        "longest": [float(one.max() / one.median()) for one in lengths],
        "second mode": [int(probes.second_mode(one) is not None) for one in lengths],
        "found": [int(found.mask(block).sum()) for block in blocks],
        "start": -1 if found.start is None else found.start,
        "right": float(right.double().mean()),
    }


def measure(run: Run, device: str) -> dict:
    """One run: what `look` sees, lists by step for a number and by block, with the step in its name, for a list."""
    images, at = sets(run.what), [step for step in STEPS if step <= run.recipe.max_steps]
    torch.manual_seed(run.seed)
    model = ViT(run.config)
    seen = [part.to(device) for part in images.test.batch(range(LOOKED_AT))]
    looks = [look(model.to(device), *seen)]

    def on_step(step: int, loss: Tensor, model: ViT) -> None:
        if step in at:
            looks.append(look(model, *seen))

    fit(model, images, run.recipe, device=device, progress=False, workers=0, on_step=on_step)
    values = {"n": LOOKED_AT, "steps": at}
    for name, first in looks[0].items():
        if isinstance(first, list):
            values |= {f"{name} {step}": one[name] for step, one in zip(at, looks)}
        else:
            values[name] = [one[name] for one in looks]
    return values | {"accuracy": looks[-1]["right"]}


def claim(folder: str | None) -> ledger.Record | None:
    """What the registers paper says, by the rule in `book/predictions.md`, once all runs have a record; added once."""
    runs = ledger.read(EXPERIMENT, folder, missing_ok=True)
    known = ledger.read(PAPER, folder, missing_ok=True)
    if {(one.what, one.seed) for one in runs} != set(ORDER) or any(one.what.startswith(CLAIM) for one in known):
        return None
    first = [next((s for s, start in zip(one.get("steps"), one.get("start")) if start >= 0), -1) for one in runs]
    lasting = [one.get("start")[-1] >= 0 for one in runs]
    late = [lasts and step > one.get("steps")[-1] / 3 for one, step, lasts in zip(runs, first, lasting)]
    last = runs[0].get("steps")[-1]
    said = "reproduced" if all(late) else "null at this scale" if not any(lasting) else "not so"
    values = {
        "first step with outliers": first,
        "p98 after the last block": [one.get(f"p98 {last}")[-1] for one in runs],
        "longest after the last block": [one.get(f"longest {last}")[-1] for one in runs],
    }
    about = {"n": len(runs), "seed": None, "config": runs[0].config, "folder": folder}
    return ledger.add(PAPER, CLAIM + said, COMMAND, "cpu", values, **about)


if __name__ == "__main__":
    if row := claim(main(study, about=__doc__.splitlines()[0])):
        print(row.what)
