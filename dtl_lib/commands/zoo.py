"""`dtl zoo`: the small checkpoints that come with the library."""

import json
from argparse import Namespace
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "zoo"


def main(args: Namespace) -> None:
    """One line a checkpoint, from the card beside it."""
    cards = sorted(FOLDER.glob("*.json"))
    if not cards:
        print("The zoo is empty for now: train a model with dtl train, or take one of timm's by its name.")
    for path in cards:
        card = json.loads(path.read_text(encoding="utf-8"))
        test, name = card["test"], card["data"]["name"]
        print(f"zoo/{path.stem:32} {name:24} {test['accuracy']:.1%} (n = {test['n']:,})")
