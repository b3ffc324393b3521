"""Images to train on and to look at: generated shapes, bundled photos, CIFAR, ImageNet folders and timm's readers."""

from dtl_lib.data import keyed
from dtl_lib.data.augment import Augment
from dtl_lib.data.cifar import cifar
from dtl_lib.data.folder import data_folder
from dtl_lib.data.images import Images, InMemory, Sets
from dtl_lib.data.photos import PHOTOS, open_image, photo, photo_names, prepare, undo
from dtl_lib.data.shapes import Shapes, shapes

__all__ = [
    "PHOTOS", "Augment", "Images", "InMemory", "Sets", "Shapes", "cifar", "data_folder", "keyed", "load", "open_image",
    "photo", "photo_names", "prepare", "shapes", "undo",
]


def load(name: str, path=None, image_size=None, level: int = 1, seed: int = 0, samples: int | None = None) -> Sets:
    """A data set's three parts.

    Args:
        name: shapes, cifar10, cifar100, imagenet, or a timm reader such as `hfds/…`.
        path: the folder it lies in; where None, under `DTL_DATA` (default ~/.cache/dtl).
        image_size: pixels, an int or (height, width); the data set's own where None.
        level, seed: of `shapes` alone.
        samples: training images to use; all where None.

    Raises:
        ValueError: for an unknown name, and for missing or damaged data: which file, what was expected, what to do.
    """
    if name == "shapes":
        return shapes(image_size, level, seed, samples)
    if name in ("cifar10", "cifar100"):
        return cifar(name, path, image_size, samples)
    raise ValueError(f"there is no data set {name!r}; there are shapes, cifar10, cifar100 and imagenet")
