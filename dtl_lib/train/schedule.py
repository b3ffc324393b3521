"""The learning rate at a step, the optimiser, and the weights' moving average."""

import copy
import math

import torch
from torch import nn

from .recipe import Recipe


def learning_rate(recipe: Recipe, step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine from `lr` to `min_lr` (SGDR, Loshchilov and Hutter 2017, §3, eq. 5).

    Args:
        step: counts from 0.
        total: steps in all.
        warmup: steps of warm-up; the first step is already above 0.
    """
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays matrices alone (Decoupled weight decay regularization, Loshchilov and Hutter 2019, alg. 2)."""
    free = model.no_weight_decay()
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    groups = [
        {"params": [value for name, value in trained if name not in free], "weight_decay": recipe.weight_decay},
        {"params": [value for name, value in trained if name in free], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)


class Average:
    """An exponential moving average of a model's weights, short-sighted at first: decay ≤ (1 + step) / (10 + step).

    Attributes:
        model: a copy of the model that holds the average.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs = list(zip(self.model.parameters(), model.parameters()))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, value in self._pairs:
            average.lerp_(value, 1 - decay)
