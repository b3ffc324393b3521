"""The training loop, on one page: `train_step` is one step, `fit` takes it again and again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from ..data.keyed import keyed_generators
from .device import autocast
from .distributed.processes import Processes, gradient_sync
from .distributed.signals import between_steps
from .learner import Learner, check_given
from .recipe import Recipe
from .resuming import exclusive
from .run import FitResult, Run


class StepResult(NamedTuple):
    """What a step came to.

    Attributes:
        loss: on this process's images, before the step; a scalar on the device.
        skipped: whether the guard skipped the step, as its gradients are non-finite. Whether the scaler leaves out a
            float16 step, to try a smaller scale next, the device alone knows here: `Guard.left_out` counts those. As
            steps count batches, the learning rate is that of the next step after either.
    """

    loss: Tensor
    skipped: bool


def train_step(learner: Learner, images: Tensor, labels: Tensor, step: int) -> StepResult:
    """Move a model's weights once: the step that `fit` takes, and the one that `dtl bench` times.

    Args:
        learner: what learns.
        images: `(batch, channels, height, width)`, normalised, on any device: this process's part of the batch.
        labels: classes `(batch,)`.
        step: steps taken before; with the recipe's seed it decides what is random.
    """
    recipe, device, processes = learner.recipe, learner.device, learner.processes

    # Move. From pinned memory this does not wait: the GPU may still be busy with the step before.
    images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    # Mix: mixup or CutMix, drawn alike on every process, as each holds a part of one batch.
    if learner.mix:
        with keyed_generators(device, recipe.seed, step):
            images, labels = learner.mix(images, labels, neighbour=processes.world_size > 1)

    # Forward and backward, a micro-batch at a time: gradients add up in place, and only one micro-batch's activations
    # are in memory. Stochastic depth draws by (seed, step, rank), so a run that is resumed draws the same.
    total = 0.0
    micro_batches = list(zip(images.chunk(recipe.accumulate), labels.chunk(recipe.accumulate)))
    with keyed_generators(device, recipe.seed, step, processes.rank):
        for number, (x, y) in enumerate(micro_batches, 1):
            with gradient_sync(learner.objective, last=number == len(micro_batches)):  # all-reduce once a step
                with autocast(device, recipe.amp):
                    teacher_logits = learner.teacher(x) if learner.teacher else None
                    loss = learner.objective(x, y, teacher_logits) / len(micro_batches)
                learner.scaler.scale(loss).backward()  # float16 gradients would underflow without the scale
            total = total + loss.detach()

    with record_function("part: update"):  # `dtl bench --profile` reads this mark
        for group in learner.optimizer.param_groups:
            group["lr"] = learner.schedule.lr(step) * group["lr_scale"]
        # Unscale before clipping: the limit is one of the true gradient.
        learner.scaler.unscale_(learner.optimizer)
        grad_norm = learner.guard.clip_grad_norm(learner.parameters)
        # Skip: with on_nan="skip" non-finite gradients move nothing. All processes see one norm.
        should_step = learner.guard.should_step(grad_norm, step + 1, scaled=learner.scaler.is_enabled())
        if should_step:
            learner.scaler.step(learner.optimizer)
            if learner.ema:
                learner.ema.update(step, grad_norm.isfinite() if learner.scaler.is_enabled() else None)
        learner.scaler.update()
        learner.optimizer.zero_grad()
    return StepResult(total, not should_step)


def fit(
    model,
    sets,
    recipe: Recipe,
    output_dir: str | Path | None = None,
    *,
    resume: bool = False,
    device: str | None = None,
    on_step: Callable[[int, Tensor, torch.nn.Module], None] | None = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
    tensorboard: bool = False,
    workers: int | None = None,
    card: Mapping | None = None,
    processes: Processes | None = None,
    shard: bool = False,
    compiled: bool = False,
    max_corrupt: float = 0.001,
    teacher: torch.nn.Module | None = None,
) -> FitResult:
    """Train `model`, which is left with the weights that were best on held-out images.

    Args:
        model: a `ViT`; its configuration takes over the data's mean and standard deviation, unless its weights are
            trained ones: then their own hold, whatever the data.
        sets: `data.load(…)`: train, held_out, test.
        recipe: how.
        output_dir: where to keep the best weights, the state and the log; None keeps nothing.
        resume: go on from the state in `output_dir`.
        device: "cuda", "cpu", …; None takes the GPU where there is one.
        on_step: called after every step with its number (from 1), its loss on this process's images, and the model.
        checkpoint_every: steps between saves of the whole state; None saves with each evaluation.
        progress: whether to show a bar.
        tensorboard: whether to write TensorBoard's curves to `output_dir`.
        workers: processes that read images from files; None decides.
        card: more to say on the checkpoints' cards.
        processes: what `distributed.processes.joined` gives: each calls `fit` on its own device, and makes its part of
            every batch.
        shard: shard the parameters over the processes (FSDP) instead of copying them to each (DDP).
        compiled: compile the forward and backward pass with `torch.compile`.
        max_corrupt: share of the training images that may be unreadable before it stops; others stand in for them.
        teacher: what to distil from, a module that gives logits for the student's images as they are normalised;
            `recipe.distill_from` is then its name. None loads the one of that name.

    Raises:
        ValueError: where model, data, recipe and state do not fit together, another process trains in `output_dir`, or
            the loss becomes non-finite.
        Stopped: after Ctrl-C or SIGTERM with an `output_dir`: the state is saved.
    """
    check_given(model, sets, recipe, output_dir, checkpoint_every, workers)
    folder, processes = Path(output_dir) if output_dir else None, processes or Processes()
    with exclusive(folder, processes):
        run = Run(
            model, sets, recipe, folder, device=device, resume=resume, card=card or {}, tensorboard=tensorboard,
            progress=progress, processes=processes, shard=shard, compiled=compiled, workers=workers,
            max_corrupt=max_corrupt, checkpoint_every=checkpoint_every, teacher=teacher,
        )  # fmt: skip
        schedule, state = run.learner.schedule, run.train_state
        model.train()

        with between_steps(enabled=run.folder is not None) as stop_request, run:
            if state.unevaluated:  # the run was stopped inside an evaluation, which is made up for
                if not run.evaluate(stop_request):
                    raise run.stopped(stop_request)
                run.save()
            for images, labels in run.batches():
                result = train_step(run.learner, images, labels, state.step)
                run.count(result)
                if on_step:
                    on_step(state.step, result.loss, model)
                    model.train()  # whoever looks at a model often leaves it in eval mode

                # What follows are collectives: every rank has to take the same branch, or the others wait for it.
                last, stop = state.step == schedule.total, run.processes.any_rank(stop_request.stop)
                if evaluated := (last or state.step % schedule.eval_every == 0):
                    stop |= not run.evaluate(stop_request)
                elif state.step % recipe.log_every == 0:
                    run.report()
                if last or stop or (state.step % checkpoint_every == 0 if checkpoint_every else evaluated):
                    run.save()
                if stop and (not last or state.unevaluated):
                    raise run.stopped(stop_request)
            return run.end(stop_request)
