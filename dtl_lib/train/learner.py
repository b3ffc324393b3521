"""What a training step works on: the model with its loss, what moves its weights, and what watches over both."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checks import whole
from ..data.augment.mixing import mixer
from ..models import ViT
from .device import precision
from .distributed.processes import Processes
from .evaluation import check_weights
from .finetuning import freeze
from .loss import Objective, compile_once
from .optim import EMA, Guard, Schedule, make_optimizer
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
        ema: the weights' moving average; None without one.
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
    ema: EMA | None
    processes: Processes
    parameters: list[nn.Parameter]


def check_given(model, sets, recipe, output_dir, checkpoint_every, workers) -> None:
    """A ValueError that says which of these `fit` cannot begin with, and what it takes."""
    if hasattr(model, "_orig_mod"):
        raise ValueError("fit compiles a model itself: give the one inside (._orig_mod), and compiled=True")
    for value, kind, how in (
        (model, ViT, "from_timm makes one of a timm model"),
        (recipe, Recipe, "such as Recipe(epochs=10)"),
    ):
        if not isinstance(value, kind):
            raise ValueError(f"fit takes a {kind.__name__} ({how}), not a {type(value).__name__}")
    if not all(hasattr(sets, part) for part in ("train", "held_out", "test")):
        raise ValueError(f"fit takes a Sets (data.load makes one), not a {type(sets).__name__}")
    if output_dir is not None and not str(output_dir).strip():
        raise ValueError("output_dir is empty: name a folder, or give None, which keeps nothing")
    if checkpoint_every is not None:
        whole("checkpoint_every", checkpoint_every)
    if workers is not None:
        whole("workers", workers, least=0)
    if not torch.is_grad_enabled():
        raise ValueError("fit needs gradients: call it outside of torch.no_grad() and torch.inference_mode()")
    for name, value in model.named_parameters():
        if value.is_inference() or value.dtype != torch.float32:
            what, how = f"is {value.dtype}", "give model.float(); amp says what is computed in less"
            if value.is_inference():
                what, how = "was made in inference_mode", "give copy.deepcopy(model)"
            raise ValueError(f"{name} {what}, and cannot learn: {how}")
    check_weights(model)


def make_learner(
    model: nn.Module, recipe: Recipe, schedule: Schedule, device: torch.device, processes: Processes | None = None, *,
    shard: bool = False, compiled: bool | str = False, folder: Path | None = None,
    teacher: nn.Module | None = None,
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
        teacher: as in `fit`.

    Raises:
        ValueError: where the teacher of the recipe does not fit the model, or cannot be had.
    """
    processes = processes or Processes()
    shard = shard and processes.world_size > 1
    if not shard:  # a sharded model comes to the device in parts: whole it may not fit there
        model.to(device)
    freeze(model, recipe)  # before DDP looks at what learns
    objective = Objective(model, recipe)
    if compiled:
        compile_once(objective, compiled)
    wrapped = processes.wrap(objective, device, shard)
    optimizer = make_optimizer(model, recipe)
    ema = EMA(model, recipe.ema) if recipe.ema else None
    teaches = None
    if teacher is not None and not recipe.distill_from:
        raise ValueError("there is a teacher, and the recipe does not learn from one: distill_from is its name")
    if recipe.distill_from:
        from .teacher import load_teacher

        with processes.first_on_each_host():  # what has to be fetched is fetched once
            teaches = load_teacher(recipe.distill_from, device, model.config, teacher)
    scaler = torch.amp.GradScaler(device.type, enabled=precision(device, recipe.amp) == "fp16")
    guard = Guard(recipe, device, folder)
    mixes = recipe.mixup or recipe.cutmix  # the benchmarks bring models of timm, which have no such configuration
    mix = mixer(recipe.mixup, recipe.cutmix, model.config.classes) if mixes else None
    parameters = list(model.parameters())
    return Learner(
        model, wrapped, optimizer, recipe, schedule, device, scaler, guard, mix, teaches, ema, processes, parameters
    )
