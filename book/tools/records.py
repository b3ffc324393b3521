"""The pages that are lists: the ledger's records, and the keys of the references."""

import json
import re
from pathlib import Path

COLUMNS = ("record", "what", "value", "runs", "device", "date", "command")


def references(root: Path) -> dict[str, str]:
    """Every key of the bibliography, with the title a link without text would show."""
    text = (root / "book" / "references.bib").read_text("utf8")
    entries = re.findall(r"^@\w+\{([^,\s]+),(.*?)^\}", text, re.M | re.S)
    return {key: re.search(r"title\s*=\s*\{+(.*?)\}+,", body, re.S)[1] for key, body in entries}


def read(root: Path) -> list[dict]:
    """Every record of dtl_lib/ledger/*.jsonl, in order of file and line."""
    files = sorted((root / "dtl_lib" / "ledger").glob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text("utf8").splitlines() if line.strip()]


def ledger(root: Path) -> dict[str, str]:
    """Every record's id, with what it measures."""
    return {str(record["id"]): str(record.get("what", record["id"])) for record in read(root)}


def table(root: Path) -> str:
    """The records as a Markdown table, each row with its id as anchor."""
    rows = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for record in read(root):
        name = str(record["id"])
        cells = (
            f'<span id="{name}"></span>`{name}`',
            record.get("what", ""),
            value(record),
            record.get("n", ""),
            record.get("device", ""),
            record.get("date", ""),
            f"`{record['command']}`" if record.get("command") else "",
        )
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) if len(rows) > 2 else "No records yet.\n"


def value(record: dict) -> str:
    """A record's value with its spread and unit: 97.6 ± 0.3 %."""
    number, spread, unit = (record.get(name) for name in ("value", "spread", "unit"))
    text = f"{number:.4g}" if isinstance(number, float) else str(number)
    if spread is not None:
        text += f" ± {spread:.2g}"
    return f"{text} {unit}" if unit else text
