"""`dtl audit`: one page on any model: norms, outliers and their type, sinks, and what registers would cost."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import atomic
from ..config import ViTConfig
from ..host import find_device
from ..paths import kind, user_path
from .attention import add_force
from .evaluate import unreadable
from .file_names import refuse_existing
from .parser import Parser, add_field, positive
from .questions.answers import ODD, model_name
from .questions.reading import at_once, corrupt_images, raise_unreadable
from .shared_flags import add_machine, add_weights

if TYPE_CHECKING:
    from ..data.images import Images
    from ..probes import Audit

SUMMARY = "Write one page on a model, HTML, PDF and JSON: norms, outliers and their type, sinks, what registers cost."
STRICT = "all, with exit status 2 at the end where one was"


def flags(parser: Parser) -> None:
    """Which model, which images, and where to."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a name of timm's, a checkpoint of ours, or zoo/…")
    add_weights(parser, "MODEL")
    text = "images, and folders of images (default: the photos that come with scikit-image)"
    parser.add_argument("--images", nargs="+", metavar="IMAGE|DIR", help=text)
    add_field(parser, "image_size", ViTConfig.__annotations__["image_size"], "height and width of an image in pixels")
    text = "images in a batch (default: 64, or fewer where they would take too much memory)"
    parser.add_argument("--batch-size", type=positive, metavar="N", help=text)
    text = "folder for audit_MODEL.html, .pdf and .json (default: the current one)"
    parser.add_argument("--output-dir", default=".", metavar="DIR", help=text)
    add_force(parser)
    add_machine(parser, max_corrupt=None, said=STRICT)


def main(args: Namespace) -> None:
    """Measure, and write the page; at the end, a ValueError that names the images that could not be read."""
    from .. import probes
    from ..data.numbered import Numbered
    from ..pretrained import LoadReport, load_pretrained
    from ..train.evaluation import as_expected, check_weights
    from .questions.chosen import Chosen, read

    if not args.model:
        raise ValueError("say which model: dtl audit MODEL --images DIR")
    folder, name = user_path(args.output_dir), model_name(args.weights or args.model)
    if kind(folder) not in ("a folder", None):
        raise ValueError(f"{folder} is {kind(folder)}: give a folder for --output-dir")
    paths = {ending: folder / f"audit_{ODD.sub('_', name)}.{ending}" for ending in ("html", "pdf", "json")}
    refuse_existing([*paths.values()], args.force, "a page")
    device, model = find_device(args.device), load_pretrained(args.model, weights=args.weights).eval()
    check_weights(model)
    images, said = _images(args, model.config)
    images = as_expected(model, images)
    chosen, corrupt = Chosen(Numbered(images, range(len(images))), ()), corrupt_images(args)
    size = args.batch_size or at_once(model, images.image_size, tape=True)
    found = probes.audit(model.to(device), read(chosen, args, size, corrupt))
    notes = [f"{unreadable(corrupt.names)}, and left out."] if corrupt.names else []
    file = Path(args.weights or "")
    title = args.model if file.stem in ("", args.model) else f"{args.model}, weights of {file.name}"
    if about := getattr(model, "loaded", LoadReport((), (), ())).said:  # what a name of timm's does not tell
        notes.append(f"{file.name}: {'; '.join(about)}.")
    for ending, fill in _writers(found, title, said, notes).items():
        atomic.replace(paths[ending], fill, force=args.force)
    print(
        "\n".join([found.verdict, f"on {found.n:,} images, {said}", *(f"written: {path}" for path in paths.values())])
    )
    raise_unreadable(args, corrupt)


def _images(args: Namespace, config: ViTConfig) -> tuple[Images, str]:
    """The images, and where they are from."""
    from ..data.photos import PHOTOS, photo_path
    from ..data.sources.folder import named_images

    size = getattr(args, "image_size", config.image_size)
    if args.images:
        said = args.images[0] if len(args.images) == 1 else f"{args.images[0]} and others"
        return named_images(args.images, size, config), f"from {Path(said).name or said}"
    photos = named_images([photo_path(name) for name in PHOTOS], size, config)
    return photos, "photos that come with scikit-image (no --images were given)"


def _writers(found: Audit, name: str, images: str, notes: list[str]) -> dict[str, Callable[[Path], object]]:
    from ..outputs import audit_html, audit_pages, save_pages

    numbers = {"model": name, "source": images, "notes": notes} | found.to_dict()
    text = json.dumps(numbers, ensure_ascii=False, indent=1, allow_nan=False)
    page, about = audit_html(found, name, images, notes), (name, images, notes)
    return {
        "html": lambda path: path.write_text(page, encoding="utf-8"),
        "pdf": partial(save_pages, audit_pages(found, *about), title=f"Audit of {name}"),
        "json": lambda path: path.write_text(text + "\n", encoding="utf-8"),
    }
