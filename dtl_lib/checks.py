"""What is checked, and what is said of an error, the same way everywhere. Imports nothing of the library."""

import re

LONGEST = 160  # characters of an error that are repeated


def is_whole(value) -> bool:
    """Whether a value is an integer, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole(name: str, value, least: int = 1) -> None:
    """A ValueError that names the value, unless it is a whole number of at least `least`."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{name} is a whole number, {least} or more, not {value!r}")


def first_line(error: BaseException, lines: int = 1) -> str:
    """What an error says, in one line: an OSError's reason, or the first of its text, without the place in C++.

    Args:
        error: any.
        lines: how many lines of its text are joined, blank ones left out: some errors say the reason in the second.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = [line.strip() for line in re.sub(r"\[/\S+\] ", "", str(error)).splitlines() if line.strip()]
    return " ".join(text[:lines])[:LONGEST].strip() or type(error).__name__
