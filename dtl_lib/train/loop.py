"""The training loop, on one page."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import batches
from .device import autocast, keyed_generators
from .mixing import mixer
from .recipe import Recipe
from .run import FitResult, Run
from .schedule import learning_rate
from .stop import Stopped, between_steps


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
) -> FitResult:
    """Train `model`, which is left with the weights that were best on held-out images.

    Args:
        model: a `ViT`; its configuration takes over the data's mean and standard deviation.
        sets: `data.load(…)`: train, held_out, test.
        recipe: how.
        output_dir: where to keep the best weights, the state and the log; None keeps nothing.
        resume: go on from the state in `output_dir`.
        device: "cuda", "cpu", …; None takes the GPU where there is one.
        on_step: called after every step with its number (from 1), its loss and the model.
        checkpoint_every: steps between saves of the whole state; None saves with each evaluation.
        progress: whether to show a bar.
        tensorboard: whether to write TensorBoard's curves to `output_dir`.
        workers: processes that read images from files; None decides.
        card: more to say on the checkpoints' cards.

    Raises:
        ValueError: where model, data, recipe and state do not fit together, or the loss is no number any more.
        Stopped: after Ctrl-C with an `output_dir`: the state is saved.
    """
    run = Run(model, sets, recipe, output_dir, device, resume, card or {}, tensorboard, progress)
    device, optimizer, scaler, average, total, now = (
        run.device, run.optimizer, run.scaler, run.average, run.total, run.progress,
    )  # fmt: skip
    mix = mixer(recipe, model.config.classes)
    model.train()

    with between_steps(run.folder is not None) as asked, run:
        for x, y in batches.training(run.train, recipe, now.step, total, workers):
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, now.step, total, run.warmup)

            loss = 0.0
            with keyed_generators(device, recipe.seed, now.step):
                x, y = mix(x, y) if mix else (x, y)
                for images, labels in zip(x.chunk(recipe.accumulate), y.chunk(recipe.accumulate)):
                    with autocast(device, recipe.amp):
                        logits = model(images)
                        part = F.cross_entropy(logits, labels, label_smoothing=recipe.smoothing) / recipe.accumulate
                    scaler.scale(part).backward()
                    loss = loss + part.detach()
            if recipe.clip is not None:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(run.parameters, recipe.clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if average:
                average.update(now.step)

            now.step += 1
            run.count(loss)
            if on_step:
                on_step(now.step, loss, model)
                model.train()  # who looks at a model often leaves it in eval mode
            last = now.step == total
            if evaluated := (last or now.step % run.eval_every == 0):
                run.evaluate()
            elif now.step % recipe.log_every == 0:
                run.report()
            if last or asked.stop or (now.step % checkpoint_every == 0 if checkpoint_every else evaluated):
                run.save()
            if asked.stop and not last:
                raise Stopped(now.step, total, run.folder)
    return run.end()
