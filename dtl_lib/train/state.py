"""Where a training run stands, whole, in one file: what a run killed at any moment goes on from.

The file is the same whatever made it: one process, many with copies of the model, or many that shared it out.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from .. import checkpoint
from ..checkpoint import AccessError, CheckpointError
from ..checks import check_types, first_line, shortened, typed, whole
from ..config import ViTConfig
from .distributed.sharding import collect, like
from .optim import load_optimizer_state, optimizer_state
from .recipe import Recipe

NAME, PREVIOUS = "state.safetensors", "state.before.safetensors"
log = logging.getLogger("dtl_lib")


@dataclass
class TrainState:
    """The part of a run's state that is not tensors.

    Attributes:
        step: optimiser steps done; with the seed it also says where in which epoch's order the run is.
        best: the best evaluation on held-out images so far, with its step; empty before the first.
        seconds: wall time so far, over all the pieces of an interrupted run.
        training_seconds: of which training, without evaluations and first steps.
        untimed: how many first steps: one in each piece of an interrupted run.
        skipped: steps left out because their gradients were non-finite.
        unevaluated: whether the run was stopped inside the evaluation that belongs to this step.
        losses: by process, those of the steps since the last row of the log, added up.
        counted: how many steps those are.
    """

    step: int = 0
    best: dict = field(default_factory=dict)
    seconds: float = 0.0
    training_seconds: float = 0.0
    untimed: int = 0
    skipped: int = 0
    unevaluated: bool = False
    losses: list[float] = field(default_factory=list)
    counted: int = 0

    def __post_init__(self):
        check_types(self)
        for name in ("step", "seconds", "training_seconds", "untimed", "skipped", "counted"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is 0 or more, not {getattr(self, name)}")
        if self.untimed > self.step:
            raise ValueError(f"untimed is at most step, {self.step}, not {self.untimed}")
        if self.best:
            check_best(self.best)


def check_best(best: Mapping) -> None:
    """A ValueError where an evaluation on held-out images has no accuracy, or no step."""
    accuracy = typed("accuracy", best.get("accuracy"), float)
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy is from 0 to 1, not {shortened(accuracy)}")
    whole("step", best.get("step"), least=0)


def gather(learner) -> dict[str, Tensor]:
    """Every tensor that the next step of a `Learner` depends on, whole and on the CPU, for the first process alone.

    All processes call it.
    """
    model, ema = learner.model, learner.ema
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"average/{name}": value for name, value in ema.state_dict().items()}
    moments = optimizer_state(learner.optimizer, dict(model.named_parameters()))
    tensors |= {f"optimizer/{name}": value for name, value in moments.items()}
    return collect(tensors, learner.processes.is_main)


def save(folder: Path, tensors: Mapping[str, Tensor], scaler, train_state: TrainState, card: Mapping) -> None:
    """The state, atomically; the one before it is kept, for a machine that dies while its disk still writes."""
    card = {**card, "progress": vars(train_state), "scaler": scaler.state_dict()}
    checkpoint.write(folder / NAME, tensors, card, checkpoint.STATE, previous=folder / PREVIOUS)


def exists(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / NAME).exists() or (folder / PREVIOUS).exists()


def read(folder: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and card of the training state in a folder; where it is damaged, of the one before it.

    Raises:
        CheckpointError: where there is none to resume from.
    """
    return _read_intact(Path(folder), checkpoint.read, log.warning)


def read_card(folder: str | Path) -> dict:
    """The card of what `read` gives, without its tensors; how far the run is may differ."""
    return _read_intact(Path(folder), lambda path: (None, checkpoint.read_card(path)), log.debug)[1]


def _read_intact(folder: Path, read: Callable, warn: Callable) -> tuple[dict[str, Tensor] | None, dict]:
    """What `read` gives, tensors and card, of the state in a folder, or of the one before it."""
    if folder.is_file():
        _check_card(folder, checkpoint.read_card(folder))
        raise CheckpointError(f"{folder} is one file of a run: resume from the folder it lies in, {folder.parent}")
    if not exists(folder):
        raise CheckpointError(f"{folder} holds no {NAME} to resume from: leave --resume out to start there")
    try:
        tensors, card = read(folder / NAME)
    except AccessError:
        raise
    except CheckpointError as error:
        if not (folder / PREVIOUS).is_file():
            raise
        tensors, card = read(folder / PREVIOUS)
        step = TrainState(**_check_card(folder, card)["progress"]).step
        warn("%s; the state before it is used, of step %d", error, step)
    _check_card(folder / NAME, card)
    return tensors, card


def _check_card(path: Path, card: dict) -> dict:
    if card["format"] != checkpoint.STATE:
        raise CheckpointError(f"{path} is no training state: resume from the folder that holds {NAME}")
    for part in ("config", "recipe", "data", "progress", "scaler"):
        if not isinstance(card.get(part), Mapping):
            raise CheckpointError(f"{path}: its card has no {part}; it has been changed: resume an earlier copy")
    if not isinstance(card.get("run", {}), Mapping):
        raise CheckpointError(f"{path}: its card's run is no dictionary; it has been changed: resume an earlier copy")
    if wrong := set(card["progress"]) - {field.name for field in fields(TrainState)}:
        raise CheckpointError(f"{path}: its progress has {', '.join(sorted(wrong))}, which is not known here")
    try:
        TrainState(**card["progress"])
        Recipe.from_dict(card["recipe"])
        ViTConfig.from_dict(card["config"])
        whole("processes", card.get("processes", 1))
    except ValueError as error:
        raise CheckpointError(f"{path}: its card has been changed ({error}): resume an earlier copy") from None
    return card


def restore(path: Path, tensors: Mapping[str, Tensor] | None, card: Mapping, learner) -> TrainState:
    """Load what `gather` has collected into a `Learner`, a tensor at a time; a CheckpointError where it does not fit.

    Args:
        path: what is named where it does not fit.
        tensors: on the first process; the others are sent them.
        card: that of the state.
        learner: as it was built.
    """
    model, ema, processes = learner.model, learner.ema, learner.processes
    named = dict(model.named_parameters())
    held = {"model": model.state_dict(), "average": ema.state_dict() if ema else None}
    processes.broadcast_object(lambda: _fits(path, tensors, held))
    moments = {}
    for name, value in processes.broadcast_tensors(tensors):
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            parameter = named.get(rest.partition("/")[2])
            fits = parameter is not None and parameter.shape == value.shape
            moments[rest] = like(parameter, value) if fits else value
        elif held[kind]:
            put(held[kind], [(rest, value)])
    try:
        load_optimizer_state(learner.optimizer, named, moments)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if card["scaler"]:
        try:
            learner.scaler.load_state_dict(card["scaler"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path}: its card has no state of a gradient scaler ({first_line(error)})") from None
    return TrainState(**card["progress"])


def _fits(path: Path, tensors: Mapping[str, Tensor], held: Mapping[str, Mapping | None]) -> None:
    for kind, expected in held.items():
        if expected is not None:
            have = {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(f"{kind}/")}
            checkpoint.fits(path, have, expected)


@torch.no_grad()
def put(held: Mapping[str, Tensor], weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy whole tensors, by name, into those of a model (or their moving average), which may be sharded."""
    for name, value in weights:
        held[name].copy_(like(held[name], value))


def differences(saved: Mapping, current: Mapping) -> str:
    """The fields in which two dictionaries differ, as one line; empty where they agree."""
    names = [name for name in current if saved.get(name) != current[name]]
    return "; ".join(
        f"{name} was {_plan_or_text(saved.get(name))} and is now {_plan_or_text(current[name])}" for name in names
    )


def _plan_or_text(value) -> str:
    if isinstance(value, Mapping) and "groups" in value:
        groups = ", ".join(f"{group['name']}×{group['tokens']}@{group['enter']}" for group in value["groups"])
        return f"[{groups or 'patches alone'}]"
    return str(value)
