"""What surrounds the training loop: where it begins, what it writes down, what it keeps."""

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import __version__, checkpoint
from ..ledger import device_name
from . import state
from .device import find_device, precision
from .evaluation import Evaluation, check_classes, evaluate, token_norms
from .log import Log
from .recipe import Recipe
from .schedule import Average, adamw
from .state import Progress

BEST = "best.safetensors"
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
        images_per_s: training images a second, evaluations left out.
        folder: where `best.safetensors`, its card, the state and the log are; None where nothing was saved.
    """

    history: list[dict]
    best: dict
    test: Evaluation
    seconds: float
    images_per_s: float
    folder: Path | None

    def __str__(self) -> str:
        return (
            f"test {self.test} after {self.seconds:.0f} s, {self.images_per_s:,.0f} images/s; "
            f"held out {self.best['accuracy']:.1%} at step {self.best['step']}"
        )


class Run:
    """One training run: its parts, made or restored, and its books. A context that shows the bar.

    Args: as in `fit`.
    """

    def __init__(self, model, sets, recipe: Recipe, output_dir, device, resume, card, tensorboard, progress):
        self.device = find_device(device)
        recipe.augment()  # what contradicts itself is refused before anything is written
        move = not recipe.slow_augmentation
        self.train, self.held_out, self.test = (
            _near(part, self.device) if move else part for part in (sets.train, sets.held_out, sets.test)
        )
        check_classes(model, self.train)
        model.config = replace(model.config, mean=self.train.mean, std=self.train.std)
        self.model, self.recipe, self.folder = model.to(self.device), recipe, Path(output_dir) if output_dir else None
        self.total, self.per_epoch = recipe.steps(len(self.train)), recipe.steps_per_epoch(len(self.train))
        self.warmup = recipe.warmup_steps or round(recipe.warmup_epochs * self.per_epoch)
        self.eval_every = recipe.eval_every or self.per_epoch
        self.average = Average(model, recipe.ema) if recipe.ema else None
        self.optimizer, self.parameters = adamw(model, recipe), list(model.parameters())
        half = precision(self.device, recipe.amp)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half == "fp16")
        self.about = {
            "config": _plain(model.config.to_dict()), "recipe": _plain(recipe.to_dict()), "seed": recipe.seed,
            "data": {"name": self.train.name, "fingerprint": self.train.fingerprint()}, "library": __version__,
            "torch": torch.__version__, "device": device_name(self.device), "precision": half,
        }  # fmt: skip
        self.card, self.weights, self.progress = {**card, **self.about}, None, Progress()
        self._mark = None  # when the clock was last looked at
        self._begin(resume)
        self.log = Log(self.folder, _row_about(self.about), self.progress.step, tensorboard)
        self._losses, self._steps, self._shown = 0.0, 0, progress
        self._sample = self.held_out.batch(torch.arange(min(SAMPLE, len(self.held_out))))[0].to(self.device)

    def _begin(self, resume: bool) -> None:
        if self.folder is None:
            if resume:
                raise ValueError("resume=True needs the output_dir of the run to go on from")
            return
        if resume:
            return self._restore()
        if (self.folder / state.NAME).exists():
            raise ValueError(f"{self.folder} holds a run already: resume it (--resume), or choose another output_dir")
        self.save()  # from here on a killed run can be resumed, and an unwritable folder is known before the work

    def _restore(self) -> None:
        tensors, card = state.read(self.folder)
        card["recipe"] = Recipe.from_dict(card["recipe"]).to_dict()  # fields that are newer than the state
        for what in ("config", "recipe", "data"):
            if changed := state.differences(card[what], self.about[what]):
                raise ValueError(f"{self.folder} was trained with another {what} ({changed}): resume with the same")
        parts = self.model, self.average, self.optimizer, self.scaler
        self.progress = state.restore(self.folder / state.NAME, tensors, card, *parts)
        if (self.folder / BEST).is_file():  # saved before the state: it may be of a step that the state has not reached
            self.progress.best = checkpoint.read(self.folder / BEST)[1]["held_out"]

    def __enter__(self):
        images = self.recipe.batch_size
        self.bar = tqdm(
            total=self.total * images, initial=self.progress.step * images, unit="img", unit_scale=True,
            disable=not self._shown, dynamic_ncols=True, smoothing=0.05,
        )  # fmt: skip
        self._mark = time.perf_counter()
        return self

    def __exit__(self, kind, *error) -> None:
        self.bar.leave = kind is None  # an error's line stands alone
        self.bar.close()
        self.log.close()

    def count(self, loss: Tensor) -> None:
        """One more step is done."""
        self._losses, self._steps = self._losses + loss, self._steps + 1
        self._clock(training=True)
        self.bar.update(self.recipe.batch_size)

    def report(self, **more) -> dict:
        """Write a row of the log: the mean loss since the last one, and where the run stands."""
        now = self.progress
        loss = float(self._losses) / self._steps
        if loss != loss or abs(loss) == float("inf"):
            raise ValueError(
                f"the loss is {loss} at step {now.step}: lower lr ({self.recipe.lr}), warm up, or set clip"
            )
        self._losses, self._steps = 0.0, 0
        rate = now.step * self.recipe.batch_size / now.training_seconds
        row = {
            "step": now.step, "epoch": now.step / self.per_epoch, "loss": loss,
            "lr": self.optimizer.param_groups[0]["lr"], "seconds": now.seconds, "images_per_s": rate, **more,
        }  # fmt: skip
        self.log.write(row)
        shown = {"loss": f"{loss:.3f}"} | ({"held_out": f"{now.best['accuracy']:.1%}"} if now.best else {})
        self.bar.set_postfix(shown, refresh=False)
        return row

    def evaluate(self) -> None:
        """Held-out accuracy and token norms; keep the weights where they are the best so far."""
        model = self.average.model if self.average else self.model
        found = evaluate(model, self.held_out, amp=self.recipe.amp).to_dict()
        found |= {"held_out_loss": found.pop("loss")}
        found.pop("seconds")
        self._clock()
        row = self.report(**found, norms=token_norms(model, self._sample))
        if not self.progress.best or row["accuracy"] > self.progress.best["accuracy"]:
            self.progress.best = row
            self._keep(model)
        self._clock()

    def save(self) -> None:
        """The whole state, where there is a folder."""
        if self.folder:
            state.save(self.folder, self.model, self.average, self.optimizer, self.scaler, self.progress, self.card)
            self._clock()

    def end(self) -> FitResult:
        """Put the best weights into the model and measure them on the test images."""
        self.model.load_state_dict(self.weights or checkpoint.read(self.folder / BEST)[0])
        self.model.eval()
        test = evaluate(self.model, self.test, amp=self.recipe.amp)
        self.model.card = {**self.card, "held_out": self.progress.best, "test": test.to_dict()}
        if self.folder:
            checkpoint.save_model(self.folder / BEST, self.model, self.model.card)
        self._clock()
        now = self.progress
        rate = now.step * self.recipe.batch_size / now.training_seconds
        return FitResult(self.log.rows, now.best, test, now.seconds, rate, self.folder)

    def _keep(self, model) -> None:
        if self.folder:
            checkpoint.save_model(self.folder / BEST, model, {**self.card, "held_out": self.progress.best})
        else:
            self.weights = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}

    def _clock(self, training: bool = False) -> None:
        """Add the time since the last call to the run's, and to training's where that is what it was."""
        before, self._mark = self._mark, time.perf_counter()
        if before is not None:
            self.progress.seconds += self._mark - before
            self.progress.training_seconds += (self._mark - before) * training


def _near(images, device: torch.device):
    """The images, with those held in memory on the model's device."""
    if device == images.device or not hasattr(images, "to"):
        return images
    return copy.copy(images).to(device)


def _plain(values: Mapping) -> dict:
    return json.loads(json.dumps(values))


def _row_about(about: Mapping) -> dict:
    """What every row of the log carries: the plan stands for the whole configuration, which is on the cards."""
    rest = {name: value for name, value in about.items() if name != "config"}
    return {"plan": about["config"]["plan"], **rest}
