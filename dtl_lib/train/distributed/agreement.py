"""Whether all processes of a run have the same settings and data."""

from collections.abc import Mapping

from ...checks import shortened
from .errors import RankError
from .processes import Processes


def check_ranks_agree(processes: Processes, settings: Mapping) -> None:
    """A `RankError`, alike on all, that names the first process whose settings differ from process 0's.

    Args:
        settings: name → plain value; the message names them.
    """
    if processes.world_size == 1:
        return
    first, *others = processes.gather(dict(settings))
    for rank, other in enumerate(others, 1):
        if differ := [name for name in {**first, **other} if other.get(name) != first.get(name)]:
            name = differ[0]
            more = f" (and {', '.join(differ[1:4])})" if differ[1:] else ""
            this, that = (f"{name} {shortened(values.get(name))}" for values in (other, first))
            raise RankError(
                f"process {rank} of {processes.world_size} on {processes.hosts[rank]} has {this} and process 0 on "
                f"{processes.hosts[0]} {that}{more}: start all with the same flags and data"
            )


def data_settings(sets) -> dict:
    """What has to agree of a `data.Sets`: the size, classes and fingerprint of each part."""
    settings = {}
    for name, images in {"training": sets.train, "held-out": sets.held_out, "test": sets.test}.items():
        settings |= {f"{name} images": len(images), f"{name} classes": images.classes}
        settings |= {f"{name} data": images.fingerprint() if len(images) else None}
    return settings
