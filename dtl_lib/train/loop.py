"""The training loop, on one page."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..data import loader as batches
from ..data.augment.mixing import mixer
from .device import autocast, keyed_generators
from .distributed.processes import Processes
from .distributed.signals import between_steps
from .recipe import Recipe
from .result import FitResult
from .run import Run


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
) -> FitResult:
    """Train `model`, which is left with the weights that were best on held-out images.

    Args:
        model: a `ViT`; its configuration takes over the data's mean and standard deviation.
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
        processes: what `distributed.joined` gives: each calls `fit`, and makes its part of every batch.
        shard: cut the model over the processes (`fully_shard`) instead of copying it to each.
        compiled: compile the forward and backward pass with `torch.compile`.
        max_corrupt: share of the training images that may be unreadable before training stops; others stand in for
            them.

    Raises:
        ValueError: where model, data, recipe and state do not fit together, or the loss becomes non-finite.
        Stopped: after Ctrl-C or SIGTERM with an `output_dir`: the state is saved.
    """
    run = Run(
        model, sets, recipe, output_dir, device=device, resume=resume, card=card or {}, tensorboard=tensorboard,
        progress=progress, processes=processes, shard=shard, compiled=compiled, workers=workers,
        max_corrupt=max_corrupt,
    )  # fmt: skip
    device, processes, now, total = run.device, run.processes, run.progress, run.total
    rank, world = processes.rank, processes.world
    mix, teacher = mixer(recipe, model.config.classes), run.teacher
    model.train()

    with between_steps(run.folder is not None) as asked, run:
        if now.unevaluated:
            if not run.evaluate(asked):
                raise run.stopped(asked)
            run.save()
        for x, y in batches.training(
            run.train, recipe, now.step, total, workers, rank=rank, world=world, corrupt=run.corrupt, device=device,
            cores=processes.cores,
        ):  # fmt: skip
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            if mix:
                with keyed_generators(device, recipe.seed, now.step):  # drawn alike on every process
                    x, y = mix(x, y, neighbour=world > 1)
            loss, parts = 0.0, list(zip(x.chunk(recipe.accumulate), y.chunk(recipe.accumulate)))
            with keyed_generators(device, recipe.seed, now.step, rank):
                for number, (images, labels) in enumerate(parts, 1):
                    with run.sync(last=number == len(parts)):
                        with autocast(device, recipe.amp):
                            taught = teacher(images) if teacher else None
                            part = run.objective(images, labels, taught) / len(parts)
                        run.scaler.scale(part).backward()
                    loss = loss + part.detach()
            run.set_learning_rate()
            run.update()
            run.count(loss)

            if on_step:
                on_step(now.step, loss, model)
                model.train()  # who looks at a model often leaves it in eval mode
            last, stop = now.step == total, processes.any_rank(asked.stop)
            if evaluated := (last or now.step % run.eval_every == 0):
                stop |= not run.evaluate(asked)
            elif now.step % recipe.log_every == 0:
                run.report()
            if last or stop or (now.step % checkpoint_every == 0 if checkpoint_every else evaluated):
                run.save()
            if stop and (not last or now.unevaluated):
                raise run.stopped(asked)
        return run.end(asked)
