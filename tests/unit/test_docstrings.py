"""Docstrings as the API pages read them: napoleon makes fields of their sections, and takes no sentence for a type."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sphinx.ext.napoleon import Config, GoogleDocstring

from book.tools.book_pages import one_field_each

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "book" / "api").glob("*.md"))
OPTIONS = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["sphinx"]["config"]
NAPOLEON = Config(**{name: value for name, value in OPTIONS.items() if name.startswith("napoleon_")})
SECTIONS = "Args", "Attributes", "Raises", "Returns", "Yields"
FIELD = re.compile(r"^:(param|ivar|raises|type|vartype|rtype|returns|Yields)\b ?([^:]*):", re.MULTILINE)


def documented(page: Path) -> Iterator[tuple[str, str, object]]:
    """Kind, name and object of everything that autodoc puts on a page and that has a docstring of its own."""
    for directive, name in re.findall(r"^\.\. auto(module|function|class):: (\S+)", page.read_text("utf8"), re.M):
        if directive != "module":
            module, _, member = name.rpartition(".")
            yield "function", name, getattr(importlib.import_module(module), member)
            continue
        module = importlib.import_module(name)
        yield "module", name, module
        for member in getattr(module, "__all__", vars(module)):
            thing = getattr(module, member)
            own = hasattr(module, "__all__") or getattr(thing, "__module__", None) == name
            if own and not member.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(thing)):
                yield from _with_members(f"{name}.{member}", thing)


def _with_members(name: str, thing: object) -> Iterator[tuple[str, str, object]]:
    yield "class" if inspect.isclass(thing) else "function", name, thing
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        if not member.startswith("_"):
            if isinstance(value, property):
                yield "property", f"{name}.{member}", value
            elif inspect.isfunction(unwrapped := getattr(value, "__func__", value)):
                yield "method", f"{name}.{member}", unwrapped


def faults(kind: str, thing: object) -> Iterator[str]:
    """What is wrong with the docstring of a module, class, property, method or function."""
    text = inspect.cleandoc(thing.__doc__ or "")
    if kind in ("function", "class") and not text:
        yield "there is no docstring"
    fields = FIELD.findall(str(GoogleDocstring(text, NAPOLEON, what=kind, name="it")))
    for role, name in fields:
        if role in ("type", "vartype", "rtype"):
            yield f"a sentence is taken for the type of {name or 'what it is or returns'}: its first line has a colon"
        elif role in ("param", "ivar"):
            known = _names(kind, thing, role)
            for word in re.split(r",\s*", name.replace("\\", "")):
                if word.lstrip("*") not in known:
                    yield f"{word!r} is described, and there are only {', '.join(sorted(known)) or 'no arguments'}"
        elif role == "raises" and not re.fullmatch(r"[A-Za-z_.]+", name):
            yield f"{name!r} is no exception"
    made = {role for role, _ in fields}
    for section, role in zip(SECTIONS, ("param", "ivar", "raises", "returns", "Yields")):
        if re.search(rf"^{section}:$", text, re.MULTILINE) and role not in made:
            yield f"the section {section} makes no field"


def _names(kind: str, thing: object, role: str) -> set[str]:
    """Names that Args or Attributes may describe."""
    names = set() if kind in ("module", "property") else set(inspect.signature(thing).parameters)
    if role == "ivar" and kind == "class":
        annotated = (word for base in thing.__mro__ for word in getattr(base, "__annotations__", ()))
        public = (word for word in dir(thing) if not word.startswith("_"))
        return names.union(annotated, public, re.findall(r"\bself\.([a-z]\w*)\b.* = ", inspect.getsource(thing)))
    return names


def wrong_name(images):
    """Count.

    Args:
        pictures: as many as there are.
    """


class Measured:
    """What was measured.

    Attributes:
        steps: of the run.
    """

    @property
    def quartiles(self):
        """Seconds a step: lower quartile, median, upper quartile."""


def two_sentences(images):
    """Count.

    Returns:
        Whether it was done: False where it was stopped.
    """


def no_exception(images):
    """Count.

    Raises:
        where it is empty, a ValueError.
    """


@pytest.mark.parametrize(
    "kind, thing, fault",
    [
        ("function", wrong_name, "'pictures' is described"),
        ("class", Measured, "'steps' is described"),
        ("property", Measured.quartiles, "a sentence is taken for the type"),
        ("function", two_sentences, "a sentence is taken for the type"),
        ("function", no_exception, "is no exception"),
        ("function", lambda images: None, "there is no docstring"),
    ],
)
def test_a_docstring_that_is_misread_is_noticed(kind, thing, fault):
    assert fault in "\n".join(faults(kind, thing))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_docstrings_of_a_page_are_read_as_they_are_meant(page):
    found = [f"{name}: {fault}" for kind, name, thing in documented(page) for fault in faults(kind, thing)]
    assert not found, "\n".join(found)


def test_attributes_that_are_described_together_are_a_field_each():
    """`low, high: …` would be read as an attribute `high` of the type `low,`."""
    text = """What was measured.

    Attributes:
        low, high: the ends of
            its interval, `(steps,)`.
        n, `many`: a colon: and a comma, too.
        steps: of the run, first
            and last.
    """
    lines = str(GoogleDocstring(inspect.cleandoc(text), NAPOLEON, what="class", name="it")).split("\n")
    one_field_each(None, "class", "it", None, None, lines)
    assert [name for role, name in FIELD.findall("\n".join(lines)) if role == "ivar"] == [
        "low", "high", "n", "`many`", "steps",
    ]  # fmt: skip
    of_low, of_high = ("\n".join(lines).split(f":ivar {name}: ")[1].split(":ivar")[0] for name in ("low", "high"))
    assert of_low == of_high and of_low.split() == "the ends of its interval, `(steps,)`.".split()
