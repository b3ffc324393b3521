"""`dtl probe`: a question asked of a trained model, on images."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import data, ledger
from ..config import ViTConfig
from ..host import find_device
from .evaluate import unreadable
from .parser import Parser, add_field, positive, whole
from .shared_flags import add_data, add_machine, add_record, check_level

if TYPE_CHECKING:
    from ..models import ViT
    from ..probes import EntryResult, EntryRow
    from ..probes.entry import Interval

SUMMARY = "Ask a trained ViT a question. entry: where does it need its class token, or its registers?"
WAYS = {
    "learned": "the learned tokens enter before a block",
    "mean": "their mean state over other images enters",
    "shuffle": "their state of another image enters",
    "itself": "their state of this image enters",
    "leave": "they leave before it",
}
BEFORE = ("absent", "present")


def flags(parser: Parser) -> None:
    """Which question, of which model, on which images."""
    text = "entry: what is left when a group of tokens enters later, or leaves early"
    parser.add_argument("question", nargs="?", choices=("entry",), help=text)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a name of timm's, a checkpoint of ours, or zoo/…")
    images = parser.add_argument_group("images")
    add_data(images, "data set (default: the one that the model was trained on; imagenet for a model of timm's)")
    parts = ("test", "held_out", "train")
    images.add_argument("--part", choices=parts, default="test", help="which part of the data set (default: test)")
    images.add_argument(
        "--unlabelled",
        action="store_true",
        help="use no classes: no accuracy; without --data, every image below --data-path",
    )
    add_field(images, "image_size", ViTConfig.__annotations__["image_size"], "height and width of an image in pixels")
    images.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images in a batch (default: 64)")
    entry = parser.add_argument_group("dtl probe entry")
    entry.add_argument("--group", default="cls", metavar="NAME", help="which tokens: cls, reg, … (default: cls)")
    entry.add_argument(
        "--blocks", type=whole, nargs="+", metavar="N", help="before which blocks (default: all that have the group)"
    )
    ways = "; ".join(f"{way}: {text}" for way, text in WAYS.items())
    entry.add_argument("--ways", choices=WAYS, nargs="+", default=[*WAYS], help=f"{ways} (default: all)")
    before = "whether the blocks before run without the group, or with it as in the untouched model (default: both)"
    entry.add_argument("--before", choices=BEFORE, nargs="+", default=[*BEFORE], help=f"absent, present: {before}")
    entry.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of the images drawn for shuffle (default: 0)"
    )
    add_record(parser)
    add_machine(parser)


def main(args: Namespace) -> None:
    """Measure, print a table, and keep a record of each row where one is wanted."""
    from ..data.corrupt import CorruptImages
    from ..pretrained import load_pretrained
    from ..probes import measure_entry
    from ..train.classes import match_classes
    from ..train.evaluation import as_expected, check_not_empty, check_weights

    if not args.model:
        raise ValueError("say what to ask, and which model: dtl probe entry MODEL --data-path DIR")
    device = find_device(args.device)
    model = load_pretrained(args.model).eval()
    check_weights(model)
    labelled = not args.unlabelled and model.config.classes > 0
    images = as_expected(model, _images(args, model, labelled))
    check_not_empty(images)
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
        from ..data import loader
        from ..progress import progress_bar

        options = {"device": self.device, "corrupt": self.corrupt}
        bar = progress_bar(len(self.images), "img", shown=not self.args.quiet, leave=False)
        for x, y in loader.evaluation_batches(self.images, self.args.batch_size, self.args.workers, **options):
            y = y if self.numbers is None else self.numbers.to(y.device)[y]
            yield (x, y) if self.labelled else x
            bar.update(len(y))
        bar.close()


def _images(args: Namespace, model: ViT, labelled: bool):
    """The part of a data set, or every image of a folder."""
    from ..data.saved import saved_images
    from ..data.sources.folder import every_image

    size = getattr(args, "image_size", model.config.image_size)
    if not labelled and not args.data:
        if not args.data_path:
            raise ValueError("say where the images are: --data-path DIR, a folder of images")
        return every_image(args.data_path, size, model.config)
    card = getattr(model, "card", {})
    saved = saved_images(card, args.data, args.data_path)
    name, path = args.data or saved.get("name") or ("" if card else "imagenet"), args.data_path or saved.get("path")
    if not name:
        raise ValueError("the model does not say what it was trained on: give --data NAME, or --unlabelled")
    check_level(args, name)
    level = args.level or saved.get("level") or 1
    return getattr(data.load(name, path, size, level=level, config=model.config, download=False), args.part)


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
