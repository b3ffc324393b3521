"""Runs that differ in the seed alone, trained as one: their weights are stacked, and every kernel works on all of them.

    from .stacked import fit_all

A small model leaves most of a GPU idle: a step is a thousand kernels of a few microseconds each, and stacked they take
hardly longer. What comes out is what `fit` gives run by run, up to rounding.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vmap

from dtl_lib.config import ViTConfig
from dtl_lib.data.images import Sets
from dtl_lib.host import find_device
from dtl_lib.layers import DotProduct
from dtl_lib.models import ViT
from dtl_lib.train import FitResult, Recipe, fit
from dtl_lib.train.device import autocast
from dtl_lib.train.learner import Learner, check_given
from dtl_lib.train.loop import StepResult
from dtl_lib.train.run import Run

OnStep = Callable[[int, Tensor], None]


def fit_all(
    models: Sequence[ViT], sets: Sets, recipes: Sequence[Recipe], device: str | None = None,
    on_step: OnStep | None = None,
) -> list[FitResult]:  # fmt: skip
    """Train models of one architecture, each by its recipe; as `fit` does, each is left with its best weights.

    Args:
        models: alike but for their weights.
        sets: as in `fit`.
        recipes: alike but for the seed.
        device: as in `fit`.
        on_step: called after every step with its number (from 1) and the losses `(models,)`.

    Raises:
        ValueError: where recipes differ in more than the seed, or ask for what a stack cannot: they are trained one by
            one then; and as `fit` does.
    """
    if not models or len(models) != len(recipes):
        raise ValueError(f"a stack takes models and a recipe for each, not {len(models)} and {len(recipes)}")
    if why := cannot_be_stacked([model.config for model in models], recipes):
        raise ValueError(why)
    if len(models) == 1:
        alone = (lambda step, loss, _: on_step(step, loss[None])) if on_step else None
        return [fit(models[0], sets, recipes[0], device=device, progress=False, workers=0, on_step=alone)]
    runs = [_run(model, sets, recipe, find_device(device)) for model, recipe in zip(models, recipes)]
    stack, schedule = Stack([run.learner for run in runs]), runs[0].learner.schedule
    with ExitStack() as bars:
        for run in runs:
            bars.enter_context(run)
        for number, batches in enumerate(zip(*(run.batches() for run in runs)), 1):
            losses = stack.step(batches, number - 1)
            if on_step:
                on_step(number, losses)
            for run, loss in zip(runs, losses):
                run.count(StepResult(loss, False))
                if number == schedule.total or number % schedule.eval_every == 0:
                    run.evaluate()
                elif number % run.learner.recipe.log_every == 0:
                    run.report()
    return [run.end() for run in runs]


def cannot_be_stacked(configs: Sequence[ViTConfig], recipes: Sequence[Recipe]) -> str:
    """Why the runs of these models have to be made one by one; "" where they can be stacked."""
    first, recipe = configs[0], recipes[0]
    if any(config != first for config in configs):
        return "stacked models are of one configuration"
    if any(replace(other, seed=recipe.seed) != recipe for other in recipes):
        return "stacked runs differ in the seed alone"
    if len(configs) == 1:
        return ""
    if first.drop_path or recipe.mixup or recipe.cutmix:
        return "stochastic depth and mixed images are drawn run by run: they cannot be stacked"
    if recipe.amp == "fp16" or recipe.ema or recipe.accumulate > 1 or recipe.distill:
        return "a stack knows no float16, moving average, micro-batches or teacher"
    if recipe.optimizer != "adamw" or recipe.on_nan == "skip":
        return "a stack knows AdamW alone, and skips no step: LAMB's step and a skipped one are a model's own"
    return ""


class FoldedAttention(torch.autograd.Function):
    """Fused attention under `vmap`: models become a part of the batch, as CUDA's kernels do not know of `vmap`."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Nothing is kept: under `vmap` autograd follows what `vmap` below calls."""

    @staticmethod
    def vmap(info, in_dims, *qkv: Tensor) -> tuple[Tensor, int]:
        q, k, v = (part.movedim(at, 0).flatten(0, 1) for part, at in zip(qkv, in_dims))
        return F.scaled_dot_product_attention(q, k, v).unflatten(0, (info.batch_size, -1)), 0


class FoldedDotProduct(DotProduct):
    """`DotProduct` in a stack."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return FoldedAttention.apply(q, k, v)


class Stack:
    """The weights of several learners, one behind another; each model's own are views of them.

    Args:
        learners: of `Run`, alike but for weights and seed.
    """

    def __init__(self, learners: Sequence[Learner]):
        self.learners, first = learners, learners[0]
        self._objective = copy.deepcopy(first.objective)
        for part in self._objective.modules():
            if isinstance(getattr(part, "core", None), DotProduct):
                part.core = FoldedDotProduct()
        named = [dict(learner.model.named_parameters()) for learner in learners]
        self.weights = {
            name: torch.stack([weights[name].detach() for weights in named]).requires_grad_(value.requires_grad)
            for name, value in named[0].items()
        }
        for at, weights in enumerate(named):
            for name, value in weights.items():
                value.data = self.weights[name].detach()[at]
        names = {id(value): name for name, value in named[0].items()}
        groups = [  # what is frozen is in none
            {**group, "params": [self.weights[names[id(value)]] for value in group["params"]]}
            for group in first.optimizer.param_groups
        ]
        self.optimizer = type(first.optimizer)(groups)

    def step(self, batches: Sequence[tuple[Tensor, Tensor]], step: int) -> Tensor:
        """Move all weights once; `train_step` of each.

        Args:
            batches: for each model its images and labels.
            step: steps taken before.

        Returns:
            The losses before the step, `(models,)`.
        """
        first = self.learners[0]
        images, labels = (torch.stack(parts).to(first.device) for parts in zip(*batches))
        with autocast(first.device, first.recipe.amp):
            losses = vmap(self._loss)(self.weights, images, labels)
        losses.sum().backward()
        norms = self._clip(first.recipe.clip)
        for learner, norm in zip(self.learners, norms):
            learner.guard.should_step(norm, step + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = first.schedule.lr(step) * group["lr_scale"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses.detach()

    def _loss(self, weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        named = {f"model.{name}": value for name, value in weights.items()}
        return functional_call(self._objective, named, (images, labels))

    def _clip(self, limit: float | None) -> Tensor:
        """Limit each model's gradient; the norms before, `(models,)`."""
        gradients = [value.grad for value in self.weights.values() if value.grad is not None]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        if limit is not None:
            factor = (limit / (norms + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, [factor.view(-1, *[1] * (value.ndim - 1)) for value in gradients])
        return norms


def _run(model: ViT, sets: Sets, recipe: Recipe, device: torch.device) -> Run:
    check_given(model, sets, recipe, None, None, 0)
    return Run(
        model, sets, recipe, None, device=device, resume=False, card={}, tensorboard=False, progress=False,
        processes=None, shard=False, compiled=False, workers=0, max_corrupt=0.001,
    )  # fmt: skip
