"""Images to train on and to look at: generated shapes, bundled photos, CIFAR, class folders, shards, timm's readers."""

from . import cifar, imagenet, keyed, readers, shapes, tars
from .augment import Augment
from .folder import data_folder
from .images import BrokenImage, Images, InMemory, Sets
from .photos import PHOTOS, open_image, photo, photo_names, prepare, undo
from .shapes import Shapes

__all__ = [
    "PHOTOS",
    "Augment",
    "BrokenImage",
    "Images",
    "InMemory",
    "Sets",
    "Shapes",
    "data_folder",
    "keyed",
    "load",
    "open_image",
    "photo",
    "photo_names",
    "prepare",
    "undo",
]


def load(
    name: str, path=None, image_size=None, level: int = 1, seed: int = 0, samples: int | None = None, config=None
) -> Sets:
    """A data set's three parts.

    Args:
        name: shapes, cifar10, cifar100, imagenet, folder (pictures in class folders), wds (WebDataset shards), or a
            timm reader (`hfds/…`).
        path: the folder it lies in; where None, under `DTL_DATA` (default ~/.cache/dtl).
        image_size: pixels, an int or (height, width); the data set's own where None.
        level, seed: of `shapes` alone.
        samples: training images to use; all where None.
        config: preprocessing of photos, such as a `ViTConfig`: mean, std, crop, interpolation.

    Raises:
        ValueError: for an unknown name, and for missing or damaged data: which file, what was expected, what to do.
    """
    if name == "shapes":
        return shapes.load(image_size, level, seed, samples)
    if name in ("cifar10", "cifar100"):
        return cifar.load(name, path, image_size, samples)
    if name in ("imagenet", "folder"):
        return imagenet.load(path, image_size, samples, config, name)
    if name == "wds":
        return tars.load(path, image_size, samples, config)
    if name.partition("/")[0] in readers.PREFIXES and "/" in name:
        return readers.load(name, path, image_size, samples, config)
    known = ["shapes", "cifar10", "cifar100", "imagenet", "folder", "wds"]
    known += [f"{prefix}/…" for prefix in readers.PREFIXES]
    raise ValueError(f"there is no data set {name!r}; there are {', '.join(known)}")
