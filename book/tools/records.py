"""The pages that are lists: the ledger's records and the keys of the references, and what a notebook can link to."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from book.tools.reference import table
from dtl_lib.checks import visible
from dtl_lib.ledger import Record, aggregate, read

FEW = 4  # values a record that still make a table of one row a record
SHORT = 3  # numbers of a list that are shown; a curve is in the file alone
INTERVALS = {"accuracy": ("low", "high")}  # beside those that end in these:
QUARTILES = ("_low_quartile", "_high_quartile")
SCALES = ((1e9, " G"), (1e6, " M"))


def references(root: Path) -> dict[str, str]:
    """Every key of the bibliography, with the title that a link without text would show."""
    text = (root / "book" / "references.bib").read_text("utf8")
    entries = re.findall(r"^@\w+\{([^,\s]+),(.*?)^\}", text, re.M | re.S)
    return {key: re.search(r"title\s*=\s*\{+(.*?)\}+,", body, re.S)[1] for key, body in entries}


def ledger(root: Path) -> dict[str, str]:
    """What ledger.md#… can name: an experiment, all runs of it, or one record; with what it measures."""
    targets = {}
    for path in _experiments(root):
        targets[path.stem] = f"experiment {path.stem}"
        for line in path.read_text("utf8").splitlines():
            record = json.loads(line)
            targets[record["id"]] = record["what"]
    return targets


def stated(root: Path, key: str) -> dict[str, list[float]]:
    """The numbers behind ledger.md#key, by what they are.

    Those of one record, or of every record of an experiment: how many images or runs, the values, and mean, ± and
    deviation over the runs of a kind.
    """
    for path in _experiments(root):
        records = read(path.stem, path.parent)
        chosen = [record for record in records if key in (record.id, path.stem)]
        if chosen:
            break
    else:
        return {}
    numbers: dict[str, list[float]] = {}
    for record in chosen:
        numbers.setdefault("n", []).append(record.n)
        for name, value in record.values.items():
            numbers.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    for what in dict.fromkeys(record.what for record in chosen):
        kind = [record for record in records if record.what == what]
        for name in _scalars(kind):
            (over,) = aggregate([record for record in kind if name in record.values], "what", name)
            more = [over.mean, over.n, *([] if over.half is None else [over.half, over.deviation])]
            numbers[f"{name} over runs"] = [*numbers.get(f"{name} over runs", []), *more]
    return numbers


def tables(root: Path) -> str:
    """The records as Markdown: a section an experiment, to be opened, with anchors for experiment and records."""
    sections = [_section(path.stem, read(path.stem, path.parent)) for path in _experiments(root)]
    return "\n\n".join(sections) or "No records yet.\n"


def _experiments(root: Path) -> list[Path]:
    return sorted((root / "dtl_lib" / "ledger").glob("*.jsonl"))


def _section(experiment: str, records: Sequence[Record]) -> str:
    dates = sorted({record.date[:10] for record in records})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    runs = f"{len(records)} record{'s' * (len(records) > 1)}"
    devices = "; ".join(dict.fromkeys(record.device for record in records))
    summary = html.escape(_line(f"{runs}, {devices}, {days}"))
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(record.what, []).append(record)
    shared = _shared(records) if len(kinds) > 1 else {}
    rows = {what: _values(kind, shared) for what, kind in kinds.items()}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = _table(kinds, rows, names) if len(names) <= FEW else _list(kinds, rows)
    common = [f"In all: {', '.join(f'{_text(name)} {_number(value)}' for name, value in shared.items())}."]
    common = common if shared else []
    commands = list(dict.fromkeys(kind[-1].command for kind in kinds.values()))
    opened = f"<details>\n<summary><code>{experiment}</code> {summary}</summary>"
    # the anchor stands inside: a link to it opens the section
    return "\n\n".join(
        [
            opened,
            " ".join([f'<span id="{experiment}"></span>To repeat: {_commands(commands)}', *common]),
            lines,
            "</details>",
        ]
    )


def _table(kinds: dict, rows: dict, names: list[str]) -> str:
    cells = ([_what(what, kinds[what]), *(row.get(name, "") for name in names)] for what, row in rows.items())
    return table(["what", *map(_text, names)], cells)


def _list(kinds: dict, rows: dict) -> str:
    """Many values: one under the other in one column, which a narrow page still shows."""
    cells = (
        [_what(what, kinds[what]), "<br>".join(f"{_text(name)} **{value}**" for name, value in row.items())]
        for what, row in rows.items()
    )
    return table(["what", "values"], cells)


def _what(what: str, kind: Sequence[Record]) -> str:
    """What was measured, in how many runs, with the anchors of the records."""
    runs = f"{len(kind)} run{'s' * (len(kind) > 1)}, each over {kind[-1].n:,}"
    return f"{_anchors(kind)}{_text(what)} ({runs})"


def _commands(commands: list[str]) -> str:
    return "; ".join(map(_code, commands)) + "."


def _anchors(kind: Sequence[Record]) -> str:
    return "".join(f'<span id="{record.id}"></span>' for record in kind)


def _shared(records: Sequence[Record]) -> dict[str, float]:
    """Values that are the same number in every record: they are shown once."""
    first = records[0].values
    return {
        name: value
        for name, value in first.items()
        if not isinstance(value, list) and all(record.values.get(name) == value for record in records)
    }


def _scalars(kind: Sequence[Record]) -> list[str]:
    """The names of the values that are one number, in the last record's order."""
    return [name for name, value in kind[-1].values.items() if not isinstance(value, list)]


def _values(kind: Sequence[Record], shared: dict) -> dict[str, str]:
    """The values of runs of one kind as text: mean ± half of the 95 % interval, or of one run [low, high] too."""
    names, values, row = _scalars(kind), kind[-1].values, {}
    ends = {name: INTERVALS.get(name, tuple(name + end for end in QUARTILES)) for name in names if name not in shared}
    ends = {name: pair for name, pair in ends.items() if set(pair) <= set(names)}
    skipped = {end for pair in ends.values() for end in pair} | set(shared) | {"n"}
    for name in names:
        if name in skipped:
            continue
        (over,) = aggregate([record for record in kind if name in record.values], "what", name)
        row[name] = _number(over.mean, over.half)
        if over.n == 1 and name in ends:
            row[name] += f" [{', '.join(_number(values[end]) for end in ends[name])}]"
    for name, value in values.items():
        if isinstance(value, list) and len(value) <= SHORT and len(kind) == 1:
            row[name] = ", ".join(_number(number) for number in value)
    return row


def _number(value: float, half: float | None = None) -> str:
    """Four digits of a number, with ± where it has one, in thousands of millions or in millions where it is large."""
    scale, unit = next(((scale, unit) for scale, unit in SCALES if abs(value) >= scale), (1, ""))
    text = f"{value / scale:,.0f}" if abs(value) / scale >= 1000 else f"{value / scale:.4g}"
    spread = "" if not half else f" ± {half / scale:,.0f}" if half / scale >= 100 else f" ± {half / scale:.2g}"
    return f"{text}{spread}{unit}"


def _text(text: str) -> str:
    """What a record says, as Markdown that shows it as it is: a file's name, which is in it, may be anything.

    HTML would run, and `{{ }}` is a template that MyST evaluates while it builds the book.
    """
    return re.sub(r"[][\\`*{}<>&$|~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", _line(text))


def _code(text: str) -> str:
    """The same as code: between more backticks than there are in it."""
    text = _line(text)
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def _line(text: str) -> str:
    return " ".join(visible(text).split())
