"""The pages made from records and from the parser."""

import argparse

from book.tools import command_line, records
from dtl_lib import ledger


def record(seed, accuracy, what="plain | ViT"):
    """A record of one run."""
    values = {"accuracy": accuracy, "curve": [0.1, accuracy]}
    date = "2026-11-21T10:00:00+00:00"
    return ledger.Record(
        "cifar", what, f"dtl train --seed {seed}", date, "2 CPU cores", "0.1.0", "2.6", seed, 500, values
    )


def test_runs_of_one_kind_are_one_row(project):
    folder = project.root / "dtl_lib" / "ledger"
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        ledger.append(record(seed, accuracy), folder)
    ledger.append(record(0, 0.25, what="with registers"), folder)
    table = records.tables(project.root)
    rows = [line for line in table.splitlines() if "accuracy" in line]
    assert len(rows) == 2
    assert "| 0.6 | 0.25 | 3 | 500 | 2 CPU cores | 2026-11-21 | `dtl train --seed 2` |" in rows[0]
    assert "plain \\| ViT" in rows[0]
    assert "| 0.25 |  | 1 |" in rows[1]
    targets = records.ledger(project.root)
    assert {"cifar", record(1, 0.6).id} <= set(targets)
    assert all(f'id="{target}"' in table for target in targets)


def test_an_empty_ledger_says_so(project):
    assert records.tables(project.root) == "No records yet.\n"


def test_every_reference_has_a_title(project):
    titles = records.references(project.root)
    assert titles["touvron2021going"] == "Going Deeper with Image Transformers"
    assert len(titles) > 30


def test_a_parser_becomes_a_page():
    parser = argparse.ArgumentParser(prog="dtl", description="All of it.")
    train = parser.add_subparsers().add_parser("train", description="Train a model.")
    train.add_argument("--lr", type=float, default=1e-3, metavar="RATE", help="learning rate, 100%% of it")
    train.add_argument("--data", choices=["shapes", "cifar10"], help="what to train on")
    train.add_argument("--ema", action="store_true", help="average the weights")
    page = command_line.describe(parser)
    assert "## `dtl train`\n\nTrain a model." in page
    assert "`--lr RATE`\n: learning rate, 100% of it Default: `0.001`." in page
    assert "One of `shapes`, `cifar10`." in page
    assert "`--ema`\n: average the weights" in page
    assert "--help" not in page


def test_the_command_line_page_has_every_command():
    page = command_line.reference()
    for command in ("plan", "train", "evaluate", "zoo"):
        assert f"## `dtl {command}`" in page
