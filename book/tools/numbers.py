"""Every measured number in a chapter's prose is backed.

A decimal, a percentage, a number of runs, or a number with a measured unit has to be one of:
- in the text output of a code cell above (looked up in the executed notebook, when the book is built), rounded or not;
- in a sentence that links to the ledger, `[…](../book/ledger.md#name)`, a record's id or the name of an experiment:
  then it is in that record, is a mean or ± over the runs of its kind, or is in the output of a cell above, as a
  difference or a ratio has to be;
- in a sentence that links to a source, `[…](../book/references.md#key)`: the number is the paper's.
A number that is none of these but right, a definition say, stands in `code` or $math$, or its paragraph says why in
`<!-- number: why -->`. On the pages that are not notebooks, sentences that link to the ledger keep the same rule.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from book.tools import records

NOT_PROSE = re.compile(
    r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$|\$\$.*?\$\$|`[^`]*`|\$[^$\n]+\$|<!--.*?-->|<[^>]+>", re.M | re.S
)
ESCAPE = re.compile(r"<!--\s*number:\s*\S.*?-->", re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\(([^)]*)\)")
UNIT = r"(?:%|percent\b|×(?!\s*\d)|(?:ms|µs|s|seconds?|images/s|images per second|points?|runs|[GMk]B|[GM]?FLOPs?)\b)"
NUMBER = re.compile(rf"(?<![\w.,/§#])(\d[\d,]*\d|\d)(\.\d+)?(?:[\s~]?({UNIT}))?(?![\w]|\.\d)")
NAMED = re.compile(r"(?:§|Section|Sec\.|Table|Figure|Fig\.|Eq\.|arXiv:?|Python|torch|PyTorch|version|CC BY)\s*\d[\d.]*")
UNBACKED = (
    " is not in the output of a cell above: print it there, link the sentence to its ledger record or to the reference "
    "it is from, or say <!-- number: why -->"
)
LEDGER = "ledger.md"
DERIVED = "state what the record holds, print what follows from it in a cell above, or say <!-- number: why -->"
SCALES = {"ms": 1e3, "µs": 1e6, "kB": 1e-3, "MB": 1e-6, "GB": 1e-9, "MFLOP": 1e-6, "GFLOP": 1e-9}
SOURCES = {"references.md": records.references, LEDGER: records.ledger}


def backed(chapter):
    """The rule: numbers that are not backed, with the three ways to back them, and dead links."""
    root = chapter.project.root
    known = {page: targets(root) for page, targets in SOURCES.items()}
    for n, cell in chapter.cells("markdown"):
        shown = _outputs(chapter.executed, n) if chapter.executed else None
        for block in _blocks(cell.source):
            for sentence in _sentences(block):
                links = _links(sentence)
                yield from ((n, message) for message in _dead_links(links, known))
                if ESCAPE.search(block) or shown is None:  # not run yet: the build looks again
                    continue
                if not links:
                    yield from ((n, text + UNBACKED) for text in _unbacked(sentence, shown))
                yield from ((n, message) for message in _not_recorded(root, sentence, links, known, shown))


def pages(root: Path) -> list[str]:
    """Dead links to records in the pages under book/, and numbers beside links that their records do not hold."""
    known, problems = {page: targets(root) for page, targets in SOURCES.items()}, []
    for path in sorted((root / "book").rglob("*.md")):
        for block in _blocks(path.read_text("utf8")):
            for sentence in _sentences(block):
                links = _links(sentence)
                messages = [*_dead_links([link for link in links if link[0] == LEDGER], known)]
                if not ESCAPE.search(block):
                    messages += _not_recorded(root, sentence, links, known, "")
                problems += [f"{path.relative_to(root)}: {message}" for message in messages]
    return problems


def _dead_links(links, known) -> Iterator[str]:
    for page, key in links:
        if key not in known[page]:
            yield f"links to {page}#{key}, but there is no {key!r}: one of {_near(key, known[page])}"


def _not_recorded(root: Path, sentence: str, links, known, shown: str) -> Iterator[str]:
    """Numbers of a sentence that links to records alone, which are neither in those nor shown above."""
    keys = [key for page, key in links if page == LEDGER and key in known[page]]
    if not keys or any(page != LEDGER for page, _ in links):
        return
    recorded = {key: records.stated(root, key) for key in keys}
    values = [abs(value) for by_name in recorded.values() for values in by_name.values() for value in values]
    for text, value in numbers(sentence):
        if not (_shown(value, shown) or _among(value, _scaled(text, values))):
            names = dict.fromkeys(name for by_name in recorded.values() for name in by_name if " over " not in name)
            yield f"{text!r} is not in {LEDGER}#{', #'.join(keys)}, which has {', '.join(names)}: {DERIVED}"


def _scaled(text: str, values: Iterable[float]) -> list[float]:
    """Recorded numbers as they may be written: as they are, in per cent, in the unit that the text has."""
    scale = next((scale for unit, scale in SCALES.items() if re.search(rf"{unit}s?$", text)), 1)
    return [factor * value for value in values for factor in {1, 100, scale}]


def _links(sentence: str) -> list[tuple[str, str]]:
    """The pages and keys of a sentence's links to records and references."""
    targets = (url.rpartition("/")[2].partition("#") for _, url in LINK.findall(sentence))
    return [(page, key) for page, _, key in targets if page in SOURCES and key]


def _unbacked(sentence: str, shown: str) -> list[str]:
    return [repr(text) for text, value in numbers(sentence) if not _shown(value, shown)]


def _near(key: str, known: dict) -> str:
    close = difflib.get_close_matches(key, known, cutoff=0.3) or list(known)[:3]
    return ", ".join(close) or "none yet"


def numbers(sentence: str) -> list[tuple[str, str]]:
    """The measured numbers of a sentence: as written, and the digits alone."""
    prose = NAMED.sub(" ", LINK.sub(r"\1", NOT_PROSE.sub(" ", sentence)))
    matches = (match for match in NUMBER.finditer(prose) if match[2] or match[3])
    return [(match.group(), match[1].replace(",", "") + (match[2] or "")) for match in matches]


def _shown(value: str, text: str) -> bool:
    """Whether the text holds the number, or one that rounds to it; a percentage may be shown as a fraction."""
    shown = (float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", text))
    return _among(value, (scaled for number in shown for scaled in (number, 100 * number)))


def _among(value: str, numbers: Iterable[float]) -> bool:
    """Whether one of the numbers rounds to the one that is written."""
    digits = len(value.partition(".")[2])
    return any(f"{number:.{digits}f}" == value for number in numbers)


def _outputs(notebook, n: int) -> str:
    """All text that the cells before cell `n` put out."""
    texts = []
    for cell in notebook.cells[: n - 1]:
        for output in cell.get("outputs", []):
            texts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join("".join(text) for text in texts)


def _blocks(source: str) -> list[str]:
    """Paragraphs, list items and whole tables; fenced code is left out."""
    text = re.sub(r"^(```+|~~~+).*?^\1[ \t]*$", "", source, flags=re.M | re.S)
    return [block for part in re.split(r"\n\s*\n", text) for block in re.split(r"\n(?=\s*(?:[-*]|\d+\.)\s)", part)]


def _sentences(block: str) -> list[str]:
    if "\n|" in f"\n{block}":
        return [block]
    return re.split(r"(?<=[.!?])\s+(?=[A-Z\[*_(<])", block)
