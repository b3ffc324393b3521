"""A run that goes on: what it takes over from its folder, and what has to be as it was."""

import logging
from collections.abc import Mapping

from .. import checkpoint
from ..hashing import plain
from . import state
from .recipe import Recipe
from .state import Progress

BEST = "best.safetensors"
log = logging.getLogger("dtl_lib")


def restore(run) -> Progress:
    """Put the state in the folder of a `Run` into its parts; where it stands.

    Raises:
        ValueError: where there is no state, it cannot be read, or it is of another model, recipe or data.
    """
    folder, processes, found = run.folder, run.processes, []  # found by the first: the others need not see its disk
    card = processes.broadcast_object(lambda: found.extend(state.read(folder)) or found[1])
    if changed := _changed(card, run):
        raise ValueError(f"{folder} was trained with another {changed}: resume with the same")
    progress = state.restore(
        folder / state.NAME, found[0] if found else None, card, run.model, run.average, run.optimizer, run.scaler,
        processes,
    )  # fmt: skip
    progress.best = processes.broadcast_object(lambda: _best(run, progress.best))
    if not progress.best and progress.step == run.total:
        progress.unevaluated = True  # no step will be evaluated any more: this one is, for there to be a best
    if (was := card.get("processes", 1)) != processes.world and processes.first:
        log.warning(
            "saved by %d process%s, goes on with %d: the same batches of %d in the same order, %d images each; "
            "sums are added in another order, so the last bits differ", was, "es" * (was > 1), processes.world,
            run.recipe.batch_size, run.recipe.batch_size // processes.world,
        )  # fmt: skip
    return progress


def _changed(card: Mapping, run) -> str:
    """What a card says of the model, recipe or data that is not so in a run; empty where all is the same."""
    recipe = Recipe.from_dict(card.get("recipe", {})).to_dict()  # a field newer than the card: its default
    then = {**card, "recipe": {**recipe, "on_nan": run.recipe.on_nan}}  # may change: it has not mattered so far
    for what in ("config", "recipe", "data", *(["teacher"] if run.teacher else [])):
        if changed := state.differences(plain(then.get(what, {})), run.about[what]):
            return f"{what} ({changed})"
    return ""


def _best(run, known: dict) -> dict:
    """The evaluation of the weights that were kept; none where they cannot be read, or are another run's.

    They are saved before the state, so it may be of a step that the state has not reached.
    """
    path = run.folder / BEST
    if not known and not path.is_file():
        return {}
    try:
        card = checkpoint.read(path)[1]
        if not (changed := _changed(card, run)):
            return card["held_out"]
        log.warning("%s is of another %s; the next evaluation replaces it", path, changed)
        return {}
    except checkpoint.CheckpointError as error:
        log.warning("%s; the next evaluation keeps its weights", error)
        return {}
