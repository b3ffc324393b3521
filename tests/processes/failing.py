"""Run under torchrun: `dtl train` with the flags that follow, in which one process fails in a way that is named."""

import errno
import os
import signal
import sys
from functools import partial
from pathlib import Path

from dtl_lib import checkpoint, train
from dtl_lib.__main__ import main
from dtl_lib.train import fit

STEP = 3


def fail(kind: str, rank: int, world_size: int, step: int, loss, model) -> None:
    """The last process, after a step: the others are on their way into the next sum of gradients."""
    if step != STEP or rank != world_size - 1:
        return
    print("now", flush=True)
    if kind == "value":
        raise ValueError("the tea is cold")
    if kind == "key":
        {}["a surprise"]
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk() -> None:
    """No room left after the save of that step."""
    save, saved = checkpoint.save_file, []

    def full(tensors, path, metadata):
        saved.append(path)
        if len(saved) <= STEP + 1:
            return save(tensors, path, metadata=metadata)
        Path(path).write_bytes(b"as much as there was room for")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoint.save_file = full


if __name__ == "__main__":
    kind, *flags = sys.argv[1:]
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    train.fit = partial(fit, on_step=partial(fail, kind, rank, world_size))
    if kind == "full" and rank == 0:
        fill_the_disk()
    if kind == "missing" and rank == world_size - 1:
        flags[flags.index("--data-path") + 1] += "/nowhere"
    sys.exit(main(["train", *flags]))
