"""Paths that users and files give, looked at before anything is opened. Imports nothing of the library."""

import os
import re
import stat
from pathlib import Path

KINDS = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_ADDRESS = re.compile(r"\w[\w+.-]+://|pipe:", re.I)  # what some libraries' openers fetch, or run


def user_path(path: str | os.PathLike) -> Path:
    """A path as a user writes it, with `~` and `~name` replaced by the home folder.

    Raises:
        ValueError: for what is no path: an address, a null character, nothing, or the home of an unknown user.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"{text!r} is not a path: give the name of a file or folder")
    if _ADDRESS.match(text):
        raise ValueError(f"{text} is an address: give a file or folder of this machine (./{text} if it is one)")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text}: {text.partition('/')[0]} has no home folder here: write the path out") from None


def kind(path: str | os.PathLike) -> str | None:
    """What a path leads to: `a file`, `a folder`, `a pipe`, `a socket` or `a device`; None where there is nothing.

    Nothing is opened: a pipe that is opened waits for a writer, and reading a device may never end.

    Raises:
        OSError: where the system does not let it be looked at.
        ValueError: where it cannot be a path.
    """
    try:
        return KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "a device")
    except (FileNotFoundError, NotADirectoryError):
        return None


def require(path: str | os.PathLike, expected: str, remedy: str) -> None:
    """A ValueError that says what a path is, unless it is what is needed.

    Args:
        path: any.
        expected: one of `kind`'s, such as `a folder`.
        remedy: what would be right, the end of the sentence.
    """
    try:
        found = kind(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except ValueError:
        raise ValueError(f"{path!r} cannot be a path; {remedy}") from None
    if found != expected:
        what = "does not exist" if found is None else f"is {found}, not {expected}"
        raise ValueError(f"{path} {what}; {remedy}")


def require_writable(file: Path, what: str) -> None:
    """A ValueError where `what` could not be written to a file, which is better known before the work."""
    if (found := kind(file)) not in ("a file", None):
        raise ValueError(f"{what} cannot be written to {file}: it is {found}; move it away")
    try:
        for folder in file.parents:
            if (found := kind(folder)) not in ("a folder", None):
                raise ValueError(f"{what} cannot be written to {file}: {folder} is {found}, not a folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        with open(file, "a"):
            pass
        if new:
            file.unlink()
    except OSError as error:
        raise ValueError(f"{what} cannot be written to {file} ({error.strerror}): make its folder writable") from None
