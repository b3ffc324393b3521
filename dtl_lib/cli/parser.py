"""argparse whose errors are one line, flags made from the fields of dataclasses, and the values that flags take."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import get_args, get_origin

OTHER_NAMES = {  # what other libraries call a flag
    "learning-rate": "lr",
    "num-registers": "num-reg",
    "num-train-epochs": "epochs",
    "wd": "weight-decay",
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are a ValueError of one line, with similar flags."""

    def __init__(self, **options):
        super().__init__(**{**options, "allow_abbrev": False})
        self._apart = False

    def error(self, message: str):
        """Raise instead of printing usage."""
        message = message.removeprefix("argument ").replace("COMMAND: invalid choice:", "there is no command")
        before, choose, choices = message.partition("(choose from ")
        raise ValueError(before + choose + choices.replace("'", ""))  # Python 3.11 quotes them, 3.12 does not

    def parse_args(self, args: Sequence[str] | None = None, namespace=None) -> argparse.Namespace:
        """As argparse's; an unknown flag is a ValueError with similar ones."""
        refuse_empty(sys.argv[1:] if args is None else args)
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            raise ValueError(self._unknown(rest[0], getattr(parsed, "command", None)))
        return parsed

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but a flag may stand among a command's words: `MODEL --weights FILE IMAGE` names an image."""
        if self._apart or self._subparsers or not self._get_positional_actions():
            return super().parse_known_args(args, namespace)
        self._apart = True  # it calls this method for the flags, and again for the words
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._apart = False

    def _unknown(self, word: str, command: str | None) -> str:
        if not word.startswith("-"):
            return f"unexpected argument {word!r}; see dtl {command} --help"
        commands = next(action.choices for action in self._actions if isinstance(action.choices, dict))
        known = {flag[2:] for flag in commands[command]._option_string_actions if flag.startswith("--")}
        name = word.partition("=")[0].lstrip("-")
        names = {other: flag for other, flag in OTHER_NAMES.items() if flag in known} | {flag: flag for flag in known}
        near = [name] if name in names else get_close_matches(name, sorted(names), n=3)
        flags = " or ".join(f"--{flag}" for flag in dict.fromkeys(names[other] for other in near))
        return f"{command} has no flag {word}" + (f"; did you mean {flags}?" if near else f"; see dtl {command} --help")


def refuse_empty(arguments: Sequence[str]) -> None:
    """A ValueError where a value is empty, as a shell variable that is not set leaves it."""
    for before, word in zip(("", *arguments), arguments):
        flag, equals, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if equals and not value.strip():
            what = flag if flag.startswith("-") else "an argument" if flag else "the command"
            raise ValueError(f"{what} is empty: give it a value, or leave it out (an unset variable?)")


def hyphenated(arguments: Sequence[str]) -> list[str]:
    """The arguments with `-` for `_` in flags, so that both spellings work; values stay as they are."""
    parts = [(word, *word.partition("=")) if word.startswith("--") else (word,) for word in arguments]
    return [part[0] if len(part) == 1 else part[1].replace("_", "-") + part[2] + part[3] for part in parts]


def given(args: argparse.Namespace, names: Iterable[str]) -> dict:
    """Those of the fields that were given as flags."""
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def add_field(group, name: str, kind, text: str, alias: str | None = None) -> None:
    """A flag for a dataclass's field. Where it is not given it is not in the namespace: the default stays the field's.

    Args:
        group: a parser, or a group of one.
        kind: the field's type: bool, int, float or str, which may also be None, `tuple[float, float]`, or
            `int | tuple[int, int]`.
        alias: another spelling of the flag.
    """
    flags = [f"--{name.replace('_', '-')}", *([alias] if alias else [])]
    options = {"dest": name, "help": text, "default": argparse.SUPPRESS}
    optional = type(None) in get_args(kind)
    parts = [part for part in get_args(kind) or (kind,) if part is not type(None)]
    if kind is bool:
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, **options)
    elif any(get_origin(part) is tuple for part in parts):
        group.add_argument(*flags, action=_Size, nargs="+", type=int, metavar="PIXELS", **options)
    elif get_origin(kind) is tuple:
        group.add_argument(*flags, nargs=2, type=number, metavar="X", **options)
    else:
        metavar = _METAVARS[parts[0]] + "|none" * optional
        group.add_argument(*flags, type=_reader(parts[0], optional), metavar=metavar, **options)


_METAVARS = {int: "N", float: "X", str: "NAME"}


class _Size(argparse.Action):
    """One number for a square, two for height and width."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2:
            raise argparse.ArgumentError(self, f"give one number or two, not {len(values)}")
        setattr(namespace, self.dest, values[0] if len(values) == 1 else tuple(values))


def _reader(kind: type, optional: bool) -> Callable[[str], object]:
    def read(text: str):
        if optional and text.lower() == "none":
            return None
        try:
            return kind(text)
        except ValueError:
            what = {int: "a whole number", float: "a number"}[kind] + (" or none" if optional else "")
            raise argparse.ArgumentTypeError(f"give {what}, not {text!r}") from None

    return read


number = _reader(float, False)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    return whole(text, least=1)


def whole(text: str, least: int = 0) -> int:
    """A whole number from `least` on."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"give a whole number, {least} or more, not {text!r}")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"give a number from 0 to 1, not {text!r}")
    return value


def below_one(text: str) -> float:
    """A number from 0 to below 1."""
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"give a number from 0 to below 1, not {text!r}")
    return value


def identifier(text: str) -> str:
    """A word that can name an experiment."""
    if not text.isidentifier():
        raise argparse.ArgumentTypeError(f"give one word of letters, digits and _, not {text!r}")
    return text
