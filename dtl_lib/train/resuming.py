"""A run that goes on: what it takes over from its folder, and what has to be as it was."""

import logging
from collections.abc import Mapping
from pathlib import Path

from .. import checkpoint
from ..checkpoint import BEST
from ..hashing import plain
from . import state
from .learner import Learner
from .recipe import Recipe
from .state import Progress

log = logging.getLogger("dtl_lib")


def restore(folder: Path, learner: Learner, about: Mapping) -> Progress:
    """Put the state in the folder of a run into its learner; where the run stands.

    Args:
        folder: of the run.
        learner: as it was built for it.
        about: what the run is now: its configuration, recipe and data, as its files say it.

    Raises:
        ValueError: where there is no state, it cannot be read, or it is of another model, recipe or data.
    """
    processes, tensors = learner.processes, []  # read by the first process: the others need not see its disk
    card = processes.broadcast_object(lambda: _read(folder, tensors))
    if changed := _changed(card, about):
        raise ValueError(f"{folder} was trained with another {changed}: resume with the same")
    progress = state.restore(folder / state.NAME, tensors[0] if tensors else None, card, learner)
    progress.best = processes.broadcast_object(lambda: _best(folder / BEST, progress.best, about))
    if not progress.best and progress.step == learner.schedule.total:
        progress.unevaluated = True  # no step will be evaluated any more: this one is, for there to be a best
    if (was := card.get("processes", 1)) != processes.world and processes.first:
        batch = learner.recipe.batch_size
        log.warning(
            "saved by %d process%s, goes on with %d: the same batches of %d in the same order, %d images each; "
            "sums are added in another order, so the last bits differ", was, "es" * (was > 1), processes.world,
            batch, batch // processes.world,
        )  # fmt: skip
    return progress


def _read(folder: Path, tensors: list) -> dict:
    """The card of the state, whose tensors are appended to `tensors`."""
    whole, card = state.read(folder)
    tensors.append(whole)
    return card


def _changed(card: Mapping, about: Mapping) -> str:
    """What a card says of the model, recipe or data that is not so now; empty where all is the same."""
    recipe = Recipe.from_dict(card.get("recipe", {})).to_dict()  # a field newer than the card: its default
    then = {**card, "recipe": {**recipe, "on_nan": about["recipe"]["on_nan"]}}  # may change: it has not mattered so far
    for what in ("config", "recipe", "data", *(["teacher"] if "teacher" in about else [])):
        if changed := state.differences(plain(then.get(what, {})), about[what]):
            return f"{what} ({changed})"
    return ""


def _best(path: Path, known: dict, about: Mapping) -> dict:
    """The evaluation of the weights that were kept; none where they cannot be read, or are another run's.

    They are saved before the state, so it may be of a step that the state has not reached.
    """
    if not known and not path.is_file():
        return {}
    try:
        card = checkpoint.read(path)[1]
        if not (changed := _changed(card, about)):
            return card["held_out"]
        log.warning("%s is of another %s; the next evaluation replaces it", path, changed)
        return {}
    except checkpoint.CheckpointError as error:
        log.warning("%s; the next evaluation keeps its weights", error)
        return {}
