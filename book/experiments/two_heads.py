"""Chapter 10's second question: what keeps two tokens apart that see the same patches, and what makes them one?

    python -m book.experiments.two_heads --scale cpu

trains a small model with class token and distillation token on `shapes`, from labels alone and without any teacher: the
mean of its heads learns the label; or each head learns it; or the second head learns something else, the label with
classes merged in pairs. What was expected is in `book/predictions.md`, committed before the first run.
"""

import sys
from dataclasses import replace

import torch
import torch.nn.functional as F

from dtl_lib import data, record
from dtl_lib.config import named
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe
from dtl_lib.train.loss import Objective
from dtl_lib.train.optim import learning_rate

from .study import Run, Study, main

EXPERIMENT = "two_heads"
MEAN, EACH, OTHER = ASKED = ("the mean of the heads", "each head", "each head, the second another question")
CONFIG = replace(named("vit_shapes_patch8_32"), plan=TokenPlan.of(4, dist=True))
RECIPE = Recipe(
    max_steps=400, batch_size=32, lr=3e-3, warmup_steps=50, distill="hard", distill_from="the labels", amp="off"
)
SEEDS, IMAGES = (2, 3, 4, 5, 6), 1000


def study(scale: str) -> Study:
    """Every condition's first seed before any second; there is no larger scale than that of a CPU."""
    toy = scale == "toy"
    recipe, seeds = (replace(RECIPE, max_steps=2, warmup_steps=1), SEEDS[:1]) if toy else (RECIPE, SEEDS)
    runs = tuple(Run(asked, seed, CONFIG, replace(recipe, seed=seed)) for seed in seeds for asked in ASKED)
    return Study(EXPERIMENT, f"python -m book.experiments.two_heads --scale {scale}", runs, measure)


def merged(labels: torch.Tensor) -> torch.Tensor:
    """Classes 0 and 1 are 0, 2 and 3 are 2, and so on."""
    return labels - labels % 2


def measure(run: Run, device: str) -> dict:
    """One run: trains, and gives the values of its record."""
    sets, recipe = data.load("shapes"), run.recipe
    torch.manual_seed(run.seed)
    model = ViT(run.config)
    objective = Objective(model, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay)
    for step in range(recipe.max_steps):
        first = (step + run.seed * recipe.max_steps) * recipe.batch_size
        numbers = torch.arange(first, first + recipe.batch_size) % len(sets.train)
        images, labels = sets.train.batch(numbers)
        second = None if run.what == MEAN else F.one_hot(merged(labels) if run.what == OTHER else labels, 10).float()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, recipe.max_steps, recipe.warmup_steps)
        loss = objective(images, labels, second)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
    return looked_into(model.eval(), *sets.test.batch(torch.arange(IMAGES)))


@torch.no_grad()
def looked_into(model: ViT, images: torch.Tensor, labels: torch.Tensor) -> dict:
    """What each head gets right, and how alike the tokens are: as learned, and after each block."""
    with record(model) as tape:
        heads = dict(zip(("cls", "dist"), model.heads(images)))
    heads["mean"] = (heads["cls"] + heads["dist"]) / 2
    cosines = [F.cosine_similarity(model.tokens["cls"], model.tokens["dist"]).item()]
    for block in range(model.plan.blocks):
        layout, tokens = model.plan.layout(block), tape.tokens(block)
        pair = (tokens[:, layout[name]].flatten(1) for name in ("cls", "dist"))
        cosines.append(F.cosine_similarity(*pair).mean().item())
    right = {f"accuracy_{name}": (head.argmax(dim=1) == labels).double().mean().item() for name, head in heads.items()}
    return {"n": len(labels), "accuracy": right["accuracy_mean"], **right, "cosine": cosines}


if __name__ == "__main__":
    main(study, sys.argv[1:], __doc__.splitlines()[0])
