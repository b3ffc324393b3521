"""What is checked, and what is said of an error, the same way everywhere. Imports nothing of the library."""

import math
import operator
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import fields
from numbers import Real
from types import NoneType, UnionType
from typing import get_args, get_origin

STRANGE = "non-finite values: the weights are damaged, or too large for their precision"
LONGEST = 160  # characters of an error that are repeated
LARGEST = 2**63 - 1  # a whole number that torch and the files take
LARGEST_FLOAT = 1e12  # of a setting; its square is still a float32
# what moves a terminal's cursor, recolours it or turns the direction of its text; a new line and a tab do not count
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def is_whole(value) -> bool:
    """Whether a value is an integer, Python's or one with an index such as NumPy's, and no bool."""
    return as_whole(value) is not None


def as_whole(value) -> int | None:
    """Such a value as Python's integer; None for any other."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:  # also a tensor or an array of several numbers
        return None


def is_line(text) -> bool:
    """Whether a value is text of one line: not blank, and without control characters."""
    return isinstance(text, str) and bool(text.strip()) and not any(unicodedata.category(sign) == "Cc" for sign in text)


def whole(name: str, value, least: int = 1, most: int = LARGEST) -> int:
    """A whole number from `least` to `most` as Python's; a ValueError that names what is none."""
    number = as_whole(value)
    if number is None or not least <= number <= most:
        limit = f"at most {most:,}" if number is not None and number > most else f"{least} or more"
        raise ValueError(f"{name} is a whole number, {limit}, not {shortened(value)}")
    return number


def check_finite(*tensors) -> None:
    """A ValueError where a tensor holds a NaN or an infinity."""
    if not all(values.isfinite().all() for values in tensors):
        raise ValueError(STRANGE)


def check_types(value, skip: tuple[str, ...] = ()) -> None:
    """Check the fields of a dataclass against their types, and put what stands for a plain value in its place.

    A whole number may be anything with an index, such as NumPy's; a tuple may be a list.

    Args:
        value: a dataclass, frozen or not, whose types are bool, int, float, str, None, tuples of those, mappings
            and other classes.
        skip: fields that are not looked at.

    Raises:
        ValueError: naming the first field whose value is of another type, or too large.
    """
    for field in fields(value):
        if field.name not in skip:
            object.__setattr__(value, field.name, typed(field.name, getattr(value, field.name), field.type))


def typed(name: str, value, kind):
    """`value` as a `kind`, a type or a union of types; a ValueError that names it where it is none."""
    kinds = get_args(kind) if get_origin(kind) is UnionType else [kind]
    for one in kinds:
        try:
            return _as(value, one)
        except (TypeError, ValueError, OverflowError):
            pass
    for one, limit in ((float, LARGEST_FLOAT), (int, LARGEST)):
        if one in kinds and isinstance(value, Real) and not isinstance(value, bool) and limit < abs(value) < math.inf:
            raise ValueError(f"{name} is at most {int(limit):,}, not {shortened(value)}")
    raise ValueError(f"{name} is {' or '.join(map(_called, kinds))}, not {shortened(value)}")


def shortened(value) -> str:
    """A value as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of over 4,300 digits
        return "a number of thousands of digits" if is_whole(value) else f"such a {type(value).__name__}"
    return text if len(text) < 60 else f"{text[:57]}…"


def visible(text: str) -> str:
    """Text with its control characters written as Python writes them: `\\x1b` for the one that begins a sequence."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Text as `visible` has it, with ends of lines and tabs written out too: a name that cannot pass for two lines."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def _as(value, kind):
    if kind is NoneType or kind is None:
        if value is not None:
            raise TypeError
        return None
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if not isinstance(value, tuple | list) or (parts[-1] is not ... and len(parts) != len(value)):
            raise TypeError
        return tuple(_as(part, parts[0]) for part in value)
    if get_origin(kind) is list:
        if not isinstance(value, list):
            raise TypeError
        return [_as(part, get_args(kind)[0]) for part in value]
    if isinstance(value, bool) and kind is not bool:
        raise TypeError
    if kind is int:
        if (number := as_whole(value)) is None:
            raise TypeError
        if abs(number) > LARGEST:
            raise OverflowError
        return number
    if kind is float:
        if not isinstance(value, Real) or not abs(float(value)) <= LARGEST_FLOAT:
            raise TypeError
        return value if isinstance(value, int | float) else float(value)
    kind = Mapping if kind is dict else kind
    if not isinstance(value, kind):
        raise TypeError
    return value


_NUMERALS = {2: "two", 3: "three", 4: "four"}


def _called(kind) -> str:
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        many = "" if parts[-1] is ... else f"{_NUMERALS.get(len(parts), len(parts))} "
        return f"{many}{_called(parts[0]).removeprefix('a ')}s"
    if get_origin(kind) is list:
        return f"a list of {_called(get_args(kind)[0]).removeprefix('a ')}s"
    names = {NoneType: "none", bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(kind) or ("a dictionary" if issubclass(kind, Mapping) else f"a {kind.__name__}")


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


def check_tape(tape) -> None:
    """A ValueError where a probe is given something else than its tape, such as the model."""
    if not hasattr(tape, "maps"):
        raise ValueError(
            f"a probe reads a tape, not a {type(tape).__name__}: with record(model) as tape: model(images)"
        )
