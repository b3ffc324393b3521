"""`dtl explore`: a page on which to look into a model, which opens from disk without Python."""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ..paths import kind, require_writable, user_path
from .attention import add_force
from .evaluate import add_trained, unreadable
from .export import named_model
from .parser import Parser

if TYPE_CHECKING:
    from ..explore.page import Picture, Shown

SUMMARY = "Write a page that shows what a model's tokens attend to, and runs the model in the browser, from disk."
PHOTOS = ("chelsea", "rocket", "coffee")
SHAPES = (0, 1)
MOST = 40  # pictures
OURS = ("seen_*.js", "weights_*.js")


def flags(parser: Parser) -> None:
    """Which model, which pictures, and where to."""
    parser.add_argument("name", nargs="?", metavar="MODEL", help="a checkpoint, zoo/NAME, or a name of timm's")
    add_trained(parser)
    text = "pictures, or folders of them (default: bundled photos, and shapes where the model was trained on these)"
    parser.add_argument("--images", nargs="+", metavar="IMAGE|DIR", default=[], help=text)
    parser.add_argument("--title", metavar="TEXT", help="heading of the page (default: the model's name)")
    parser.add_argument("--output-dir", metavar="DIR", help="the folder to write, with index.html in it")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    add_force(parser)


def main(args: Namespace) -> None:
    """Write the folder, and say how to open it."""
    folder = _folder(args)
    from ..explore import page
    from ..explore.shown import described
    from ..progress import progress_bar

    model = named_model(args)
    name = Path(args.model_path).name if args.model_path else args.model
    shown = described(name, model)
    pictures = _pictures(args, shown)
    bar = progress_bar(len(pictures), "picture", shown=not args.quiet, leave=False)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}") as made:
        page.write(Path(made), [shown], pictures, done=bar.update)
        (Path(made) / "index.html").write_text(page.page(args.title or name), "utf8")
        bar.close()
        _move(Path(made), folder)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    many = f"{len(pictures)} picture{'s' * (len(pictures) > 1)}"
    print(f"{folder / 'index.html'}: {many}, {size / 1e6:.1f} MB in all; open it in a browser")
    if reason := page.why_not(model):
        print(f"the model does not run on the page: {reason}")


def _folder(args: Namespace) -> Path:
    if not args.output_dir:
        raise ValueError("say where to: dtl explore --model-path best.safetensors --output-dir page")
    folder = user_path(args.output_dir)
    if kind(folder) not in ("a folder", None):
        raise ValueError(f"{folder} is {kind(folder)}: give a folder for --output-dir")
    if kind(folder) and any(folder.iterdir()) and not args.force:
        raise ValueError(f"{folder} is not empty: give --force to write over a page in it, or another --output-dir")
    if kind(folder):
        require_writable(folder / "index.html", "a page")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=folder.parent).cleanup()
    except OSError as error:
        raise ValueError(f"{folder} cannot be made ({error.strerror}): give another --output-dir") from None
    return folder


def _pictures(args: Namespace, shown: Shown) -> list[Picture]:
    """Those that were named, or the usual ones; a ValueError that names what cannot be read."""
    from ..data import open_image
    from ..data.images import plain_name
    from ..explore.page import Picture
    from ..explore.shown import photos, shapes
    from .attention import _files

    if not args.images:
        return [*(shapes(SHAPES) if shown.kind == "shapes" else []), *photos(PHOTOS)]
    files = _files(args.images)
    if len(files) > MOST:
        raise ValueError(f"these are {len(files)} pictures, and a page takes {MOST}: name fewer")
    found, failures = [], []
    for file in files:
        try:
            found.append(Picture(plain_name(file.name), open_image(file), "photo"))
        except ValueError as error:
            failures.append(str(error))
    if failures:
        raise ValueError(failures[0] if len(failures) == 1 else unreadable(failures))
    return found


def _move(made: Path, folder: Path) -> None:
    """Put the files in their place; an earlier page's data goes."""
    folder.mkdir(exist_ok=True)
    for pattern in OURS:
        for old in folder.glob(pattern):
            old.unlink()
    for file in made.iterdir():
        shutil.move(file, folder / file.name)
