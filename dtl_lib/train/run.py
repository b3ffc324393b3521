"""What surrounds the training loop: where it begins, what it writes down, what it keeps."""

import copy
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__, checkpoint
from ..data.corrupt import CorruptImages
from ..hashing import plain
from ..host import device_name, find_device
from ..progress import progress_bar
from . import resuming, state
from .clock import Clock
from .device import precision
from .distributed.agreement import check_ranks_agree
from .distributed.processes import Processes
from .distributed.sharding import collect, reshard
from .distributed.signals import Stopped, StopRequest
from .evaluation import EvaluationStopped, check_classes, evaluate, token_norms
from .health import Health
from .log import Log
from .loss import Objective, compile_once
from .optim import Average, learning_rate, make_optimizer
from .recipe import Recipe
from .result import FitResult
from .resuming import BEST
from .state import Progress

SAMPLE = 32  # held-out images whose token norms are logged


class Run:
    """One training run: its parts, made or restored, and its books. A context that shows the bar.

    Args: as in `fit`.
    """

    def __init__(
        self, model, sets, recipe: Recipe, output_dir, *, device, resume, card, tensorboard, progress, processes,
        shard, compiled, workers, max_corrupt,
    ):  # fmt: skip
        self.processes = processes or Processes()
        self.processes.settle()
        self.device, self.workers = find_device(device), workers
        move = not recipe.slow_augmentation
        self.train, self.held_out, self.test = (
            _near(part, self.device) if move else part for part in (sets.train, sets.held_out, sets.test)
        )
        parts = {"training": self.train, "held-out": self.held_out, "test": self.test}
        check_ranks_agree(self.processes, model.config, recipe, parts, shard=shard)
        check_classes(model, self.train)
        _divides(recipe, self.processes.world)
        model.config = replace(model.config, mean=self.train.mean, std=self.train.std)
        self.model, self.recipe, self.folder = model, recipe, Path(output_dir) if output_dir else None
        self.total, self.per_epoch = recipe.steps(len(self.train)), recipe.steps_per_epoch(len(self.train))
        self.warmup = recipe.warmup_steps or round(recipe.warmup_epochs * self.per_epoch)
        self.eval_every = recipe.eval_every or self.per_epoch
        self.corrupt = CorruptImages(max_corrupt)
        self._build(shard and self.processes.world > 1, compiled)
        half = precision(self.device, recipe.amp)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half == "fp16")
        self.health = Health(self)
        self.about = {
            "config": plain(model.config.to_dict()), "recipe": plain(recipe.to_dict()), "seed": recipe.seed,
            "data": {"name": self.train.name, "fingerprint": self.train.fingerprint()}, "library": __version__,
            "torch": torch.__version__, "device": device_name(self.device), "precision": half,
            "processes": self.processes.world,
        }  # fmt: skip
        self.about |= {"teacher": self.teacher.card} if self.teacher else {}
        self.card, self.weights, self.progress = {**card, **self.about}, None, Progress()
        self.clock, self._taken = Clock(self), True  # whether the last step was taken
        self._losses, self._steps, self._shown = 0.0, 0, progress and self.processes.first
        some = torch.arange(min(SAMPLE, len(self.held_out)))
        self._sample = self.corrupt.batch(self.held_out, some)[0].to(self.device)
        self._begin(resume)
        first = self.processes.first
        self.log = Log(
            self.folder if first else None, _row_about(self.about), self.progress.step, tensorboard and first
        )

    def _build(self, sharded: bool, compiled: bool) -> None:
        """What is trained, and what trains it."""
        model, recipe = self.model, self.recipe
        if not sharded:  # a model that is cut comes to the device in parts: whole it may not fit there
            model.to(self.device)
        objective = Objective(model, recipe)
        if compiled:
            compile_once(objective)
        self.objective = self.processes.wrap(objective, self.device, sharded)
        self.parameters, self.optimizer = list(model.parameters()), make_optimizer(model, recipe)
        self.average = Average(model, recipe.ema) if recipe.ema else None
        self.teacher = None
        if recipe.distill_from:
            from .teacher import load_teacher

            with self.processes.first_on_each_host():
                self.teacher = load_teacher(recipe.distill_from, self.device, model.config)

    def _begin(self, resume: bool) -> None:
        if self.folder is None:
            if resume:
                raise ValueError("resume=True needs the output_dir of the run to go on from")
            return
        if resume:
            self.progress = resuming.restore(self)
            self._losses, self._steps = self._share_of(self.progress.losses), self.progress.counted
            return
        if self.processes.broadcast_object(lambda: state.exists(self.folder)):
            raise ValueError(f"{self.folder} holds a run already: resume it (--resume), or choose another output_dir")
        if self.processes.broadcast_object(lambda: (self.folder / BEST).exists()):
            raise ValueError(f"{self.folder} holds {BEST} of another run: move it away, or choose another output_dir")
        self.save()  # from here on a killed run can be resumed, and an unwritable folder is known before the work

    def __enter__(self):
        images = self.recipe.batch_size
        counted = {"total": self.total * images, "initial": self.progress.step * images}
        self.bar = progress_bar(**counted, unit="img", shown=self._shown, smoothing=0.05)
        self.clock.start()
        return self

    def __exit__(self, kind, *error) -> None:
        self.bar.leave = kind is None  # an error's line stands alone
        self.bar.close()
        self.log.close()

    def set_learning_rate(self) -> None:
        """The schedule's, for the step to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.progress.step, self.total, self.warmup)

    def sync(self, last: bool):
        """Inside, gradients stay on this process, unless it is the last part of a batch: then they are averaged."""
        waits = hasattr(self.objective, "no_sync") and not last
        if hasattr(self.objective, "model") and hasattr(self.objective.model, "set_requires_gradient_sync"):
            self.objective.model.set_requires_gradient_sync(last)
        return self.objective.no_sync() if waits else nullcontext()

    def update(self) -> None:
        """One optimiser step from the gradients that have come in, unless they are non-finite and `on_nan` skips."""
        self.scaler.unscale_(self.optimizer)
        self._taken = self.health.should_step(self.health.clip())
        if self._taken:
            self.scaler.step(self.optimizer)
            if self.average:
                self.average.update(self.progress.step)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.progress.step += 1

    def count(self, loss: Tensor) -> None:
        """One more step is done, with this loss on this process's images."""
        if self._taken:
            self._losses, self._steps = self._losses + loss, self._steps + 1
        self.clock.step()
        self.bar.update(self.recipe.batch_size)

    def report(self, **more) -> dict:
        """Write a row of the log: the mean loss since the last one, and where the run stands."""
        now = self.progress
        loss = float(self.processes.sum(torch.as_tensor(self._losses))) / (self._steps or 1) / self.processes.world
        self.clock.finish()
        self.health.check(loss)
        self.processes.merge_corrupt(self.corrupt, self.train)
        self._losses, self._steps = 0.0, 0
        row = {
            "step": now.step, "epoch": now.step / self.per_epoch, "loss": loss,
            "lr": learning_rate(self.recipe, now.step - 1, self.total, self.warmup), "seconds": now.seconds,
            "images_per_s": self.clock.images_per_s(), **more,
        }  # fmt: skip
        row |= {"skipped": now.skipped} if now.skipped else {}
        row |= {"corrupt": len(self.corrupt)} if len(self.corrupt) else {}
        self.log.write(row)
        shown = {"loss": f"{loss:.3f}"} | ({"held_out": f"{now.best['accuracy']:.1%}"} if now.best else {})
        self.bar.set_postfix(shown, refresh=False)
        return row

    def evaluate(self, asked: StopRequest | None = None) -> bool:
        """Held-out accuracy and token norms; keep the weights where they are the best so far.

        Returns:
            Whether it was carried through: False where it was asked to stop, and is made up for when the run goes on.
        """
        self.clock.finish()
        with self._evaluated() as model:
            try:
                found = evaluate(
                    model, self.held_out, amp=self.recipe.amp, workers=self.workers, processes=self.processes,
                    corrupt=self.corrupt, asked=asked,
                ).to_dict()  # fmt: skip
            except EvaluationStopped:
                self.progress.unevaluated = True
                return False
            self.progress.unevaluated = False
            found |= {"held_out_loss": found.pop("loss")}
            found.pop("seconds")
            self.clock.rest()
            row = self.report(**found, norms=token_norms(model, self._sample))
            if not self.progress.best or row["accuracy"] > self.progress.best["accuracy"]:
                self.progress.best = row
                self._keep(model)
        self.clock.rest()
        return True

    def save(self) -> None:
        """The whole state, where there is a folder."""
        if self.folder:
            self.clock.finish()
            self.health.check()  # what is saved last is good
            self.progress.losses, self.progress.counted = self.processes.gather(float(self._losses)), self._steps
            tensors = state.gather(self.model, self.average, self.optimizer, self.processes.first)
            if self.processes.first:
                state.save(self.folder, tensors, self.scaler, self.progress, self.card)
            self.clock.rest()

    def end(self, asked: StopRequest | None = None) -> FitResult:
        """Put the best weights into the model and measure them on the test images; `Stopped` where that is asked."""
        stored = self.weights
        if self.folder and self.processes.first:
            stored = checkpoint.read(self.folder / BEST)[0]
        state.put(self.model.state_dict(), self.processes.broadcast_tensors(stored))
        self.model.eval()
        corrupt = CorruptImages(self.corrupt.limit)
        with self._evaluated(averaged=False) as model:
            try:
                test = evaluate(
                    model, self.test, amp=self.recipe.amp, workers=self.workers, processes=self.processes,
                    corrupt=corrupt, asked=asked,
                )  # fmt: skip
            except EvaluationStopped:
                raise self.stopped(asked) from None
            self.model.card = {**self.card, "held_out": self.progress.best, "test": test.to_dict()}
            if self.folder and self.processes.first:
                checkpoint.save_model(self.folder / BEST, model, self.model.card, stored)
        self.clock.rest()
        now, rate = self.progress, self.clock.images_per_s()
        names = tuple(sorted({*self.corrupt.names, *corrupt.names}))
        return FitResult(self.log.rows, now.best, test, now.seconds, rate, self.folder, now.skipped, names)

    def stopped(self, asked: StopRequest) -> Stopped:
        """What to raise once the state is saved."""
        return Stopped(self.progress.step, self.total, self.folder, asked.status)

    @contextmanager
    def _evaluated(self, averaged: bool = True):
        """The model to look at: with the average's weights where there is one."""
        average = self.average if averaged else None
        try:
            with average.in_place(self.model) if average else nullcontext():
                yield self.model
        finally:
            reshard(self.model)

    def _keep(self, model) -> None:
        weights, first = collect(model.state_dict(), self.processes.first), self.processes.first
        if not self.folder:
            self.weights = {name: value.clone() for name, value in weights.items()}
        elif first:
            checkpoint.save_model(self.folder / BEST, model, {**self.card, "held_out": self.progress.best}, weights)

    def _share_of(self, losses: list[float]) -> float:
        """This process's own of those saved; of another number of processes their mean."""
        if len(losses) == self.processes.world:
            return losses[self.processes.rank]
        return sum(losses) / max(1, len(losses))


def _divides(recipe: Recipe, world: int) -> None:
    parts = world * recipe.accumulate
    if recipe.batch_size % parts:
        near = max(1, round(recipe.batch_size / parts)) * parts
        raise ValueError(
            f"batch_size={recipe.batch_size} images do not divide into {world} processes × {recipe.accumulate} parts: "
            f"{near} would"
        )


def _near(images, device: torch.device):
    """The images, with those held in memory on the model's device."""
    if device == images.device or not hasattr(images, "to"):
        return images
    return copy.copy(images).to(device)


def _row_about(about: Mapping) -> dict:
    """What every row of the log carries: the plan stands for the whole configuration, which is on the cards."""
    rest = {name: value for name, value in about.items() if name != "config"}
    return {"plan": about["config"]["plan"], **rest}
