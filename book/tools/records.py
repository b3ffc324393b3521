"""The pages that are lists: the ledger's records and the keys of the references, and what a notebook can link to."""

import json
import re
from pathlib import Path

from dtl_lib.ledger import aggregate, read

COLUMNS = ("what", "value", "mean", "± 95 %", "runs", "each over", "device", "date", "command")


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


def tables(root: Path) -> str:
    """The records as Markdown: a table an experiment, a row a value, with anchors for experiment and records."""
    sections = [_table(path.stem, path.parent) for path in _experiments(root)]
    return "\n\n".join(sections) or "No records yet.\n"


def _experiments(root: Path) -> list[Path]:
    return sorted((root / "dtl_lib" / "ledger").glob("*.jsonl"))


def _table(experiment: str, folder: Path) -> str:
    rows = [f'<span id="{experiment}"></span>', "", f"**{experiment}**", ""]
    rows += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    groups: dict[str, list] = {}
    for record in read(experiment, folder):
        groups.setdefault(record.what, []).append(record)
    for what, records in groups.items():
        anchors = "".join(f'<span id="{record.id}"></span>' for record in records)
        last = records[-1]
        for name in (name for name, value in last.values.items() if not isinstance(value, list)):
            (over,) = aggregate([record for record in records if name in record.values], "what", name)
            spread = "" if over.half is None else f"{over.half:.2g}"
            cells = (anchors + what, name, f"{over.mean:.4g}", spread, over.n, last.n, last.device, last.date[:10])
            rows.append("| " + " | ".join(_escaped(cell) for cell in (*cells, f"`{last.command}`")) + " |")
            anchors = ""
    return "\n".join(rows)


def _escaped(cell) -> str:
    return str(cell).replace("|", "\\|")
