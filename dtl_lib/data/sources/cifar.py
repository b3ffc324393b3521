"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images), in memory."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from ...config import CIFAR_MEAN, CIFAR_STD
from ...host import data_folder
from ...paths import require, user_path
from ..images import InMemory, Sets, size_of
from ..splits import held_out_of, split, subset

LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
SIDE = 32


def load(name: str, path=None, image_size=None, samples: int | None = None, download: bool = True) -> Sets:
    """CIFAR-10 or CIFAR-100: 45,000 images to train on, 5,000 held out of the training files, 10,000 to test on.

    Args:
        name: cifar10 or cifar100.
        path: the folder of the python version's files, or one above it; where None, `DTL_DATA`, then a download.
        image_size: pixels to resize batches to, an int or (height, width); 32 where None.
        samples: training images to use, always the same ones; all where None.
        download: whether it is downloaded where no path is given and it is not there.

    Raises:
        ValueError: for a missing, cut or altered file: which, what was expected and what to do.
    """
    published = _published(name)
    folder = _find(published, name, path, download)
    pixels, targets = _read(folder, name, published.train_list)
    test_pixels, test_targets = _read(folder, name, published.test_list)
    meta = published.meta
    classes = _unpickle(_verified(folder, name, meta["filename"], meta["md5"]))[meta["key"]]
    train, held_out = split(len(targets), held_out_of(len(targets), folder))
    train = train[subset(len(train), samples)]
    size = image_size and size_of(image_size)

    def part(title, pixels, targets):
        return InMemory(f"{name} {title}", classes, CIFAR_MEAN, CIFAR_STD, pixels, targets, size)

    return Sets(
        part("train", pixels[train], targets[train]),
        part("held_out", pixels[held_out], targets[held_out]),
        part("test", test_pixels, test_targets),
    )


def parse(content: bytes, labels: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One file of the python version: uint8 (images, 3, 32, 32) and int64 (images,). A pickle: verify it first."""
    entry = _unpickle(content)
    pixels = rearrange(
        np.asarray(entry["data"], np.uint8),
        "image (channel row column) -> image channel row column",
        channel=3,
        row=SIDE,
        column=SIDE,
    )
    return torch.from_numpy(pixels), torch.tensor(entry[labels], dtype=torch.int64)


def _published(name: str):
    """torchvision's class for the data set: files, checksums, address, download."""
    from torchvision import datasets

    if name not in LABELS:
        raise ValueError(f"there is no {name!r}; there are {' and '.join(LABELS)}")
    return getattr(datasets, name.upper())


def _find(published, name: str, path, download: bool) -> Path:
    """The folder with the files: the one given, one inside it, or a fresh download into `DTL_DATA`."""
    root = data_folder() if path is None else user_path(path)
    above = (root, root / name, root / name.upper())
    for folder in (*above, *(folder / published.base_folder for folder in above)):
        if any((folder / file).exists() for file, _ in published.train_list + published.test_list):
            return folder
    if path is not None:
        raise ValueError(
            f"{path} holds no {name}: {published.base_folder}/ with {published.train_list[0][0]} was expected "
            f"there; unpack {published.filename} in it, or leave the path out to download"
        )
    if not download:
        raise ValueError(f"{name} is not under {root}: give --data {name} to download it, or --data-path DIR")
    try:
        published(root, download=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{name} is not under {root} and could not be downloaded ({error}); unpack {published.filename} "
            f"from {published.url} there, or set DTL_DATA to the folder that holds it"
        ) from None
    return root / published.base_folder


def _read(folder: Path, name: str, files) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [parse(_verified(folder, name, file, md5), LABELS[name]) for file, md5 in files]
    pixels, targets = zip(*parts, strict=True)
    return torch.cat(pixels), torch.cat(targets)


def _verified(folder: Path, name: str, file: str, md5: str) -> bytes:
    """A file's bytes, only if they are the published ones: unpickling anything else could run code."""
    path = folder / file
    remedy = f"delete {folder} and unpack the python version of {name} again"
    require(path, "a file", remedy)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise ValueError(
            f"{path} is damaged or cut short: {len(content):,} bytes with MD5 {actual}, expected MD5 {md5}; {remedy}"
        )
    return content


def _unpickle(content: bytes) -> dict:
    return pickle.loads(content, encoding="latin1")
