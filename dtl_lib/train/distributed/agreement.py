"""Whether all processes of a run have the same settings and data."""

from ...config import ViTConfig
from ..recipe import Recipe
from .errors import RankError
from .processes import Processes


def check_ranks_agree(processes: Processes, config: ViTConfig, recipe: Recipe, sets, **more) -> None:
    """A `RankError`, alike on all, that names the first process whose settings or data differ from process 0's.

    Args:
        sets: a `data.Sets`.
        more: whatever else has to agree, as plain values.
    """
    if processes.world == 1:
        return
    settings = {**config.to_dict(), **recipe.to_dict(), **more}
    parts = {"training": sets.train, "held-out": sets.held_out, "test": sets.test}
    for name, images in parts.items():
        settings |= {f"{name} images": len(images), f"{name} classes": images.classes}
        settings |= {f"{name} data": images.fingerprint() if len(images) else None}
    first, *others = processes.gather(settings)
    for rank, other in enumerate(others, 1):
        if differ := [name for name in first if other.get(name) != first[name]]:
            name = differ[0]
            more = f" (and {', '.join(differ[1:4])})" if differ[1:] else ""
            this, that = (f"{name} {_short(values.get(name))}" for values in (other, first))
            raise RankError(
                f"process {rank} of {processes.world} on {processes.hosts[rank]} has {this} and process 0 on "
                f"{processes.hosts[0]} {that}{more}: start all with the same flags and data"
            )


def _short(value) -> str:
    return text if len(text := str(value)) < 60 else f"{text[:57]}…"
