"""ImageNet, and any folder of images with a folder for each class."""

import os
from collections.abc import Sequence
from pathlib import Path

from ...host import data_folder
from ...paths import user_path
from ..decoding import endings
from ..files import LabelledFiles
from ..images import Sets
from ..splits import PART_NAMES, cut


class Folder:
    """The pictures under one folder; called with a number, it is a source for `ImageFiles`.

    Args:
        root: the folder.
        pictures: paths by class.
        numbers: class index by class.
    """

    def __init__(self, root: Path, pictures: dict[str, list[str]], numbers: dict[str, int]):
        self.root = root
        self.files = [file for files in pictures.values() for file in files]
        self.targets = [numbers[label] for label, files in pictures.items() for _ in files]

    def __len__(self):
        return len(self.files)

    def __call__(self, number: int):
        return self.files[number], self.files[number], self.targets[number]

    def listing(self, numbers: Sequence[int]) -> str:
        """The pictures' paths under the folder."""
        return "\n".join(os.path.relpath(self.files[number], self.root) for number in numbers)


def load(name: str, path=None, image_size=None, samples: int | None = None, config=None) -> Sets:
    """Pictures in class folders: `train/CLASS/…` and `val/CLASS/…`, or `CLASS/…` alone.

    The held-out part is 5,000 training images, or a tenth of them where that is fewer. Without `val/` another tenth is
    cut off for the test; without `train/` there is nothing to train on and only the test part has images.

    Args:
        name: imagenet, where folders are WordNet ids and give the class of ImageNet-1k whatever subset is there; or
            folder, where classes are the folders' names, sorted.
        path: the folder; `name` under `DTL_DATA` where None.
        image_size: pixels, an int or (height, width); the config's, or 224, where None.
        samples: training images to use, always the same ones; all where None.
        config: preprocessing, such as a `ViTConfig`: mean, std, crop, interpolation.

    Raises:
        ValueError: for a missing folder, one without classes, or one whose classes are not ImageNet's.
    """
    root = user_path(path) if path is not None else data_folder() / name
    folders = _parts(root)
    pictures = {part: pictures_by_class(folder) for part, folder in folders.items()}
    classes_of = _imagenet_classes if name == "imagenet" else _folder_classes
    numbers, classes = classes_of(folders, pictures)
    sources = {part: Folder(folders[part], pictures[part], numbers) for part in folders}
    sets = {}
    for part, (source, members) in cut(sources, folders, samples).items():
        sets[part] = LabelledFiles(f"{name} {part}", classes, source, members, config, image_size)
    return Sets(**sets)


def pictures_by_class(root: Path) -> dict[str, list[str]]:
    """Paths of the pictures under each folder in `root`, sorted, hidden ones left out.

    Raises:
        ValueError: where there are none.
        OSError: where a folder cannot be read.
    """
    labels = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not _hidden(entry.name))
    top = _identity(root)
    by_class = {label: pictures for label in labels if (pictures := _pictures(root / label, top))}
    if not by_class:
        raise ValueError(
            f"{root} holds no classes: a folder for each class, with pictures in it, was expected there, "
            f"such as {root}/cat/1.jpg"
        )
    return by_class


def wordnet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet ids and names of ImageNet-1k's classes, in the order of its indices."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(info.label_names()), tuple(info.label_descriptions())


def _parts(root: Path) -> dict[str, Path]:
    """The folders under `train` and `test`; one of them may be missing, and a folder without either trains."""
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; one with train/CLASS/1.jpg and val/CLASS/1.jpg was expected")
    folders = {}
    for part, names in PART_NAMES.items():
        present = [root / name for name in names if (root / name).is_dir()]
        if present:
            folders[part] = present[0]
    return folders or {"train": root}


def _imagenet_classes(folders: dict[str, Path], pictures: dict[str, dict]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Class index by WordNet id, and the names of all 1,000 classes."""
    ids, names = wordnet_classes()
    for part, by_class in pictures.items():
        if stray := sorted(set(by_class) - set(ids)):
            raise ValueError(
                f"{folders[part]} has a class folder {stray[0]!r}, which is no WordNet id of ImageNet-1k "
                "(such as n01440764); for classes of your own use the data set `folder`"
            )
    return {identity: number for number, identity in enumerate(ids)}, names


def _folder_classes(folders: dict[str, Path], pictures: dict[str, dict]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Class index by folder name, and those names; the test folder may lack classes, but not have others."""
    names = tuple(pictures.get("train") or pictures["test"])
    if stray := sorted(set(pictures.get("test", ())) - set(names)):
        raise ValueError(
            f"{folders['test']} has a class {stray[0]!r} that {folders['train']} lacks; "
            "both need the same class folders"
        )
    return {label: number for number, label in enumerate(names)}, names


def _pictures(folder: Path, top: tuple[int, int]) -> list[str]:
    """Pictures below a folder; links are followed, but not to `top` nor twice to one folder: they may form cycles."""
    pictures, seen = [], {top}
    for path, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        if (identity := _identity(path)) in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        pictures += (os.path.join(path, file) for file in sorted(files) if _is_picture(file))
    return pictures


def _identity(folder) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _raise(error: OSError):
    raise error


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _is_picture(name: str) -> bool:
    return not _hidden(name) and os.path.splitext(name)[1].lower() in endings()
