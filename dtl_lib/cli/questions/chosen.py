"""Which images `dtl probe` looks at, what each is called, and how they are read."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ... import data
from ..file_names import distinct
from ..shared_flags import check_level
from .answers import ODD

if TYPE_CHECKING:
    import torch

    from ...data.corrupt import CorruptImages
    from ...data.images import Images
    from ...models import ViT

PHOTO = "chelsea"


@dataclass(frozen=True)
class Chosen:
    """Images, and what each is called in the name of a file.

    Attributes:
        images: part of a data set; its labels are the images' numbers, from 0, unless labels were asked for.
        names: one an image, all different.
        note: a line on where they are from, where the user has not said it.
    """

    images: Images
    names: Sequence[str]
    note: str = ""


def choose(args: Namespace, model: ViT, labelled: bool = False, samples: int | None = None, own: bool = True) -> Chosen:
    """The images that were named, or those of a data set, or those of the model's own, or a bundled photo.

    Args:
        args: with `images`, `data`, `data_path`, `part`, `unlabelled`, `samples`, `level` and perhaps `image_size`.
        model: whose preprocessing they get.
        labelled: whether labels are the classes of the data set.
        samples: how many of a data set where the user has not said it; None: all.
        own: whether the model's own data, or a photo, will do.

    Raises:
        ValueError: for what is not there, and where nothing is found.
    """
    from ...data.numbered import Numbered, Part
    from ...data.sources.folder import every_image, named_images
    from ...data.splits import subset
    from ...train.evaluation import as_expected, check_not_empty

    size, note = getattr(args, "image_size", model.config.image_size), ""
    if args.images and (args.data or args.data_path):
        raise ValueError("name images, or give --data and --data-path, not both")
    named = args.images or (args.data_path and not labelled and not args.data)
    for flag in ("part", "level"):
        if named and getattr(args, flag) is not None:
            raise ValueError(f"--{flag} is of a data set, and these are images by themselves: leave it out")
    if args.images:
        images, samples = named_images(args.images, size, model.config), None
    elif named:
        images, samples = every_image(args.data_path, size, model.config), None
    elif own and not args.data:
        images, note = _own(args, model, size)
    else:
        images = _data_set(args, model, size, labelled)
    images = as_expected(model, images)
    check_not_empty(images)
    if labelled:
        return Chosen(Part(images, subset(len(images), args.samples)) if args.samples else images, ())
    numbers = subset(len(images), args.samples or samples)
    return Chosen(Numbered(images, numbers), _names([_called(images, n) for n in numbers.tolist()], _roots(args)), note)


def read(chosen: Chosen, args: Namespace, batch_size: int, corrupt: CorruptImages) -> Iterator[tuple]:
    """Batches of images and their numbers, with a progress bar; those that cannot be read are left out and counted."""
    from ...data import loader
    from ...progress import progress_bar

    workers = args.workers
    if workers is None:  # a few images are read before a process has started
        workers = None if chosen.images.in_files and len(chosen.images) > 4 * batch_size else 0
    one = len(chosen.images) == 1  # why it cannot be read is then all there is to say
    bar = progress_bar(len(chosen.images), "img", shown=not args.quiet, leave=False)
    try:
        for x, numbers in loader.evaluation_batches(
            chosen.images, batch_size, workers, corrupt=None if one else corrupt
        ):
            yield x, numbers
            bar.update(len(numbers))
    finally:
        bar.close()


def pixels(x: torch.Tensor, model: ViT):
    """Images as they were before their normalisation, uint8 (batch, height, width, 3)."""
    from ...data import undo

    shown = undo(x, model.config.mean, model.config.std)
    return shown.repeat(3, axis=-1) if shown.shape[-1] == 1 else shown


def _data_set(args: Namespace, model: ViT, size, labelled: bool):
    """The part of the data set that was asked for, or of the one that the model's card names."""
    from ...data.saved import saved_images

    if not labelled and not args.data and not args.data_path:
        raise ValueError("say where the images are: --data-path DIR, a folder of images")
    card = getattr(model, "card", {})
    saved = saved_images(card, args.data, args.data_path)
    name, path = args.data or saved.get("name") or ("" if card else "imagenet"), args.data_path or saved.get("path")
    if not name:
        raise ValueError("the model does not say what it was trained on: give --data NAME, or --unlabelled")
    check_level(args, name)
    level = args.level or saved.get("level") or 1
    return getattr(data.load(name, path, size, level=level, config=model.config, download=False), args.part or "test")


def _own(args: Namespace, model: ViT, size):
    """Test images of the data that the model was trained on; a bundled photo where they are not on this machine."""
    from ...data.photos import photo_path
    from ...data.sources.folder import named_images

    try:
        images = _data_set(args, model, size, labelled=True)
        return images, f"on {images.name}, what the model was trained on"
    except ValueError as error:
        if args.level is not None:
            raise
        why = f"on the bundled photo {PHOTO}: no images were named, and the model's own are not here ({error})"
    return named_images([photo_path(PHOTO)], size, model.config), why


def _called(images, number: int) -> str:
    """What an image is called: its file, or its data set and number."""
    files = getattr(getattr(images, "source", None), "files", None)
    if files is None:
        return f"{images.name.replace(' ', '_')}_{number}"
    return files[int(images.members[number])]


def _roots(args: Namespace) -> list[str]:
    return [os.path.join(root, "") for root in [*args.images, *filter(None, [args.data_path])] if os.path.isdir(root)]


def _names(files: Sequence[str], roots: Sequence[str]) -> list[str]:
    """Names for files, without endings and without the folder that was named; all different."""
    names = []
    for file in files:
        root = next((root for root in roots if file.startswith(root)), os.path.join(os.path.dirname(file), ""))
        name = "_".join(Path(file[len(root) :] if file.startswith(root) else file).with_suffix("").parts)
        names.append(ODD.sub("_", name))
    return distinct(names)
