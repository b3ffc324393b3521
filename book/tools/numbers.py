"""Every measured number in a chapter's prose is backed.

A decimal, a percentage, or a number with a measured unit has to be one of:
- in the text output of a code cell above (looked up in the executed notebook, when the book is built), rounded or not;
- in a sentence that links to the ledger, `[…](../book/ledger.md#name)`: a record's id, or the name of an experiment;
- in a sentence that links to a source, `[…](../book/references.md#key)`: the number is the paper's.
A number that is none of these but right, a definition say, stands in `code` or $math$, or its paragraph says why in
`<!-- number: why -->`.
"""

import difflib
import re

from book.tools import records

NOT_PROSE = re.compile(
    r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$|\$\$.*?\$\$|`[^`]*`|\$[^$\n]+\$|<!--.*?-->|<[^>]+>", re.M | re.S
)
ESCAPE = re.compile(r"<!--\s*number:\s*\S.*?-->", re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\(([^)]*)\)")
UNIT = r"(?:%|percent\b|×(?!\s*\d)|(?:ms|µs|s|seconds?|images/s|images per second|points?|[GMk]B|[GM]?FLOPs?)\b)"
NUMBER = re.compile(rf"(?<![\w.,/§#])(\d[\d,]*\d|\d)(\.\d+)?(?:[\s~]?({UNIT}))?(?![\w]|\.\d)")
NAMED = re.compile(r"(?:§|Section|Sec\.|Table|Figure|Fig\.|Eq\.|arXiv:?|Python|torch|PyTorch|version|CC BY)\s*\d[\d.]*")
UNBACKED = (
    " is not in the output of a cell above: print it there, link the sentence to its ledger record or to the reference "
    "it is from, or say <!-- number: why -->"
)
SOURCES = {"references.md": records.references, "ledger.md": records.ledger}


def backed(chapter):
    """The rule: what is not backed, with the three ways to back it; links that lead nowhere."""
    known = {page: targets(chapter.project.root) for page, targets in SOURCES.items()}
    for n, cell in chapter.cells("markdown"):
        shown = _outputs(chapter.executed, n) if chapter.executed else None
        for block in _blocks(cell.source):
            for sentence in _sentences(block):
                links = _links(sentence)
                yield from (
                    (n, f"links to {page}#{key}, but there is no {key!r}: one of {_near(key, known[page])}")
                    for page, key in links
                    if key not in known[page]
                )
                if not links and not ESCAPE.search(block):
                    yield from ((n, text + UNBACKED) for text in _unbacked(sentence, shown))


def _links(sentence: str) -> list[tuple[str, str]]:
    """The pages and keys of a sentence's links to records and references."""
    targets = (url.rpartition("/")[2].partition("#") for _, url in LINK.findall(sentence))
    return [(page, key) for page, _, key in targets if page in SOURCES and key]


def _unbacked(sentence: str, shown: str | None) -> list[str]:
    if shown is None:  # not run yet: the build looks again
        return []
    return [repr(text) for text, value in numbers(sentence) if not _shown(value, shown)]


def _near(key: str, known: dict) -> str:
    close = difflib.get_close_matches(key, known, cutoff=0.3) or list(known)[:3]
    return ", ".join(close) or "none yet"


def numbers(sentence: str) -> list[tuple[str, str]]:
    """The measured numbers of a sentence: as written, and the digits alone."""
    prose = NAMED.sub(" ", LINK.sub(r"\1", NOT_PROSE.sub(" ", sentence)))
    found = (match for match in NUMBER.finditer(prose) if match[2] or match[3])
    return [(match.group(), match[1].replace(",", "") + (match[2] or "")) for match in found]


def _shown(value: str, text: str) -> bool:
    """Whether the text holds the number, or one that rounds to it; a percentage may be shown as a fraction."""
    digits = len(value.partition(".")[2])
    for seen in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", text):
        shown = float(seen.replace(",", ""))
        if any(f"{scaled:.{digits}f}" == value for scaled in (shown, 100 * shown)):
            return True
    return False


def _outputs(notebook, n: int) -> str:
    """All text that the cells before cell `n` put out."""
    texts = []
    for cell in notebook.cells[: n - 1]:
        for output in cell.get("outputs", []):
            texts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join("".join(text) for text in texts)


def _blocks(source: str) -> list[str]:
    """Paragraphs, list items and whole tables; fenced code has none of the numbers that count."""
    text = re.sub(r"^(```+|~~~+).*?^\1[ \t]*$", "", source, flags=re.M | re.S)
    return [block for part in re.split(r"\n\s*\n", text) for block in re.split(r"\n(?=\s*(?:[-*]|\d+\.)\s)", part)]


def _sentences(block: str) -> list[str]:
    if "\n|" in f"\n{block}":
        return [block]
    return re.split(r"(?<=[.!?])\s+(?=[A-Z\[*_(<])", block)
