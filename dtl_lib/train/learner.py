"""What a training step works on: the model with its loss, what moves its weights, and what watches over both."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.augment.mixing import mixer
from .device import precision
from .distributed.processes import Processes
from .finetuning import freeze
from .loss import Objective, compile_once
from .optim import Average, Guard, Schedule, make_optimizer
from .recipe import Recipe


@dataclass
class Learner:
    """The parts of a training step, which `train_step` puts to work.

    Attributes:
        model: the `ViT` that learns.
        objective: the model with its loss, as it is called: maybe compiled, copied to other processes or sharded.
        optimizer: moves the model's parameters.
        recipe: batch parts, precision, seed.
        schedule: the learning rate of each step.
        device: where all of it is.
        scaler: of the loss, for float16; does nothing in other precisions.
        guard: limits the gradient's norm, and looks out for non-finite ones.
        mix: mixup or CutMix of a batch; None where the recipe has neither.
        teacher: gives the logits to distil from; None without one.
        average: the weights' moving average; None without one.
        processes: those that share the step.
        parameters: the model's, whose gradients are limited together.
    """

    model: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    schedule: Schedule
    device: torch.device
    scaler: torch.amp.GradScaler
    guard: Guard
    mix: Callable[..., tuple[Tensor, Tensor]] | None
    teacher: Callable[[Tensor], Tensor] | None
    average: Average | None
    processes: Processes
    parameters: list[nn.Parameter]


def make_learner(
    model: nn.Module, recipe: Recipe, schedule: Schedule, device: torch.device, processes: Processes | None = None, *,
    shard: bool = False, compiled: bool | str = False, folder: Path | None = None,
) -> Learner:  # fmt: skip
    """Put a model on its device, wrap it as the processes need it, and give it what it learns with.

    Args:
        model: a `ViT`, which is changed in place.
        recipe: how it learns.
        schedule: of that recipe, for the number of images there are.
        device: where it computes.
        processes: those that learn together; this one alone where None.
        shard: share the model out over the processes instead of copying it to each.
        compiled: whether to compile the forward and backward pass; a string names the backend.
        folder: of the run, which errors about its gradients name.

    Raises:
        ValueError: where the teacher of the recipe does not fit the model, or cannot be had.
    """
    processes = processes or Processes()
    shard = shard and processes.world > 1
    if not shard:  # a sharded model comes to the device in parts: whole it may not fit there
        model.to(device)
    freeze(model, recipe)  # before DDP looks at what learns
    objective = Objective(model, recipe)
    if compiled:
        compile_once(objective, backend=compiled if isinstance(compiled, str) else "inductor")
    wrapped = processes.wrap(objective, device, shard)
    optimizer = make_optimizer(model, recipe)
    average = Average(model, recipe.ema) if recipe.ema else None
    teacher = None
    if recipe.distill_from:
        from .teacher import load_teacher

        with processes.first_on_each_host():  # what has to be fetched is fetched once
            teacher = load_teacher(recipe.distill_from, device, model.config)
    scaler = torch.amp.GradScaler(device.type, enabled=precision(device, recipe.amp) == "fp16")
    guard = Guard(recipe, device, folder)
    mixes = recipe.mixup or recipe.cutmix  # the benchmarks bring models of timm, which have no such configuration
    mix = mixer(recipe.mixup, recipe.cutmix, model.config.classes) if mixes else None
    parameters = list(model.parameters())
    return Learner(
        model, wrapped, optimizer, recipe, schedule, device, scaler, guard, mix, teacher, average, processes, parameters
    )
