"""Where images come from: one file for each kind of source, one row of `SOURCES` for each name.

A file has a function `load` that returns `data.Sets`; its parameters are some of `data.load`'s, with the same names.
"""

import inspect
from dataclasses import dataclass
from importlib import import_module

from ...checks import shortened
from ...host import data_folder

__all__ = ["PREFIXES", "SOURCES", "Source", "data_folder", "load", "source"]

LARGE = "vit_tiny_patch16_224"


@dataclass(frozen=True)
class Source:
    """A data set, or a kind of them, that `load` knows by name.

    Args:
        module: the file here whose function `load` gives its parts.
        model: the configuration that `dtl train` uses where none is named.
        recipe: the recipe that it uses.
        in_files: whether its images lie in files, below a path.
    """

    module: str
    model: str = LARGE
    recipe: str = "imagenet"
    in_files: bool = True


SOURCES = {
    "shapes": Source("shapes", "vit_shapes_patch8_32", "shapes", in_files=False),
    "cifar10": Source("cifar", "vit_cifar_patch4_32", "cifar10"),
    "cifar100": Source("cifar", "vit_cifar_patch4_32", "cifar10"),
    "imagenet": Source("folder"),
    "folder": Source("folder"),
    "wds": Source("shards"),
}
TIMM = Source("timm_readers")
PREFIXES = ("hfds", "hfids", "tfds", "torch")  # of the names that timm's readers know: PREFIX/NAME


def source(name: str) -> Source:
    """The row of a data set's name; a ValueError that lists the names where there is none."""
    if not isinstance(name, str):
        raise ValueError(f"a data set's name is text, such as shapes, not {shortened(name)}")
    if name in SOURCES:
        return SOURCES[name]
    if name.partition("/")[0] in PREFIXES and "/" in name:
        return TIMM
    if name.startswith("wds/"):  # timm's reader of shards would run what a path after `pipe:` says
        raise ValueError(f"{name} is no data set's name: shards in a folder are --data wds --data-path DIR")
    known = [*SOURCES, *(f"{prefix}/…" for prefix in PREFIXES)]
    raise ValueError(f"there is no data set {name!r}; there are {', '.join(known)}")


def load(
    name: str, path=None, image_size=None, level: int = 1, seed: int = 0, samples: int | None = None, config=None,
    download: bool = True,
):  # fmt: skip
    """A data set's three parts, a `data.Sets`.

    Args:
        name: one of `SOURCES`, such as shapes, cifar10, folder (images in class folders) or wds (WebDataset shards),
            or a timm reader's (`hfds/…`).
        path: its folder; where None, under `DTL_DATA` (default ~/.cache/dtl).
        image_size: pixels, an int or (height, width); the data set's own where None.
        level, seed: of `shapes` alone.
        samples: training images to use; all where None.
        config: preprocessing of photos, such as a `ViTConfig`: mean, std, crop, interpolation, and channels, 3 or 1.
        download: whether cifar10 and cifar100 are downloaded where they are not there.

    Raises:
        ValueError: for an unknown name, and for missing or damaged data: which file, what was expected, what to do.
    """
    arguments = {"name": name, "path": path, "image_size": image_size, "level": level, "seed": seed}
    arguments |= {"samples": samples, "config": config, "download": download}
    loader = import_module(f".{source(name).module}", __package__).load
    from ..images import sets_with_channels

    sets = loader(**{parameter: arguments[parameter] for parameter in inspect.signature(loader).parameters})
    return sets_with_channels(sets, getattr(config, "channels", 3))
