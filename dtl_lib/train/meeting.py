"""Where the processes of a run meet in the store that they share: a place of its own for each time they start."""

import json
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

LOOK = 0.1  # seconds between two looks at whether all have come
KEY = "meeting"


def met(store: dist.Store, rank: int, world: int, timeout: float) -> str:
    """What the keys of this start begin with, once every process has come to it: the same on all, and never used yet.

    torchrun keeps its store when it starts processes again, with all that lost ones have left there, and counts on each
    host how often. A host that is lost and started again by hand counts from 0, and meets the others all the same.

    Args:
        store: which process 0 and all others reach.
        timeout: seconds that one waits for the others.

    Raises:
        RuntimeError: where they have not all come by then.
    """
    mine = uuid.uuid4().hex
    return _call(store, world, mine, timeout) if rank == 0 else _come(store, rank, mine, timeout)


def _call(store: dist.Store, world: int, name: str, timeout: float) -> str:
    store.set(KEY, name)
    places = [f"{name}/{rank}" for rank in range(1, world)]
    try:
        store.wait(places, timedelta(seconds=timeout))
    except dist.DistStoreError:
        missing = [str(rank) for rank, place in enumerate(places, 1) if not store.check([place])]
        raise RuntimeError(f"{', '.join(missing)} of {world} did not come") from None
    store.set(f"{name}/all", json.dumps([store.get(place).decode() for place in places]))
    return name


def _come(store: dist.Store, rank: int, mine: str, timeout: float) -> str:
    name, end = None, time.monotonic() + timeout
    while time.monotonic() < end:
        if store.check([KEY]) and (called := store.get(KEY).decode()) != name:  # process 0 was started, perhaps again
            name = called
            store.set(f"{name}/{rank}", mine)
        # those that an earlier start of process 0 has met were others: it may be lost, and not yet called again
        if name and store.check([f"{name}/all"]) and mine in json.loads(store.get(f"{name}/all")):
            return name
        time.sleep(LOOK)
    raise RuntimeError(f"{rank} came, and process 0 or others did not")
