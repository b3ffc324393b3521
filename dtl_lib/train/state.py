"""Where a training run stands, whole, in one file: what a run killed at any moment goes on from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from torch import Tensor

from .. import checkpoint
from ..checkpoint import CheckpointError

NAME = "state.safetensors"


@dataclass
class Progress:
    """The part of a run's state that is not tensors.

    Attributes:
        step: optimiser steps done; with the seed it also says where in which epoch's order the run is.
        best: the best evaluation on held-out images so far, with its step; empty before the first.
        seconds: wall time so far, over all the pieces of an interrupted run.
        training_seconds: of which training, without evaluations.
    """

    step: int = 0
    best: dict = field(default_factory=dict)
    seconds: float = 0.0
    training_seconds: float = 0.0


def save(folder: Path, model, average, optimizer, scaler, progress: Progress, card: Mapping) -> None:
    """Everything the next step depends on, atomically."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average/{name}": value for name, value in average.model.state_dict().items()}
    for name, value in model.named_parameters():
        for moment, tensor in optimizer.state.get(value, {}).items():
            tensors[f"optimizer/{moment}/{name}"] = tensor
    scaling = scaler.state_dict()
    checkpoint.write(folder / NAME, tensors, {**card, "progress": vars(progress), "scaler": scaling}, checkpoint.STATE)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and card of a training state: a file, or the folder it lies in.

    Raises:
        CheckpointError: where there is none to resume from.
    """
    path = Path(path)
    path = path if path.suffix == checkpoint.SUFFIX else path / NAME
    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no {NAME} to resume from: leave --resume out to start there")
    tensors, card = checkpoint.read(path)
    if card["format"] != checkpoint.STATE:
        raise CheckpointError(f"{path} is no training state: resume from the folder that holds {NAME}")
    for part in ("config", "recipe", "data", "progress", "scaler"):
        if not isinstance(card.get(part), Mapping):
            raise CheckpointError(f"{path}: its card has no {part}; it has been changed: resume an earlier copy")
    if wrong := set(card["progress"]) ^ {field.name for field in fields(Progress)}:
        raise CheckpointError(f"{path}: its progress differs in {', '.join(sorted(wrong))}: resume an earlier copy")
    return tensors, card


def restore(path: Path, tensors: Mapping[str, Tensor], card: Mapping, model, average, optimizer, scaler) -> Progress:
    """Load what `save` has written; a CheckpointError where it does not fit the run."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        parts.setdefault(kind, {})[rest] = value
    for part, target in (("model", model), ("average", average and average.model)):
        if target is not None:
            checkpoint.fits(path, parts[part], target.state_dict())
            target.load_state_dict(parts[part])
    named = dict(model.named_parameters())
    for name, value in parts["optimizer"].items():
        moment, _, parameter = name.partition("/")
        known = parameter in named and value.shape in ((), named[parameter].shape)
        if not known or value.dtype not in checkpoint.FLOATS:
            raise CheckpointError(f"{path}: the optimiser's {moment} of {parameter} does not fit the model")
        optimizer.state[named[parameter]][moment] = value.to(named[parameter].device)
    if card["scaler"]:
        scaler.load_state_dict(card["scaler"])
    return Progress(**card["progress"])


def differences(then: Mapping, now: Mapping) -> str:
    """The fields in which two dictionaries differ, as one line; empty where they agree."""
    names = [name for name in now if then.get(name) != now[name]]
    return "; ".join(f"{name} was {_short(then.get(name))} and is now {_short(now[name])}" for name in names)


def _short(value) -> str:
    if isinstance(value, Mapping) and "groups" in value:
        groups = ", ".join(f"{group['name']}×{group['tokens']}@{group['enter']}" for group in value["groups"])
        return f"[{groups or 'patches alone'}]"
    return str(value)
