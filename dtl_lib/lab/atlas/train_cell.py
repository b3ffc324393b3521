"""One run of an atlas: train a cell, measure it, and return the values of its record."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ... import checkpoint
from ...models import ViT
from ...pretrained import load_shared
from ...probes.attention import attention_row, entropy, share
from ...probes.norms import norm_quantiles
from ...tape import record
from ...tokens import TokenPlan
from ...train import FitResult, Recipe, fit
from ...train.evaluation import as_expected
from .grid import Cell, Grid, weights_name

INSPECTED = 500  # test images that maps and norms are measured on
QUANTILES = {"norm_50": 0.5, "norm_98": 0.98}


def fresh(grid: Grid, cell: Cell, seed: int) -> ViT:
    """The cell's model before training; weights it shares with the standard plan start equal in all cells of a seed."""
    torch.manual_seed(seed)
    standard = ViT(replace(grid.config, plan=TokenPlan.of(grid.config.depth), pool="cls"))
    model = ViT(cell.config(grid.config))
    weights = standard.state_dict()
    if cell.config(grid.config).pool == "patches":  # the same classifier, whatever it reads
        weights = {name.replace("classifiers.cls", "classifiers.patches"): value for name, value in weights.items()}
    load_shared(model, weights, grid.config.depth)
    return model


def train_cell(
    grid: Grid, cell: Cell, seed: int, sets, folder: str | Path | None = None, device: str | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[ViT, dict]:  # fmt: skip
    """Train one cell from one seed; the model, and the values of its record with `n`, the test images.

    Args:
        sets: `grid.sets()`.
        folder: where to keep the weights; None keeps none.
        device: as in `fit`.
        on_step: called after every step, with its number.
    """
    recipe = replace(grid.recipe, seed=seed)
    step = (lambda number, *_: on_step(number)) if on_step else None
    model = fresh(grid, cell, seed)
    result = fit(model, sets, recipe, device=device, progress=False, on_step=step)
    if folder:
        checkpoint.save_model(Path(folder) / weights_name(cell, seed), model, {"recipe": recipe.to_dict()})
    return model, measured(model, result, recipe, sets)


def measured(model: ViT, result: FitResult, recipe: Recipe, sets) -> dict:
    """The values of the record of a run that `fit` has made, with `n`, the test images."""
    return {
        "n": result.test.n,
        "accuracy": result.test.accuracy,
        "loss": result.test.loss,
        "held_out": result.best["accuracy"],
        "train_loss": next(row["loss"] for row in reversed(result.history) if "loss" in row),
        "steps": recipe.steps(len(sets.train)),
        "images": recipe.steps(len(sets.train)) * recipe.batch_size,
        "seconds": result.seconds,
        "multiply_adds": model.config.cost().total,
        **look_inside(model, sets.test),
    }


def inspected(length: int) -> torch.Tensor:
    """Which of so many images are looked at: some at even distances, since the first of a folder are of one class."""
    count = min(INSPECTED, length)
    return torch.arange(count) * length // count


@torch.inference_mode()
def look_inside(model: ViT, images) -> dict:
    """Norms by block, and where the class token looks in its last block.

    Returns:
        A dictionary. `norm_50` and `norm_98` are quantiles of the patch tokens' norms after each block of the trunk,
        `entropy` is that of the class token's attention in nats, averaged over images and heads, and `on_registers`
        is the share of that attention that the registers get.
    """
    x, _ = as_expected(model, images).batch(inspected(len(images)))
    x = x.to(next(model.parameters()).device)
    model.eval()
    with record(model) as tape:
        model(x)
    norms = [norm_quantiles(tape, block, list(QUANTILES.values())) for block in range(model.plan.depth)]
    values = {name: list(lengths) for name, lengths in zip(QUANTILES, zip(*norms))}
    last = model.plan.blocks - 1
    if "cls" in model.plan.layout(last):
        values["entropy"] = entropy(attention_row(tape, last)).mean().item()
        if "reg" in model.plan.layout(last):
            values["on_registers"] = share(tape, last, "reg").mean().item()
    return values
