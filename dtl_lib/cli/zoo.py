"""`dtl zoo`: the small trained models that come with the library."""

import json
from argparse import Namespace

from .. import zoo
from ..config import ViTConfig
from .parser import Parser

SUMMARY = "List the small trained models that come with the library, or show one."


def flags(parser: Parser) -> None:
    """Which model, if any."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="print the card of this model")


def main(args: Namespace) -> None:
    """Print a line for each model, or what the card of one says."""
    if args.name:
        return _show(args.name)
    if not zoo.names():
        print("The zoo is empty: train a model with dtl train, or use one of timm's by its name.")
        return
    rows = [("name", "tokens", "test images", "accuracy", "parameters", "kB")]
    rows += [_row(name, zoo.read_card(name)) for name in zoo.names()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f'\nload_pretrained("{rows[1][0]}") gives a model; dtl zoo {rows[1][0]} prints its card.')


def _row(name: str, card: dict) -> tuple[str, ...]:
    size = zoo.path(name).stat().st_size
    return (
        name,
        card["plan"],
        card["test_data"]["name"],
        _accuracy(card),
        f"{_parameters(card):,}",
        f"{size / 1e3:,.0f}",
    )


def _show(name: str) -> None:
    card = zoo.read_card(name)
    name, config = f"{zoo.PREFIX}{card['zoo']}", ViTConfig.from_dict(card["config"])
    print(f"{name}: {card['plan']}\n\n{config.plan}\n")
    sample, before, rows, columns = card["sample"], card["before_rounding"], *config.grid
    about = {
        "accuracy": f"{_accuracy(card)} on {card['test_data']['name']} ({card['test_data']['fingerprint']})",
        "of the first": f"{sample['n']} test images, {sample['right']} are classified correctly",
        "float16": f"{before['accuracy']:.2%} before rounding, which changes a logit by at most {before['logits']:.2g}",
        "trained on": f"{card['data']['name']} ({card['data']['fingerprint']})",
        "trained with": card["command"],
        "": f"seed {card['seed']}, {card['minutes']:.1f} minutes on {card['device']}, {card['date'][:10]}",
        "model": f"{_parameters(card):,} parameters, {rows}×{columns} patches of {config.patch_size} pixels",
        "versions": f"dtl_lib {card['library']}, torch {card['torch']}, digest {card['digest']}",
    }
    about |= {"record": card["record"]} if "record" in card else {}
    for what, text in about.items():
        print(f"{what:14}{text}")
    for part in ("config", "recipe"):
        rest = {key: value for key, value in card[part].items() if key != "plan"}
        print(f"\n{part}")
        for key, value in rest.items():
            print(f"  {key:22}{json.dumps(value)}")
    print(f'\nload_pretrained("{name}")\ndtl evaluate --model {name}\ndtl train --finetune {name}')


def _accuracy(card: dict) -> str:
    test = card["test"]
    return f"{test['accuracy']:.1%} ± {50 * (test['high'] - test['low']):.1f} (n = {test['n']:,})"


def _parameters(card: dict) -> int:
    return ViTConfig.from_dict(card["config"]).cost().parameters
