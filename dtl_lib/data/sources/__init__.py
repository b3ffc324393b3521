"""Where images come from: one file for each kind of source, one row of `SOURCES` for each name."""

from dataclasses import dataclass
from importlib import import_module

from ...host import data_folder

__all__ = ["PREFIXES", "SOURCES", "Source", "data_folder", "load", "source"]

LARGE = "vit_tiny_patch16_224"


@dataclass(frozen=True)
class Source:
    """A data set, or a kind of them, that `load` knows by name.

    Args:
        module: whose function `load` gives its parts, from `dtl_lib.data` on.
        takes: the arguments of `dtl_lib.data.load` that it takes.
        model: the configuration that `dtl train` takes for it where none is named.
        recipe: the recipe that it takes.
    """

    module: str
    takes: tuple[str, ...]
    model: str = LARGE
    recipe: str = "imagenet"


_FILES = ("path", "image_size", "samples", "config")
_CIFAR = Source("sources.cifar", ("name", "path", "image_size", "samples"), "vit_cifar_patch4_32", "cifar10")
_FOLDER = Source("sources.folder", ("name", *_FILES))
SOURCES = {
    "shapes": Source("shapes", ("image_size", "level", "seed", "samples"), "vit_shapes_patch8_32", "shapes"),
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "imagenet": _FOLDER,
    "folder": _FOLDER,
    "wds": Source("sources.shards", _FILES),
}
TIMM = Source("sources.timm_readers", ("name", *_FILES))
PREFIXES = ("hfds", "hfids", "tfds", "torch", "wds")  # of the names that timm's readers know: PREFIX/NAME


def source(name: str) -> Source:
    """The row of a data set's name; a ValueError that lists the names where there is none."""
    if name in SOURCES:
        return SOURCES[name]
    if name.partition("/")[0] in PREFIXES and "/" in name:
        return TIMM
    known = [*SOURCES, *(f"{prefix}/…" for prefix in PREFIXES)]
    raise ValueError(f"there is no data set {name!r}; there are {', '.join(known)}")


def load(name: str, path=None, image_size=None, level: int = 1, seed: int = 0, samples: int | None = None, config=None):
    """A data set's three parts, a `data.Sets`.

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
    given = {"name": name, "path": path, "image_size": image_size, "level": level, "seed": seed}
    given |= {"samples": samples, "config": config}
    row = source(name)
    module = import_module(f"..{row.module}", __package__)
    return module.load(**{argument: given[argument] for argument in row.takes})
