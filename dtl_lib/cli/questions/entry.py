"""`dtl probe entry`: where a model needs its class token, or its registers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ... import ledger
from ...host import find_device
from ..evaluate import unreadable
from .chosen import choose

if TYPE_CHECKING:
    from ...models import ViT
    from ...probes import EntryResult, EntryRow
    from ...probes.entry import Interval

WAYS = {
    "learned": "the learned tokens enter before a block",
    "mean": "their mean state over other images enters",
    "shuffle": "their state of another image enters",
    "itself": "their state of this image enters",
    "leave": "they leave before it",
}
BEFORE = ("absent", "present")


def run(args: Namespace, model: ViT) -> None:
    """Measure, print a table, and keep a record of each row where one is wanted."""
    from ...data.corrupt import CorruptImages
    from ...probes import measure_entry
    from ...train.classes import match_classes

    device = find_device(args.device)
    labelled = not (args.unlabelled or args.images) and model.config.classes > 0
    images = choose(args, model, labelled, own=False).images
    match = match_classes(model, images) if labelled else None
    batches = _Batches(images, args, device, CorruptImages(args.max_corrupt), match, labelled)
    result = measure_entry(model.to(device), batches, args.blocks, args.ways, args.before, args.group, args.seed)
    print("\n".join([*(match.notes if match else ()), *_table(args.model, images.name, result)]))
    if batches.corrupt.names:
        print(unreadable(batches.corrupt.names))
    if args.record:
        for row in result.rows:
            _record(args, images.name, result, row, model, device)
        print(f"{len(result.rows)} rows recorded in {ledger.path(args.record)}")


class _Batches:
    """The batches of a part, read anew each time."""

    def __init__(self, images, args: Namespace, device, corrupt, match, labelled: bool):
        self.images, self.args, self.device, self.corrupt = images, args, device, corrupt
        self.numbers, self.labelled = match and match.numbers, labelled

    def __iter__(self) -> Iterator:
        from ...data import loader
        from ...progress import progress_bar

        options = {"device": self.device, "corrupt": self.corrupt}
        bar = progress_bar(len(self.images), "img", shown=not self.args.quiet, leave=False)
        for x, y in loader.evaluation_batches(self.images, self.args.batch_size, self.args.workers, **options):
            y = y if self.numbers is None else self.numbers.to(y.device)[y]
            yield (x, y) if self.labelled else x
            bar.update(len(y))
        bar.close()


def _record(args: Namespace, images: str, result: EntryResult, row: EntryRow, model: ViT, device) -> None:
    what = f"{args.model} on {images}, {result.group}: {row.way}, {row.before} before block {row.block}"
    values = row.values() | ({} if result.between is None else {"between": result.between})
    values |= {} if result.accuracy is None else {"untouched": result.accuracy.value}
    about = {"n": result.n, "seed": args.seed, "config": model.config.to_dict()}
    ledger.add(args.record, what, args.line, device, values, **about)


def _table(model: str, images: str, result: EntryResult) -> Iterator[str]:
    """The result as lines; 95 % intervals in brackets."""
    untouched = "" if result.accuracy is None else f"; untouched: {_percent(result.accuracy)} % correct"
    yield f"{result.group} of {model} on {images}, n = {result.n:,}{untouched}"
    if result.between is not None:
        yield f"cosine between what is read of two images: {result.between:.3f}"
    columns = {
        "way": lambda row: f"{row.way:8}",
        "before": lambda row: f"{row.before:8}",
        "block": lambda row: f"{row.block:5}",
        "correct, %": lambda row: _percent(row.accuracy),
        "difference, points": lambda row: _percent(row.difference, signed=True),
        "agreement, %": lambda row: _percent(row.agreement),
        "cosine": lambda row: f"{row.similarity.value:.3f}",
        "largest change": lambda row: f"{row.largest_change:.2g}",
        "cost": lambda row: f"{row.cost:.4f}",
    }
    rows = [[*columns], *([write(row) for write in columns.values()] for row in result.rows)]
    kept = [column for column in zip(*rows) if any(cell for cell in column[1:])]
    widths = [max(map(len, column)) for column in kept]
    kinds = [None, *((row.way, row.before) for row in result.rows)]
    for number, cells in enumerate(zip(*kept)):
        if number and kinds[number] != kinds[number - 1]:
            yield ""
        yield "  ".join(cell.rjust(width) for cell, width in zip(cells, widths)).rstrip()


def _percent(interval: Interval | None, signed: bool = False) -> str:
    """An estimate in per cent and its interval: `63.0 (56.1 to 69.4)`."""
    if interval is None:
        return ""
    sign = "+" if signed else ""
    value, low, high = (f"{100 * number:{sign}.1f}" for number in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})".replace("-", "−")
