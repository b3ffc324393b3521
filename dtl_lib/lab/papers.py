"""The equations, figures and tables of the four papers that the book is built on, and what became of them here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..ledger import FOLDER

FILE = FOLDER / "papers.json"
KINDS = ("equation", "figure", "table")
TITLES = {
    "dosovitskiy2021image": "ViT: an image is worth 16×16 words",
    "touvron2021training": "DeiT: training with a teacher",
    "touvron2021going": "CaiT: going deeper",
    "darcet2024vision": "Vision transformers need registers",
}
UNREAD = {
    ("touvron2021going", "figure"): (4, 5),
    ("touvron2021going", "table"): (6,),
}  # their captions were not at hand
VERDICTS = {
    "built": "is an equation, a drawing or settings; the code is here, and a test checks it",
    "reproduced": "was measured here, and came out as the paper has it",
    "in part": "some of what it says was found here, on the model that is named",
    "null": "was measured here; no difference that matters is left",
    "undecided": "was measured here; the interval is too long to tell",
    "opposite": "was measured here, and came out the other way round",
    "out of reach": "needs weights, data or GPUs that nobody here had",
    "not tried": "could be asked here, and was not",
}


@dataclass(frozen=True)
class Interval:
    """The 95 % interval that a verdict comes from.

    Attributes:
        what: is measured, and less what.
        low, high: its ends.
        claim: 1 where the paper says that the difference is above 0, −1 where below, 0 where that there is none.
        margin: what is too small to matter.
    """

    what: str
    low: float
    high: float
    claim: int
    margin: float


@dataclass(frozen=True)
class Item:
    """One numbered thing of a paper, or a part of it that has a verdict of its own.

    Attributes:
        source: the paper's key in the book's references.
        kind, number: `"figure"` and `"7a"`, the letter being ours where the paper has none.
        shows: what it shows.
        verdict: one of `VERDICTS`.
        part: what the paper calls this part, or what it says.
        chapters: where it is taken up.
        records: experiments of the ledger, which hold what was measured.
        stored: results of real weights that the library stores.
        check: the test of what is built.
        command: what repeats it; empty where nothing does.
        note: what came out, and on which model; or what is missing.
        checked: whether the number was read in the paper.
        interval: what the verdict comes from, where that is one interval.
    """

    source: str
    kind: str
    number: str
    shows: str
    verdict: str
    part: str = ""
    chapters: tuple[int, ...] = ()
    records: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    check: str = ""
    command: str = ""
    note: str = ""
    checked: bool = True
    interval: Interval | None = None


def read(file: str | Path = FILE) -> list[Item]:
    """All of them, paper by paper, in the papers' order."""
    return [_item(**entry) for entry in json.loads(Path(file).read_text("utf8"))]


def verdict(low: float, high: float, claim: int, margin: float) -> str:
    """What an interval says of a claim.

    Args:
        low, high: the interval's ends.
        claim: 1 or −1 where a difference above or below 0 is claimed; 0 where none is.
        margin: what is too small to matter, above 0.

    Returns:
        `"reproduced"`, `"opposite"`, `"null"` or `"undecided"`. A difference is found where
        the interval leaves out 0; there is none that matters where it lies within ± margin.
    """
    found, none = low > 0 or high < 0, max(-low, high) < margin
    if claim == 0:
        return "reproduced" if none else "opposite" if found else "undecided"
    if found:
        return "reproduced" if (low > 0) == (claim > 0) else "opposite"
    return "null" if none else "undecided"


def counts(items: Sequence[Item]) -> dict[str, int]:
    """How many items have each verdict, in the order of `VERDICTS`."""
    return {name: sum(item.verdict == name for item in items) for name in VERDICTS}


def _item(interval: dict | None = None, **entry) -> Item:
    lists = {name: tuple(value) for name, value in entry.items() if isinstance(value, list)}
    return Item(**entry | lists, interval=Interval(**interval) if interval else None)
