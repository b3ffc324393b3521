"""`dtl attention`: what tokens attend to, over photos, as a PDF, PNGs or numbers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import atomic
from ..checks import one_line
from ..host import find_device
from ..paths import kind, user_path
from .evaluate import add_trained, trained_model, unreadable
from .file_names import distinct, refuse_existing
from .parser import Parser, add_field, whole
from .questions.answers import model_called
from .shared_flags import add_device, query
from .terminal import counted

if TYPE_CHECKING:
    from ..models import ViT
    from ..outputs import Look

SUMMARY = "Draw what the class token and the registers attend to, over photos: a PDF for each, PNGs, or numbers."
FORMATS = ("pdf", "png", "npz")
LAYER = 2
PHOTO = "chelsea"


def flags(parser: Parser) -> None:
    """Which images, which model, which tokens, and where to."""
    text = "an image, or a folder of images (default: a test image of the model's data set, or a photo)"
    parser.add_argument("images", nargs="*", metavar="IMAGE|DIR", help=text)
    add_looked_into(parser)
    parser.add_argument(
        "--query", type=query, nargs="+", metavar="TOKEN",
        help="which tokens attend: cls, dist, reg (each register), reg:2, patch:4,7 (row, column), or patches (their "
        "mean) (default: the class token and each register; patches where there is no class token)",
    )  # fmt: skip
    text = "draw these heads only; an NPZ has all (default: all)"
    parser.add_argument("--head", type=whole, nargs="+", metavar="N", help=text)
    output = parser.add_argument_group("output")
    text = "folder for attention_IMAGE_layer_N.pdf (default: the current one)"
    output.add_argument("--output-dir", default=".", metavar="DIR", help=text)
    text = "pdf: a page a token; png: an image a token; npz: the maps as numbers (default: pdf)"
    output.add_argument("--format", choices=FORMATS, nargs="+", default=["pdf"], help=text)
    add_force(output)


def add_looked_into(parser: Parser) -> None:
    """Which trained model, which block of it, at what size of image, and on what machine."""
    add_trained(parser)
    text = f"the block whose attention is drawn; blocks count from 0 (default: {LAYER}, or the last of fewer)"
    parser.add_argument("--layer-num", type=whole, metavar="N", help=text)
    add_field(parser, "image_size", int | tuple[int, int], "height and width for the model (default: the model's own)")
    add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def add_force(group) -> None:
    """Whether files that are there may be replaced."""
    group.add_argument("--force", action="store_true", help="replace files that are there")


def looked_into(args: Namespace) -> tuple[ViT, int]:
    """The model, on its device and with finite weights, and the block."""
    from ..train.evaluation import check_weights

    device = find_device(args.device)
    from_file = getattr(args, "weights", None)
    args.pretrained = args.pretrained or bool(args.model and not from_file)  # nobody looks into random weights
    model = trained_model(args).eval()
    check_weights(model)
    block = min(LAYER, model.plan.blocks - 1) if args.layer_num is None else args.layer_num
    return model.to(device), model.plan.check_block(block)


def main(args: Namespace) -> None:
    """Write the files of each image; at the end, raise a ValueError that names the unreadable ones."""
    from ..progress import progress_bar

    folder = user_path(args.output_dir)
    if kind(folder) not in ("a folder", None):
        raise ValueError(f"{folder} is {kind(folder)}: give a folder for --output-dir")
    files = _files(args.images)
    model, block = looked_into(args)
    look = _looker(model, block, args)
    tokens = [token.name for token in look(_blank(model, args)).tokens]  # what cannot be is said before the work
    jobs: list[tuple[str, Callable]] = [(str(file), partial(_prepared, file, model, args)) for file in files]
    jobs = jobs or [_usual_image(model, args)]
    stems = distinct(Path(name).stem if files else name for name, _ in jobs)
    targets = [_targets(folder, stem, block, tokens, args.format) for stem in stems]
    refuse_existing([path for paths in targets for path in paths.values()], args.force, "a map")
    failures, written, bar = {}, [], progress_bar(len(jobs), "img", shown=not args.quiet and len(jobs) > 1, leave=False)
    with closing(bar), counted(written, len(jobs), folder):
        for (name, prepared), paths in zip(jobs, targets):
            try:
                _write(look(prepared()), paths, name, args)
            except ValueError as error:
                failures[one_line(name)] = str(error)
            else:
                written.append(name)
                first = next(iter(paths.values())).name
                if len(jobs) == 1 or not first.startswith(f"attention_{Path(name).stem}_l"):
                    print(f"{one_line(name)}: {', '.join(one_line(str(path)) for path in paths.values())}")
            bar.update()
    if len(jobs) > 1:
        print(f"{len(written)} of {len(jobs)} images written to {folder}")
    if failures:
        more = f"; {unreadable([*failures])}" if len(failures) > 1 else ""
        raise ValueError(next(iter(failures.values())) + more)


def _files(given: Sequence[str]) -> list[Path]:
    """The images that were named, and those of the folders."""
    from ..data.sources.folder import every_image

    files = []
    for path in map(user_path, given):
        files += map(Path, every_image(path).source.files) if kind(path) == "a folder" else [path]
    return files


def _looker(model: ViT, block: int, args: Namespace) -> Callable[..., Look]:
    from ..outputs import look
    from ..outputs.pages import check_heads

    def look_at(x) -> Look:
        seen = look(model, x, block, args.query or ())
        check_heads(args.head or (), len(seen.tokens[0].maps))
        return seen

    return look_at


def _prepared(file: Path, model: ViT, args: Namespace):
    from ..data import open_image, prepare

    return prepare(open_image(file), size=getattr(args, "image_size", None), config=model.config)


def _blank(model: ViT, args: Namespace):
    import torch

    from ..data.images import size_of

    size = size_of(getattr(args, "image_size", model.config.image_size))
    model.config.grid_of(*size)
    return torch.zeros(1, model.config.channels, *size)


def _usual_image(model: ViT, args: Namespace) -> tuple[str, Callable]:
    """The first test image of what the model was trained on, where that is here; otherwise a photo."""
    from .. import data
    from ..data.saved import saved_images
    from ..train.evaluation import as_expected

    card, size = getattr(model, "card", {}), getattr(args, "image_size", model.config.image_size)
    try:
        saved = saved_images(card) if card else {"name": "imagenet"}
        name = saved["name"]
        options = {"config": model.config, "download": False, "level": saved.get("level") or 1}
        images = as_expected(model, data.load(name, saved.get("path"), size, **options).test)
        image = images.batch([0])[0]
    except (ValueError, KeyError, OSError):
        from ..data import photo, prepare

        return PHOTO, lambda: prepare(photo(PHOTO), size=size, config=model.config)
    return f"{name}_test_0", lambda: image


def _targets(folder: Path, stem: str, block: int, tokens: Sequence[str], formats: Sequence[str]) -> dict[str, Path]:
    """The files of an image, by format; of PNGs one for each token."""
    base = f"attention_{stem}_layer_{block}"
    targets = {each: folder / f"{base}.{each}" for each in formats if each != "png"}
    return targets | {token: folder / f"{base}_{token}.png" for token in tokens if "png" in formats}


def _write(seen: Look, paths: dict[str, Path], name: str, args: Namespace) -> None:
    """The files of one image, each whole or not at all."""
    import numpy as np

    from ..data.images import plain_name
    from ..outputs.pages import DPI, attention_pages, save_pages

    title = one_line(plain_name(Path(name).name))
    drawn, model = set(paths) - {"npz"}, model_called(args)
    pages = attention_pages(seen, title, model_called(args, "\n"), args.head) if drawn else {}
    writers: dict[str, Callable] = {
        "npz": lambda file: np.savez_compressed(file, **seen.arrays(), model=model),
        "pdf": lambda file: save_pages(pages, file, title),
    }
    for what, path in paths.items():
        atomic.replace(path, writers.get(what) or partial(pages[what].savefig, dpi=DPI), force=args.force)
