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


def replace(path: Path, fill: Callable[[Path], object], previous: Path | None = None, force: bool = True) -> None:
    """Fill a temporary file beside `path`, flush it, and rename it to `path`.

    Args:
        path: its folder is made where missing.
        fill: writes the file that it is given.
        previous: a second name that the file keeps which was at `path`.
        force: whether what is at `path` by then is replaced.

    Raises:
        ValueError: where somebody else is writing the file now, or has written it meanwhile and `force` is False.
        OSError: and whatever `fill` raises; nothing is left then, and what was at `path` is untouched.
    """
    # a folder: safetensors writes to a file of another name first, and what a killed one leaves, the next save finds
    part = path.with_name(f".{path.name}{PART}")
    temporary = part / path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _emptied(part, f"another process is writing {path}: wait until it has ended, or give another name"):
        (part / "mode").touch()
        fill(temporary)
        temporary.chmod((part / "mode").stat().st_mode)  # what the umask says; safetensors gives 600
        _flush(temporary)
        if not force and os.path.lexists(path):
            raise ValueError(f"{path} is there already, and was not when this began: it is kept")
        if previous and path.is_file():
            _keep(path, previous)
        os.replace(temporary, path)
        _flush(path.parent)


@contextlib.contextmanager
def _emptied(part: Path, busy: str) -> Iterator[None]:
    """Inside, an empty folder that is nobody else's; a ValueError `busy` where it is. At the end it is removed.

    The folder itself is locked, which leaves no other file behind: whoever is killed in it holds it no longer.
    """
    with contextlib.suppress(OSError):
        part.unlink()  # a file, as an earlier version of this library left it
    part.mkdir(exist_ok=True)
    handle = _held(part, busy)
    try:
        for left in part.iterdir():
            _remove(left)
        yield
    finally:
        _remove(part)
        if handle is not None:
            os.close(handle)


def _held(part: Path, busy: str) -> int | None:
    """The locked folder; None on a system or file system that knows no such locks."""
    if fcntl is None:
        return None
    try:
        handle = os.open(part, os.O_RDONLY)
    except FileNotFoundError:  # whoever held it has just removed it
        raise ValueError(busy) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = os.path.exists(part) and os.path.samestat(os.fstat(handle), os.stat(part))
    except OSError as error:
        alone = error.errno not in (errno.EAGAIN, errno.EACCES)
    if alone:
        return handle
    os.close(handle)
    raise ValueError(busy)


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
