"""A run that goes on: what it takes over from its folder, and what has to be as it was."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from .. import __version__, checkpoint
from ..atomic import lock, remove_leftovers
from ..checkpoint import BEST, BEST_CARD
from ..checks import shortened
from ..config import ViTConfig
from ..hashing import plain
from ..host import device_name
from . import state
from .device import precision
from .distributed.processes import Processes
from .learner import Learner
from .log import NAME as LOG
from .recipe import Recipe
from .state import TrainState

log = logging.getLogger("dtl_lib")
MAY_CHANGE = "on_nan", "epochs", "max_steps"  # of a recipe: the first has not mattered so far, see `_check_length`
LOCK = ".lock"
FILES = state.NAME, state.PREVIOUS, LOG, BEST, BEST_CARD


@contextmanager
def exclusive(folder: Path | None, processes: Processes) -> Iterator[None]:
    """Inside, no other run can use the folder; a ValueError where one does already."""
    if folder is None:
        yield
        return
    busy = f"another process is training in {folder}: let it end, or choose another --output-dir (output_dir)"
    with ExitStack() as held:
        held.callback(_remove_if_empty, folder)  # after the lock's file is gone
        processes.broadcast_object(lambda: held.enter_context(lock(folder / LOCK, busy)))
        yield


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder in which nothing was written."""
    with suppress(OSError):
        folder.rmdir()


def begin(folder: Path | None, processes: Processes) -> TrainState:
    """Where a new run stands; a ValueError where its folder holds another one, or what is left of one."""
    left = processes.broadcast_object(lambda: _results_in(folder)) if folder else []
    if state.NAME in left or state.PREVIOUS in left:
        raise ValueError(f"{folder} holds a run already: resume it (--resume), or choose another output_dir")
    if left:
        raise ValueError(
            f"{folder} holds {', '.join(left)} of another run, which would be overwritten: choose another output_dir, "
            "or keep them elsewhere"
        )
    return TrainState()


def _results_in(folder: Path) -> list[str]:
    """What a run has left in a folder: its state, its log and curves, its best weights or their card."""
    paths = [*(folder / name for name in FILES), *folder.glob("events.out.tfevents.*")]
    return sorted(path.name for path in paths if path.exists())


def about_run(learner, train) -> dict:
    """What decides a run, as its files say it."""
    about = {
        "config": plain(learner.model.config.to_dict()), "recipe": plain(learner.recipe.to_dict()),
        "seed": learner.recipe.seed, "data": {"name": train.name, "fingerprint": train.fingerprint()},
        "classes": list(train.class_ids),
        "library": __version__, "torch": torch.__version__, "device": device_name(learner.device),
        "precision": precision(learner.device, learner.recipe.amp), "processes": learner.processes.world_size,
    }  # fmt: skip
    return about | ({"teacher": learner.teacher.card} if learner.teacher else {})


def restore(folder: Path, learner: Learner, about: Mapping, is_same_data: Callable) -> TrainState:
    """Put the state in the folder of a run into its learner; where the run stands.

    Args:
        folder: of the run.
        learner: as it was built for it.
        about: what the run is now: its configuration, recipe and data, as its files say it.
        is_same_data: whether a fingerprint is that of the training images now; `Images.has_fingerprint`.

    Raises:
        ValueError: where there is no state, it cannot be read, or it is of another model, recipe or data.
    """
    processes, tensors = learner.processes, []
    processes.broadcast_object(lambda: remove_leftovers(*(folder / name for name in FILES)))
    # read by the first process: the others need not see its disk
    card = processes.broadcast_object(
        lambda: _with_current_fingerprint(_read(folder, tensors), about, is_same_data, warn=True)
    )
    if changed := _changed(card, about):
        raise ValueError(f"{folder} was trained with another {changed}: resume with the same")
    _check_length(folder, Recipe.from_dict(card["recipe"]), TrainState(**card["progress"]).step, learner)
    train_state = state.restore(folder / state.NAME, tensors[0] if tensors else None, card, learner)
    train_state.best = processes.broadcast_object(lambda: _best(folder / BEST, train_state.best, about, is_same_data))
    if not train_state.best and train_state.step == learner.schedule.total:
        train_state.unevaluated = True  # no step will be evaluated any more: this one is, for there to be a best
    if (was := card.get("processes", 1)) != processes.world_size and processes.is_main:
        batch = learner.recipe.batch_size
        log.warning(
            "saved by %d process%s, goes on with %d: the same batches of %d in the same order, %d images each; "
            "sums are added in another order, so the last bits differ", was, "es" * (was > 1), processes.world_size,
            batch, batch // processes.world_size,
        )  # fmt: skip
    return train_state


def _check_length(folder: Path, saved: Recipe, step: int, learner: Learner) -> None:
    """A run may be made longer, not shorter; what that means is said once."""
    schedule, is_main = learner.schedule, learner.processes.is_main
    total = saved.steps(schedule.per_epoch * learner.recipe.batch_size)
    if step > total:
        raise checkpoint.CheckpointError(
            f"{folder} holds the state of step {step:,} of a run of {total:,}: it has been changed, resume an "
            "earlier copy"
        )
    if schedule.total < total:
        raise ValueError(
            f"{folder} is a run of {total} steps, and {schedule.total} would be fewer: "
            "leave --max-steps and --epochs out, or give more of them"
        )
    if schedule.total > total and is_main:
        log.warning(
            "the run is extended from %d to %d steps: from step %d on its learning rate is that of the longer schedule "
            "(next %.3g), which is not the same as %d steps from the start",
            total, schedule.total, step, schedule.lr(step), schedule.total,
        )  # fmt: skip
    elif step == total and is_main:
        log.warning("the run is complete, %d of %d steps; a larger --max-steps or --epochs extends it", step, total)


def _read(folder: Path, tensors: list) -> dict:
    """The card of the state, whose tensors are appended to `tensors`."""
    whole, card = state.read(folder)
    tensors.append(whole)
    return card


def _with_current_fingerprint(card: dict, about: Mapping, is_same_data: Callable, warn: bool = False) -> dict:
    """The card with today's fingerprint, where it holds the same data's of before it changed with every pixel."""
    was, now = card.get("data"), about["data"]
    if not isinstance(was, Mapping) or was == now or not is_same_data(was.get("fingerprint")):
        return card
    if warn:
        log.warning("saved when data was told apart by names and a few pixels: that the rest is the same is not known")
    return {**card, "data": {**was, "fingerprint": now["fingerprint"]}}


def _changed(card: Mapping, about: Mapping) -> str:
    """What a card says about model, recipe or data that no longer holds; empty where all is the same."""
    try:  # a field newer than the card has its default
        config = ViTConfig.from_dict(card.get("config", {})).to_dict()
        recipe = Recipe.from_dict(card.get("recipe", {})).to_dict()
    except ValueError as error:
        raise checkpoint.CheckpointError(f"the card has been changed ({error})") from None
    recipe |= {name: about["recipe"][name] for name in MAY_CHANGE}
    on_card = {**card, "config": config, "recipe": recipe}
    for what in ("config", "recipe", "data", *(["teacher"] if "teacher" in about else [])):
        if not isinstance(saved := on_card.get(what, {}), Mapping):
            raise checkpoint.CheckpointError(f"a card's {what} is {shortened(saved)}, and has to be a dictionary")
        if changed := state.differences(plain(saved), about[what]):
            return f"{what} ({changed})"
    return ""


def _best(path: Path, known: dict, about: Mapping, is_same_data: Callable) -> dict:
    """The evaluation of the weights that were kept; none where they are missing or damaged, and so to be replaced.

    They are saved before the state, so it may be of a step that the state has not reached.
    """
    if not known and not path.exists():
        return {}
    try:
        card = _with_current_fingerprint(checkpoint.read(path)[1], about, is_same_data)
        if changed := _changed(card, about):
            raise ValueError(f"{path} is of another {changed}: move it away, and resume")
        if not isinstance(card.get("held_out"), Mapping):
            raise checkpoint.CheckpointError(f"{path} says nothing of held-out images")
        try:
            state.check_best(card["held_out"])
        except ValueError as error:
            raise checkpoint.CheckpointError(f"{path} has an impossible held-out result ({error})") from None
        return dict(card["held_out"])
    except checkpoint.AccessError:
        raise
    except checkpoint.CheckpointError as error:
        log.warning("%s; the next evaluation keeps its weights", error)
        return {}
