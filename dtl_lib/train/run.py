"""What surrounds the training loop: resuming, logging, evaluation, checkpoints, the result."""

import copy
import logging
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .. import checkpoint
from ..checkpoint import BEST
from ..data import loader
from ..data.corrupt import CorruptImages
from ..data.images import Sets, sets_with_channels
from ..data.labelled import warn_of_shared
from ..host import find_device
from ..progress import progress_bar
from . import resuming, state
from .classes import check_teacher
from .distributed.agreement import check_ranks_agree, data_settings
from .distributed.processes import Processes
from .distributed.sharding import collect, reshard
from .distributed.signals import Stopped, StopRequest
from .evaluation import Evaluation, EvaluationStopped, check_classes, evaluate, normalised, token_norms
from .learner import make_learner
from .log import Clock, Log, Losses
from .optim import Schedule
from .recipe import Recipe
from .state import TrainState

log = logging.getLogger("dtl_lib")
SAMPLE = 32  # held-out images whose token norms are logged


@dataclass(frozen=True)
class FitResult:
    """What training came to.

    Attributes:
        history: the log's rows: step, epoch, loss, lr, seconds, images_per_s; where the run was evaluated also
            accuracy, low, high, n, held_out_loss and norms.
        best: the row of the weights that are kept, picked on held-out images.
        test: those weights on the test images.
        seconds: wall time of the run, evaluations included.
        images_per_s: training images a second over all processes; evaluations and first steps left out.
        folder: where `best.safetensors`, its card, the state and the log are; None where nothing was saved.
        skipped: steps left out because their gradients were non-finite.
        corrupt: names of images that could not be read, where others stood in.
    """

    history: list[dict]
    best: dict
    test: Evaluation
    seconds: float
    images_per_s: float
    folder: Path | None
    skipped: int = 0
    corrupt: tuple[str, ...] = ()

    def seconds_to(self, accuracy: float) -> float | None:
        """Wall time until the held-out accuracy was first as high as that; None where it never was."""
        rows = (row for row in self.history if row.get("accuracy", 0.0) >= accuracy)
        return next((row["seconds"] for row in rows), None)

    def __str__(self) -> str:
        return (
            f"test {self.test} after {self.seconds:.0f} s, {self.images_per_s:,.0f} images/s; "
            f"held out {self.best['accuracy']:.1%} at step {self.best['step']}"
        )


class Run:
    """One training run: the learner, the images, the log and the checkpoints. A context that shows the progress bar.

    Args: as in `fit`.

    Attributes:
        learner: the parts of a step.
        sets: the images, with those held in memory on the device.
        processes: those that share the run.
        folder: where it is saved; None keeps nothing.
        train_state: where it stands.
        card: what its files say of it.
    """

    def __init__(
        self, model, sets, recipe: Recipe, folder: Path | None, *, device, resume, card, tensorboard, progress,
        processes, shard, compiled, workers, max_corrupt, checkpoint_every=None, teacher=None,
    ):  # fmt: skip
        self.processes, device = processes or Processes(), find_device(device)
        self.processes.settle()
        sets = normalised(sets, model.config) if model.trained else sets_with_channels(sets, model.config.channels)
        self.sets = sets if recipe.slow_augmentation else _on_device(sets, device)
        if self.processes.world_size > 1:  # a fingerprint takes time
            config = {f"the model's {name}": value for name, value in model.config.to_dict().items()}
            more = {"shard": shard, "resume": resume, "checkpoint_every": checkpoint_every}
            check_ranks_agree(self.processes, {**config, **recipe.to_dict(), **more, **data_settings(self.sets)})
        check_classes(model, sets.train)
        _check_batch(recipe, self.processes.world_size)
        if self.processes.is_main:
            warn_of_shared(sets)
        model.config = replace(model.config, mean=sets.train.mean, std=sets.train.std)
        self.folder, self.workers = folder, workers
        self.learner = make_learner(
            model, recipe, Schedule.of(recipe, len(sets.train)), device, self.processes, shard=shard,
            compiled=compiled, folder=self.folder, teacher=teacher,
        )  # fmt: skip
        check_teacher(self.learner.teacher, sets.train)
        about = resuming.about_run(self.learner, sets.train)
        if recipe.freeze and not (model.trained or resume) and self.processes.is_main:
            log.warning("what is frozen keeps its first, random values: trained weights come by --finetune")
        self.card = {**card, **about}
        self.corrupt, self._losses, self._best_weights = CorruptImages(max_corrupt), Losses(), None
        self._eval_workers = loader.KeptWorkers()  # of the evaluations
        some = torch.arange(min(SAMPLE, len(sets.held_out)))
        self._norm_sample = self.corrupt.batch(self.sets.held_out, some)[0].to(device)
        self.train_state = self._resume(about) if resume else resuming.begin(self.folder, self.processes)
        self._clock = Clock(self.train_state, device, recipe.batch_size)
        is_main = self.processes.is_main
        if self.folder and not resume:
            self.save()  # now a killed run can be resumed, and an unwritable folder shows before the work
        log_folder = self.folder if is_main else None
        self.log = Log(log_folder, _about_for_rows(about), self.train_state.step, tensorboard and is_main)
        self._show_bar = progress and is_main

    def _resume(self, about: Mapping) -> TrainState:
        """Where the run in the folder stands, whose state is put into the learner."""
        if self.folder is None:
            raise ValueError("resume=True needs the output_dir of the run to go on from")
        train_state = resuming.restore(self.folder, self.learner, about, self.sets.train.has_fingerprint)
        self._losses = Losses.of(train_state.losses, train_state.counted, self.processes)
        return train_state

    def __enter__(self):
        images = self.learner.recipe.batch_size
        counted = {"total": self.learner.schedule.total * images, "initial": self.train_state.step * images}
        self._bar = progress_bar(**counted, unit="img", shown=self._show_bar, smoothing=0.05)
        self._clock.start()
        return self

    def __exit__(self, kind, *error) -> None:
        self._eval_workers.close()
        self._bar.leave = kind is None  # an error's line stands alone
        self._bar.close()
        self.log.close()

    def batches(self):
        """This process's part of every batch that is still to come: images and labels."""
        learner, processes = self.learner, self.processes
        return loader.training_batches(
            self.sets.train, learner.recipe, self.train_state.step, learner.schedule.total, self.workers,
            rank=processes.rank, world_size=processes.world_size, corrupt=self.corrupt, device=learner.device,
            cores=processes.cores,
        )  # fmt: skip

    def count(self, result) -> None:
        """One more step is done, with this `StepResult`."""
        self.train_state.step += 1
        self.train_state.skipped += result.skipped
        if not result.skipped:
            self._losses.add(result.loss)
        self._clock.step()
        self._bar.update(self.learner.recipe.batch_size)

    def report(self, **more) -> dict:
        """Write a row of the log: the mean loss since the last one, and where the run stands."""
        train_state, schedule = self.train_state, self.learner.schedule
        step = train_state.step
        loss = self._losses.mean(self.processes)
        self._check(loss or 0.0)
        self.processes.merge_corrupt(self.corrupt, self.sets.train)
        self._losses = Losses()
        row = {
            "step": step, "epoch": step / schedule.per_epoch, "loss": loss, "lr": schedule.lr(step - 1),
            "seconds": train_state.seconds, "images_per_s": self._clock.images_per_s(), **more,
        }  # fmt: skip
        row |= {"skipped": train_state.skipped} if train_state.skipped else {}
        row |= {"corrupt": len(self.corrupt)} if len(self.corrupt) else {}
        self.log.write(row)
        shown = {"loss": "–" if loss is None else f"{loss:.3f}"} | (
            {"held_out": f"{train_state.best['accuracy']:.1%}"} if train_state.best else {}
        )
        self._bar.set_postfix(shown, refresh=False)
        return row

    def evaluate(self, stop_request: StopRequest | None = None) -> bool:
        """Measure held-out accuracy and token norms, and keep the weights if they are the best so far.

        Returns:
            True if it was completed, False if it was asked to stop; a resumed run then catches up on it.
        """
        self._check()  # says which step went wrong; weights alone do not
        with self._weights_to_evaluate() as model:
            try:
                values = self._evaluate_on(
                    model, self.sets.held_out, self.corrupt, stop_request, self._eval_workers
                ).to_dict()
            except EvaluationStopped:
                self.train_state.unevaluated = True
                return False
            self.train_state.unevaluated = False
            values |= {"held_out_loss": values.pop("loss")}
            values.pop("seconds")
            self._clock.rest()
            row = self.report(**values, norms=token_norms(model, self._norm_sample))
            if not self.train_state.best or row["accuracy"] > self.train_state.best["accuracy"]:
                self.train_state.best = row
                self._keep_best(model)
        self._clock.rest()
        return True

    def save(self) -> None:
        """The whole state, where there is a folder."""
        if self.folder:
            self._check()  # what is saved last is good
            self.train_state.losses = self._losses.gathered(self.processes)
            self.train_state.counted = self._losses.steps
            tensors = state.gather(self.learner)
            if self.processes.is_main:
                state.save(self.folder, tensors, self.learner.scaler, self.train_state, self.card)
            self._clock.rest()

    def end(self, stop_request: StopRequest | None = None) -> FitResult:
        """Put the best weights into the model and measure them on the test images; `Stopped` where that is asked."""
        model, stored = self.learner.model, self._best_weights
        if self.folder and self.processes.is_main:
            stored = checkpoint.read(self.folder / BEST)[0]
        state.put(model.state_dict(), self.processes.broadcast_tensors(stored))
        model.eval()
        self._eval_workers.close()
        corrupt = CorruptImages(self.corrupt.limit)
        with self._weights_to_evaluate(ema=False):
            try:
                test = self._evaluate_on(model, self.sets.test, corrupt, stop_request)
            except EvaluationStopped:
                raise self.stopped(stop_request) from None
            model.trained = True
            model.card = {**self.card, "held_out": self.train_state.best, "test": test.to_dict()}
            if self.folder and self.processes.is_main:
                checkpoint.save_model(self.folder / BEST, model, model.card, stored)
        self._clock.rest()
        names = tuple(sorted({*self.corrupt.names, *corrupt.names}))
        done = self.train_state
        return FitResult(
            history=self.log.rows, best=done.best, test=test, seconds=done.seconds,
            images_per_s=self._clock.images_per_s(), folder=self.folder, skipped=done.skipped, corrupt=names,
        )  # fmt: skip

    def stopped(self, stop_request: StopRequest) -> Stopped:
        """What to raise once the state is saved."""
        return Stopped(self.train_state.step, self.learner.schedule.total, self.folder, stop_request.status)

    def _check(self, loss: float = 0.0) -> None:
        """Wait for the device, and stop where a step or this loss was non-finite."""
        self._clock.finish()
        self.learner.guard.check(self.train_state.step, loss)
        self.train_state.skipped += self.learner.guard.left_out()

    def _evaluate_on(self, model, images, corrupt: CorruptImages, stop_request, kept=None) -> Evaluation:
        return evaluate(
            model, images, amp=self.learner.recipe.amp, workers=self.workers, processes=self.processes,
            corrupt=corrupt, stop_request=stop_request, classes=self.card["classes"], kept=kept,
        )  # fmt: skip

    @contextmanager
    def _weights_to_evaluate(self, ema: bool = True):
        """Inside, the model has the weights of the moving average, where there is one."""
        model, average = self.learner.model, self.learner.ema if ema else None
        try:
            with average.in_place(model) if average else nullcontext():
                yield model
        finally:
            reshard(model)

    def _keep_best(self, model) -> None:
        is_main = self.processes.is_main
        weights = collect(model.state_dict(), is_main)
        if not self.folder:
            self._best_weights = {name: value.clone() for name, value in weights.items()}
        elif is_main:
            checkpoint.save_model(self.folder / BEST, model, {**self.card, "held_out": self.train_state.best}, weights)


def _about_for_rows(about: Mapping) -> dict:
    """What every row of the log carries: the plan stands for the whole configuration, which is on the cards."""
    rest = {name: value for name, value in about.items() if name not in ("config", "classes")}
    return {"plan": about["config"]["plan"], **rest}


def _check_batch(recipe: Recipe, world_size: int) -> None:
    parts = world_size * recipe.accumulate
    if recipe.batch_size % parts:
        near = max(1, round(recipe.batch_size / parts)) * parts
        raise ValueError(
            f"batch_size={recipe.batch_size} images do not divide into {world_size} processes × {recipe.accumulate} "
            f"parts: {near} would"
        )


def _on_device(sets, device: torch.device) -> Sets:
    """The sets, with images that are held in memory on the model's device."""
    parts = (sets.train, sets.held_out, sets.test)
    moves = [hasattr(part, "to") and part.device != device for part in parts]
    return Sets(*(copy.copy(part).to(device) if move else part for part, move in zip(parts, moves)))
