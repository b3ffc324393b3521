"""What files are called that are made of a user's files."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..paths import kind, require_writable

NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|]')  # what some systems refuse
LONGEST = 120  # bytes of an image's name in those of its files


def distinct(stems: Iterable[str]) -> list[str]:
    """Names for files, one for each stem, that any system can keep side by side."""
    from ..data.images import plain_name

    taken, names = set(), []
    for stem in stems:
        plain = NOT_IN_NAMES.sub("_", plain_name(stem)).encode()[:LONGEST].decode(errors="ignore")
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def refuse_existing(paths: Sequence[Path], force: bool, what: str) -> None:
    """A ValueError where a file is there already and may not be replaced, or could not be written."""
    there = [] if force else [path for path in paths if kind(path) or path.is_symlink()]
    if there:
        more = f", and {len(there) - 1} more of these files" if len(there) > 1 else ""
        raise ValueError(f"{there[0]} is there already{more}: give --force to replace, or another --output-dir")
    require_writable(paths[0], what)
