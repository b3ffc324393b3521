"""ImageNet, and any folder of images with a folder for each class."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ...host import data_folder
from ...paths import kind, require, user_path
from ..decoding import endings
from ..images import Sets
from ..labelled import LabelledFiles, labelled_sets
from ..splits import PART_NAMES, assigned, like_parts, part_of

log = logging.getLogger("dtl_lib")
IGNORED = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}  # what operating systems leave among images


class Folder:
    """The images under one folder; called with a number, it is a source for `ImageFiles`.

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
        """The images' paths under the folder."""
        return "\n".join(os.path.relpath(self.files[number], self.root) for number in numbers)

    def sizes(self, numbers: Sequence[int]) -> list[int]:
        """The images' lengths in bytes; -1 for one that is not there."""
        return [_length(self.files[number]) for number in numbers]

    def locations(self) -> set[tuple[int, int]]:
        """The folders that images lie in."""
        folders = {os.path.dirname(file) for file in self.files}
        return {_identity(folder) for folder in folders if os.path.exists(folder)}


def load(name: str, path=None, image_size=None, samples: int | None = None, config=None) -> Sets:
    """Images in class folders: `train/CLASS/…`, `val/CLASS/…` and `test/CLASS/…`, or `CLASS/…` alone.

    Other usual names count too, in any case: `training`; `valid`, `validation`, `dev`, `eval`; `testing`. Where both
    are there, `val` chooses the best weights and `test` reports what they attain; one of them alone reports. What is
    missing is cut from the training images: 5,000 of them, or a tenth where that is fewer. Without `train/` there is
    nothing to train on.

    Args:
        name: imagenet, where folders are WordNet ids and give the class of ImageNet-1k whatever subset is there; or
            folder, where classes are the folders' names, sorted.
        path: the folder; `name` under `DTL_DATA` where None.
        image_size: pixels, an int or (height, width); the config's, or 224, where None.
        samples: training images to use, always the same ones; all where None.
        config: preprocessing, such as a `ViTConfig`: mean, std, crop, interpolation.

    Raises:
        ValueError: for a missing folder, one without classes or with only one to train on, one whose class folders lie
            deeper, or one whose classes are not ImageNet's.
    """
    root = user_path(path) if path is not None else data_folder() / name
    pictures = _pictures_by_part(root, folders := _parts(root))
    folders = {part: folders[part] for part in pictures}
    for part, by_class in pictures.items():
        _check_depth(root, folders[part], by_class)
    if len(only := pictures.get("train", ())) == 1:
        raise ValueError(
            f"{folders['train']} holds one class, {next(iter(only))}, and there is nothing to tell it from: a folder "
            f"for each of two classes or more was expected there (to evaluate alone, call it {root}/val)"
        )
    pictures, folders = assigned(pictures), assigned(folders)
    classes_of = _imagenet_classes if name == "imagenet" else _folder_classes
    identities, classes = classes_of(folders, pictures)
    numbers = {label: number for number, label in enumerate(identities)}
    sources = {part: Folder(folders[part], pictures[part], numbers) for part in folders}
    return labelled_sets(name, classes, sources, folders, samples, config, image_size, identities)


def every_image(path, image_size=None, config=None) -> LabelledFiles:
    """Every image below a folder, in the order of their paths, whatever its folders mean: all in one class.

    Args:
        path: the folder.
        image_size, config: as in `load`.

    Raises:
        ValueError: where there is no folder, or no image in it.
    """
    root = user_path(path)
    require(root, "a folder", "give one that holds images")
    if not (files := _pictures(root, top=(-1, -1))):
        raise ValueError(f"{root} holds no images")
    source = Folder(root, {"image": files}, {"image": 0})
    return LabelledFiles(root.name or str(root), ("image",), source, torch.arange(len(files)), config, image_size)


def named_images(paths: Sequence, image_size=None, config=None) -> LabelledFiles:
    """Images as a reader names them, upright: files as they are named, and every image below a folder.

    Args:
        paths: files and folders.
        image_size, config: as in `load`.

    Raises:
        ValueError: for a path that leads to neither, and for a folder without images.
    """
    files: dict[str, None] = {}
    for path in map(user_path, paths):
        if kind(path) == "a folder":
            if not (found := _pictures(path, top=(-1, -1))):
                raise ValueError(f"{path} holds no images")
            files |= dict.fromkeys(found)
        else:
            require(path, "a file", "name an image, or a folder that holds images")
            files[str(path)] = None
    name = str(paths[0]) if len(paths) == 1 else f"{len(files):,} images"
    source = Folder(Path(), {"image": [*files]}, {"image": 0})
    images = LabelledFiles(name, ("image",), source, torch.arange(len(files)), config, image_size)
    images.upright = True
    return images


def pictures_by_class(root: Path) -> dict[str, list[str]]:
    """Paths of the images under each folder in `root`, sorted, hidden ones left out.

    Raises:
        ValueError: where there are none.
        OSError: where a folder cannot be read.
    """
    top = _identity(root)
    found = {label: _pictures(root / label, top) for label in _folders_in(root)}
    by_class = {label: pictures for label, pictures in found.items() if pictures}
    if by_class and (empty := [label for label in found if label not in by_class]):
        log.warning("%s: there are no readable images in %s, which is left out", root, listed(empty))
    if not by_class:
        raise ValueError(
            f"{root} holds no classes: a folder for each class, with images in it, was expected there, "
            f"such as {root}/cat/1.jpg"
        )
    return by_class


def ignored(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or a dropping of an operating system such as `._1.jpg`."""
    return name.startswith(".") or name.casefold() in IGNORED


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def wordnet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet ids and names of ImageNet-1k's classes, in the order of its indices."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(info.label_names()), tuple(info.label_descriptions())


def _parts(root: Path) -> dict[str, Path]:
    """The folders of the parts, any of which may be missing; a folder without any trains."""
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; one with train/CLASS/1.jpg and val/CLASS/1.jpg was expected")
    folders, others = {}, []
    for name in _folders_in(root):
        if (part := part_of(name)) is None:
            others.append(name)
        elif part in folders:
            raise ValueError(
                f"{root} holds {folders[part].name} and {name}, which are names of one part: give one of them another "
                f"name, or move it away (parts are called {', '.join(names[0] for names in PART_NAMES.values())})"
            )
        else:
            folders[part] = root / name
    if folders and others:
        log.warning("%s: %s not used; the parts are %s", root, listed(others), listed(p.name for p in folders.values()))
    if not folders and len(alike := like_parts(others)) > 1 and all(like_parts([name]) for name in others):
        raise ValueError(
            f"{root} holds {' and '.join(alike)}: if those are parts, call them train, val and test; if they are "
            f"classes, move them to {root}/train"
        )
    return folders or {"train": root}


def _pictures_by_part(root: Path, folders: dict[str, Path]) -> dict[str, dict[str, list[str]]]:
    """The images by part and class; a test without classes, as ImageNet's is published, is left out beside a val."""
    pictures = {}
    for part, folder in folders.items():
        try:
            pictures[part] = pictures_by_class(folder)
        except ValueError as error:
            if part != "test" or "held_out" not in folders:
                others = [name for name in _folders_in(root) if part_of(name) is None]
                if not others or _folders_in(folder):
                    raise
                raise ValueError(
                    f"{error}; if {folder.name} is itself a class, as {listed(others)} may be, move all to {root}/train"
                ) from None
            log.warning("%s; it is not used, and %s is the test", error, folders["held_out"])
    return pictures


def _check_depth(root: Path, folder: Path, by_class: dict[str, list[str]]) -> None:
    """A ValueError where the classes seem to lie in folders of folders.

    torchvision's and timm's readers take the upper folders for classes, without a word. One folder in each class, such
    as Tiny ImageNet's `images`, is taken for a part of it here too.
    """
    below = {}
    for label, files in by_class.items():
        start = len(os.path.join(folder, label, ""))
        if os.sep not in files[0][start:]:  # the images right below a folder come first
            return
        below[label] = list(dict.fromkeys(file[start:].split(os.sep, 1)[0] for file in files))
    for label, names in below.items():
        parts = [name for name in names if part_of(name)]
        if len(names) > 1 or parts:
            inner = folder / label
            what = listed(parts or names)
            right = (
                f"give {inner} as the data's folder (--data-path)" if folder == root else f"move them up to {folder}"
            )
            raise ValueError(
                f"the images of {folder} lie a folder too deep, such as {by_class[label][0]}: CLASS/1.jpg was "
                f"expected there, and {inner} holds the folders {what}; if those are the classes or parts, {right}; if "
                f"{label} is a class, move its images up to {inner}"
            )


def _imagenet_classes(folders: dict[str, Path], pictures: dict[str, dict]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet ids and names of all 1,000 classes."""
    ids, names = wordnet_classes()
    right = "which is no WordNet id of ImageNet-1k (such as n01440764); for your own classes use the data set `folder`"
    _refuse_stray(folders, pictures, ids, right)
    return ids, names


def _folder_classes(folders: dict[str, Path], pictures: dict[str, dict]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the folders, twice; the other parts may lack classes of the training folder, not have others."""
    names = tuple(pictures.get("train") or sorted(set().union(*pictures.values())))
    if "train" in folders:  # otherwise the names are those of all parts
        right = f"which {folders['train']} lacks; both need the same class folders"
        _refuse_stray(folders, pictures, names, right)
    return names, names


def _refuse_stray(folders: dict[str, Path], pictures: dict[str, dict], names: Iterable[str], right: str) -> None:
    """A ValueError for the first class folder that is none of the names."""
    for part, by_class in pictures.items():
        if stray := sorted(set(by_class) - set(names)):
            raise ValueError(f"{folders[part]} has a class folder {stray[0]!r}, {right}")


def _folders_in(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not ignored(entry.name))


def _pictures(folder: Path, top: tuple[int, int]) -> list[str]:
    """Images below a folder; links are followed, but not to `top` nor twice to one folder: they may form cycles."""
    pictures, seen = [], {top}
    for path, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        if (identity := _identity(path)) in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not ignored(name))
        pictures += (os.path.join(path, file) for file in sorted(files) if _is_picture(file))
    return pictures


def _identity(folder) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _length(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError:
        return -1


def _raise(error: OSError):
    raise error


def _is_picture(name: str) -> bool:
    return not ignored(name) and os.path.splitext(name)[1].lower() in endings()
