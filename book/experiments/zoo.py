"""Fill the zoo: take a trained model, round its weights to float16, measure them again, and write them with a card.

    python -m book.experiments.zoo add RUN_FOLDER NAME
    python -m book.experiments.zoo add FILE NAME --record EXPERIMENT:ID --records DIR --data cifar10

A run's folder (`dtl train --output-dir`) holds everything a card needs. A file of weights alone needs the record of its
run, for the command, the seed, the device and the minutes, and the name of its data set.
"""

import argparse
import copy
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dtl_lib import data, ledger, zoo
from dtl_lib.checkpoint import load_model, save_model
from dtl_lib.config import ViTConfig
from dtl_lib.data import Images, Sets
from dtl_lib.models import ViT
from dtl_lib.train import evaluate
from dtl_lib.train.evaluation import as_expected
from dtl_lib.train.recipe import Recipe

BATCH = 250


def add(
    source: str | Path, name: str, record: ledger.Record | None = None, images: Mapping | None = None,
    replaces: bool = False,
) -> Path:  # fmt: skip
    """Put a trained model into the zoo.

    Args:
        source: a run's folder, or a file of weights.
        name: its name there, without `zoo/`.
        record: of the run, where the source lacks something.
        images: arguments of `data.load`, where the source does not name its data set.
        replaces: whether a model of that name may be overwritten.

    Returns:
        The file, with its card beside it.

    Raises:
        ValueError: where something a card needs is missing or contradicts the source.
    """
    if not name.replace("_", "").isalnum():
        raise ValueError(f"a name consists of letters, digits and _, unlike {name!r}")
    if f"{zoo.PREFIX}{name}" in zoo.names() and not replaces:
        raise ValueError(f"the zoo has {zoo.PREFIX}{name}: --replace puts this one in its place")
    source = Path(source)
    model = load_model(source / "best.safetensors" if source.is_dir() else source)
    card = {**model.card, **(_run_details(source) if source.is_dir() else {})}
    if record is not None:
        card |= _record_details(card, record)
    source_data = card.get("run", {}).get("data") or dict(images or {})
    if not source_data.get("name"):
        raise ValueError(f"{source} does not say what it was trained on: give --data, such as shapes or cifar10")
    card |= {
        "run": {"data": source_data | {"path": None}},
        "command": _without_folders(card.get("command", ""), name),
    }
    config = model.config
    sets = data.load(**card["run"]["data"], image_size=config.image_size, config=config)
    small, card = _rounded(model), card | _data_details(card, sets) | {"zoo": name, "plan": zoo.describe(config.plan)}
    card |= _measured(model, small, sets, card.get("test", {}))
    _check(card, name)
    file = save_model(zoo.FOLDER / f"{name}.safetensors", small.half(), card)
    zoo.read_card(name)
    return file


def logits(model: ViT, images: Images, n: int) -> tuple[Tensor, Tensor]:
    """Logits `(n, classes)` and classes `(n,)` of the first images."""
    images = as_expected(model, images)
    with torch.inference_mode():
        parts = [images.batch(indices) for indices in torch.arange(n).split(BATCH)]
        return torch.cat([model(x) for x, _ in parts]), torch.cat([y for _, y in parts])


def _without_folders(command: str, name: str) -> str:
    """A command without the folders of the machine it ran on."""
    command = re.sub(r" --data-path[ =]\S+", "", command)
    return re.sub(r"(--output-dir)[ =]\S+", rf"\1 runs/{name}", command)


def _rounded(model: ViT) -> ViT:
    """The model with weights that float16 can hold; its card is left behind."""
    return copy.deepcopy(model).half().float()


def _run_details(folder: Path) -> dict:
    """What a run's log adds to its card: the minutes it took in all."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"minutes": rows[-1]["seconds"] / 60}


def _record_details(card: Mapping, record: ledger.Record) -> dict:
    """What a run's record adds to the card; a ValueError where its configuration or recipe is not the weights'."""
    for field, kind in (("config", ViTConfig), ("recipe", Recipe)):
        recorded = getattr(record, field)
        if field in card and kind.from_dict(card[field]) != kind.from_dict(recorded):
            raise ValueError(f"record {record.id} has another {field} than the weights: give the run's own record")
    seconds = record.values.get("train_seconds", record.values.get("seconds"))
    if seconds is None:
        raise ValueError(f"record {record.id} does not say how many seconds the training took")
    about = {name: getattr(record, name) for name in ("command", "seed", "device", "recipe")}
    test = {"accuracy": record.values["accuracy"], "n": record.n}
    reference = f"{record.experiment}:{record.id}"
    return {**about, "minutes": seconds / 60, "date": record.date, "test": test, "record": reference}


def _data_details(card: Mapping, sets: Sets) -> dict:
    """The data's names and fingerprints; a ValueError where it is not the data of the run."""
    train = {"name": sets.train.name, "fingerprint": sets.train.fingerprint()}
    stated = card.get("data", train)
    if stated.get("name") != train["name"] or not sets.train.has_fingerprint(stated.get("fingerprint")):
        raise ValueError(f"it was trained on {card['data']}, and the data here is {train}")
    return {"data": train, "test_data": {"name": sets.test.name, "fingerprint": sets.test.fingerprint()}}


def _measured(model: ViT, small: ViT, sets: Sets, stated: Mapping) -> dict:
    """Accuracy of the rounded weights, and the cost of rounding; some runs were tested on the first images alone."""
    n = min(zoo.SAMPLE, len(sets.test))
    (before, _), (after, classes) = (logits(weights, sets.test, n) for weights in (model, small))
    if "accuracy" not in stated:
        raise ValueError("it has no accuracy on the test images: has the run ended?")
    tested = stated.get("n", len(sets.test))
    predictions, targets = logits(small, sets.test, tested)
    accuracy = (predictions.argmax(dim=1) == targets).double().mean().item()
    if abs(stated["accuracy"] - accuracy) > 0.002:
        raise ValueError(
            f"the run states an accuracy of {stated['accuracy']}, and its rounded weights reach {accuracy} on the "
            f"{tested} test images here: do they belong to that run?"
        )
    test = evaluate(small, sets.test, amp="off").to_dict()
    sample = {"n": n, "right": int((after.argmax(dim=1) == classes).sum())}
    whole = evaluate(model, sets.test, amp="off").accuracy
    rounding = {"accuracy": whole, "logits": (before - after).abs().max().item()}
    return {"test": test, "sample": sample, "before_rounding": rounding}


def _check(card: Mapping, name: str) -> None:
    """A ValueError where the card is incomplete, or float16 or the zoo too small."""
    zoo.check({"date": "now", **card, "library": "now", "torch": "now", "digest": "later", "seal": "later"}, name)
    if card["before_rounding"]["logits"] > zoo.ROUNDING:
        raise ValueError(f"float16 moves a logit by {card['before_rounding']['logits']:.2g}: more than {zoo.ROUNDING}")
    others = [file for file in zoo.FOLDER.glob("*") if file.stem != name]
    total = sum(file.stat().st_size for file in others) + 2 * ViTConfig.from_dict(card["config"]).cost().parameters
    if total > zoo.LIMIT:
        raise ValueError(f"the zoo would hold {total / 1e6:.1f} MB, and may hold {zoo.LIMIT / 1e6:.0f}")


def named_record(text: str, folder: str | None) -> ledger.Record:
    """The record that `EXPERIMENT:ID` names."""
    experiment, _, key = text.partition(":")
    records = [record for record in ledger.read(experiment, folder) if record.id == key]
    if not records:
        raise ValueError(f"{experiment} has no record {key!r}: give EXPERIMENT:ID")
    return records[0]


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="kind", required=True)
    add_command = commands.add_parser("add", help="put a trained model into the zoo")
    add_command.add_argument("source", metavar="RUN_FOLDER|FILE")
    add_command.add_argument("name", metavar="NAME")
    add_command.add_argument("--record", metavar="EXPERIMENT:ID", help="the run's record")
    add_command.add_argument("--records", metavar="DIR", help="where the record is (default the ledger's own folder)")
    add_command.add_argument("--data", metavar="NAME", help="its data set, where the source does not say it")
    add_command.add_argument("--level", type=int, default=1, help="of shapes (default 1)")
    add_command.add_argument("--replace", action="store_true", help="replace the model of that name")
    args = parser.parse_args(arguments)
    images = {"name": args.data, "level": args.level} if args.data else None
    try:
        record = named_record(args.record, args.records) if args.record else None
        file = add(args.source, args.name, record, images, args.replace)
    except (ValueError, OSError) as error:
        print(f"zoo: {error}", file=sys.stderr)
        return 2
    test = zoo.read_card(args.name)["test"]
    print(f"{zoo.PREFIX}{args.name}: {test['accuracy']:.2%} of {test['n']:,}, {file.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
