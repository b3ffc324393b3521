"""Where should class attention begin? Trunks of 3 to 12 blocks, read by two class-attention blocks or as a plain ViT.

    python -m book.experiments.cait --scale gpu --jobs 6

A plain ViT computes the class token alone in its last block, as only that is read. So `k` blocks that move patches and
two of class attention cost nearly what a plain ViT of `k + 1` blocks does, and these are compared, at every `k`. Three
runs at one `k` take the difference apart. What was expected, and how it is judged, is in `book/predictions.md`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType

import torch

from dtl_lib import data, record
from dtl_lib.config import CIFAR_MEAN, CIFAR_STD, ViTConfig
from dtl_lib.data.images import Images, Sets
from dtl_lib.models import ViT
from dtl_lib.probes import attention_row, entropy
from dtl_lib.tokens import Group, TokenPlan
from dtl_lib.train import FitResult, Recipe

from .stacked import fit_all
from .study import Run, Study, main

EXPERIMENT, COMMAND = "cait", "python -m book.experiments.cait --scale {}"
SEEDS, LOOKED_AT = (0, 1, 2), 500  # and the test images on which the class token's attention is measured
TRUNKS, APART, LAST = (3, 6, 12), 6, 9  # pairs first; then what takes one of them apart; then one pair more
CIFAR = ViTConfig(32, 4, dim=128, heads=4, classes=10, mean=CIFAR_MEAN, std=CIFAR_STD)
CONFIGS = MappingProxyType({
    "gpu": CIFAR, "cpu": replace(CIFAR, dim=64), "toy": replace(CIFAR, image_size=16, patch_size=8, dim=16),
})  # fmt: skip
RECIPES = MappingProxyType({
    "gpu": Recipe(
        epochs=10, batch_size=512, lr=1e-3, warmup_epochs=1, smoothing=0.1, crop=4, flip=True, eval_every=435,
    ),
    "cpu": Recipe(max_steps=500, batch_size=64, lr=1e-3, warmup_steps=100, flip=True, eval_every=250),
    "toy": Recipe(max_steps=3, batch_size=16, lr=1e-3, eval_every=3),
})  # fmt: skip


def pair(k: int) -> dict[str, TokenPlan]:
    """The two models whose patches pass `k` blocks: by name their plans."""
    return {f"plain {k}+1": TokenPlan.of(k + 1), f"class attention {k}:2": TokenPlan.of(k, k, class_blocks=2)}


def apart(k: int) -> dict[str, TokenPlan]:
    """What takes the difference at `k` apart: one class-attention block, which is a plain ViT whose class token enters
    before its last block; registers in the trunk, which stay as keys of class attention or leave before it; no class
    token at all."""
    cls, name = Group("cls", 1, enter=k), f"class attention {k}:2"
    return {
        f"class attention {k}:1": TokenPlan.of(k, k, class_blocks=1),
        f"{name}, registers stay": TokenPlan(k, (cls, Group("reg", 4)), class_blocks=2),
        f"{name}, registers leave": TokenPlan(k, (cls, Group("reg", 4, leave=k)), class_blocks=2),
        f"mean of the patches {k}": TokenPlan.of(k, None),
    }


def study(scale: str) -> Study:
    """The runs at a scale, decisive ones first; of each stage every first seed before any second."""
    toy, seeds = scale == "toy", SEEDS[:1] if scale == "toy" else SEEDS
    pairs = [{name: plan for k in trunks for name, plan in pair(k).items()} for trunks in (TRUNKS, (LAST,))]
    stages = (pair(1), apart(1)) if toy else (pairs[0], apart(APART), pairs[1])
    runs = tuple(
        Run(name, seed, CONFIGS[scale].with_plan(plan), replace(RECIPES[scale], seed=seed))
        for stage in stages
        for seed in seeds
        for name, plan in stage.items()
    )
    how = (measure_toy,) if toy else (measure, 0, measure_stacked)
    return Study(EXPERIMENT, COMMAND.format(scale), runs, *how)


@cache
def cifar() -> Sets:
    """Real CIFAR-10, once in each process."""
    return data.load("cifar10")


@cache
def shapes() -> Sets:
    """A few images of `shapes`, for the toy size: what is learned from is also what is tested on."""
    few = data.load("shapes", image_size=16, samples=64).train
    return Sets(few, few, few)


def measure(run: Run, device: str) -> dict:
    """Train a model on CIFAR-10: its accuracy, and where its class token looks."""
    return trained([run], device, cifar())[0]


def measure_stacked(runs: Sequence[Run], device: str) -> list[dict]:
    """The same for runs that differ in the seed alone, trained as one."""
    return trained(runs, device, cifar())


def measure_toy(run: Run, device: str) -> dict:
    """The same on few images of `shapes`."""
    return trained([run], device, shapes())[0]


def trained(runs: Sequence[Run], device: str, sets: Sets) -> list[dict]:
    """The values of the records of runs that differ in the seed alone."""
    models = []
    for run in runs:
        torch.manual_seed(run.seed)
        models.append(ViT(run.config))
    results = fit_all(models, sets, [run.recipe for run in runs], device)
    return [_values(model, result, sets, device) for model, result in zip(models, results)]


def _values(model: ViT, result: FitResult, sets: Sets, device: str) -> dict:
    rows = [row for row in result.history if "accuracy" in row]
    return {
        "accuracy": result.test.accuracy, "test_loss": result.test.loss, "n": result.test.n,
        "steps": [row["step"] for row in rows], "held_out": [row["accuracy"] for row in rows],
        "multiply_adds": model.config.cost().total, "seconds": result.seconds,
        **looks(model, sets.test, device),
    }  # fmt: skip


def looks(model: ViT, images: Images, device: str) -> dict[str, list[float]]:
    """Where the class token looks, a number for each block that it is in, mean over heads and images.

    Returns:
        its share on itself and on registers (0 without), and its evenness: entropy over that of an even look.
    """
    x, _ = images.batch(torch.arange(min(LOOKED_AT, len(images))))
    found = {"blocks": [], "on_itself": [], "on_registers": [], "evenness": []}
    with torch.no_grad(), record(model.eval(), all_queries=False, stream=False) as tape:
        model(x.to(device))
    for block in range(model.plan.blocks):
        if "cls" not in (layout := model.plan.layout(block)):
            continue
        row = attention_row(tape, block)
        even = torch.tensor(row.shape[-1]).log()
        on = {"on_itself": layout["cls"], "on_registers": layout.get("reg", slice(0, 0))}
        values = {name: row[..., where].sum(dim=-1) for name, where in on.items()} | {"evenness": entropy(row) / even}
        found["blocks"].append(block)
        for name, each in values.items():
            found[name].append(float(each.mean()))
    return found


if __name__ == "__main__":
    main(study, about=__doc__.splitlines()[0])
