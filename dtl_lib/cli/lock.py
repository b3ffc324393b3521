"""One run at a time in a folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..train.distributed.processes import Processes

try:
    import fcntl
except ImportError:  # not on every system
    fcntl = None

NAME = ".lock"


@contextmanager
def exclusive(folder: str | Path, processes: Processes) -> Iterator[None]:
    """Inside, no other run can use the folder; a ValueError where one does already.

    The kernel releases the lock when the first process ends, in whatever way; its loader's workers do not inherit it.
    """
    files = []
    processes.broadcast_object(lambda: files.extend(_locked(Path(folder))))
    try:
        yield
    finally:
        for file in files:
            file.close()
            _remove_if_empty(Path(folder))


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder in which nothing but the lock was written."""
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] == [NAME]:
            (folder / NAME).unlink()
            folder.rmdir()


def _locked(folder: Path) -> list:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / NAME, "a")
    except OSError:
        return []  # nothing can be written there: saving will say so
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            file.close()
            raise ValueError(
                f"another process is training in {folder}: let it end, or choose another --output-dir"
            ) from None
    return [file]  # also on a file system without locks
