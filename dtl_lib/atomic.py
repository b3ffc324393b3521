"""Files that are replaced whole or not at all, whenever process or machine dies, and locks between processes."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on every system
    fcntl = None

_HELD: set[str] = set()  # files whose locks this process has
PART = ".part"  # what an unfinished file's name ends in


def replace(path: Path, fill: Callable[[Path], object], previous: Path | None = None) -> None:
    """Fill a temporary file beside `path`, flush it, and rename it to `path`.

    Args:
        path: its folder is made where missing.
        fill: writes the file that it is given.
        previous: a second name that the file keeps which was at `path`.

    Raises:
        OSError: and whatever `fill` raises; nothing is left then, and what was at `path` is untouched.
    """
    # a folder: safetensors writes to a file of another name first, and what a killed one leaves, the next save finds
    part = path.with_name(f".{path.name}{PART}")
    temporary = part / path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        part.mkdir()
        (part / "mode").touch()
        fill(temporary)
        temporary.chmod((part / "mode").stat().st_mode)  # what the umask says; safetensors gives 600
        _flush(temporary)
        if previous and path.is_file():
            _keep(path, previous)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        _remove(part)


def remove_leftovers(*paths: Path) -> None:
    """Remove what a process has left that was killed inside `replace` of these files; no other may be writing them."""
    for path in paths:
        _remove(path.with_name(f".{path.name}{PART}"))


@contextlib.contextmanager
def lock(path: Path, busy: str) -> Iterator[None]:
    """Inside, nobody else holds the lock at `path`, here or in another process; a ValueError `busy` where one does.

    The kernel releases it when the process ends, in whatever way; processes started inside do not inherit it. Where the
    file cannot be made, or the file system knows no locks, nothing is locked.
    """
    with _alone_here(path, busy), _locked(path, busy):
        yield


@contextlib.contextmanager
def _alone_here(path: Path, busy: str) -> Iterator[None]:
    """The kernel gives a process its own lock again, to any thread, and takes it away where a second one is closed."""
    place = os.path.realpath(path)
    if place in _HELD:
        raise ValueError(busy)
    _HELD.add(place)
    try:
        yield
    finally:
        _HELD.discard(place)


@contextlib.contextmanager
def _locked(path: Path, busy: str) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")
    except OSError:
        yield  # nothing can be written there: saving will say so
        return
    with file:
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
                    raise BlockingIOError(errno.EAGAIN, "whoever held it has just removed it")
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise ValueError(busy) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _remove(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()  # a file, as an earlier version of this library left it
    shutil.rmtree(part, ignore_errors=True)


def _keep(path: Path, previous: Path) -> None:
    """A second name for the file at `path`, which stays there: at no moment is there none."""
    spare = previous.with_name(f".{previous.name}{PART}")
    with contextlib.suppress(OSError):
        spare.unlink()
    try:
        os.link(path, spare)
        os.replace(spare, previous)
    except OSError:  # a file system without links
        os.replace(path, previous)


def _flush(path: Path) -> None:
    if os.name != "posix" and path.is_dir():
        return  # a folder cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # not every file system can
            raise
    finally:
        os.close(handle)
