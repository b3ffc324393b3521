"""Data sets that timm reads by name: `hfds/…`, `tfds/…`, `torch/…`.

Not `wds/…`: its opener runs what a path after `pipe:` says. `shards.py` reads such shards.
"""

import re
from collections.abc import Sequence

import torch

from ...paths import user_path
from ..decoding import named, start_nothing
from ..files import ImageFiles
from ..images import Sets
from ..splits import held_out_of, split, subset

_NO_NAME = re.compile(r"[a-z][a-z+.-]+:(?!\d)|::|[|{}\0]", re.I)  # `mnist:3.0.1` is a version of tfds'
_NO_DOWNLOAD = "You can use download=True to download it"  # not here
EXTRAS = {"hfds": "datasets", "hfids": "datasets", "tfds": "tensorflow-datasets"}
SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid", "test")}  # the first that there is


class IndexedDataset:
    """A timm or torchvision data set with random access, as a source for `ImageFiles`."""

    def __init__(self, dataset, name: str):
        self.dataset, self.name = dataset, name
        self.reader = getattr(dataset, "reader", dataset)
        if hasattr(dataset, "loader"):  # torchvision's, which would decode with Pillow's defaults
            dataset.loader = str

    def __len__(self):
        return len(self.reader)

    def __call__(self, number: int):
        sample_name = f"{self.name}, sample {number}"
        start_nothing()  # here too: a worker process has not opened the data set
        with named(sample_name):  # some of torchvision's data sets decode their images here
            image, target = self.reader[number][:2]
        return image, image if isinstance(image, str) else sample_name, int(target)


class BufferedStream:
    """A stream's first samples, read into memory once: a stream has no random access."""

    def __init__(self, dataset, name: str, samples: int):
        self.name, self.samples = name, []
        for image, target in dataset:
            self.samples.append((image, int(target)))
            if len(self.samples) == samples:
                break

    def __len__(self):
        return len(self.samples)

    def __call__(self, number: int):
        image, target = self.samples[number]
        return image.copy(), f"{self.name}, sample {number}", target


def load(name: str, path=None, image_size=None, samples: int | None = None, config=None) -> Sets:
    """A data set by timm's name for it; the held-out part is cut from the training split as for a folder.

    Args:
        name: prefix/name, such as `hfds/uoft-cs/cifar10` or `torch/fashion_mnist`.
        path: its folder, or the cache's.
        image_size: pixels, an int or (height, width); the config's, or 224, where None.
        samples: training images to use; needed for a stream (`tfds`, `hfids`), read into memory once, as
            are as many test images.
        config: preprocessing, such as a `ViTConfig`: mean, std, crop, interpolation.

    Raises:
        ValueError: where timm cannot open it, with timm's reason, or a stream is asked for whole.
    """
    source, test_source = (_open(name, path, part, samples) for part in ("train", "validation"))
    classes = _classes(source)
    test_source = _numbered_as(test_source, classes, name)
    train, held_out = split(len(source), held_out_of(len(source), name))

    def part(title, source, members):
        return ImageFiles(f"{name} {title}", classes, source, members, config, image_size)

    return Sets(
        part("train", source, train[subset(len(train), samples)]),
        part("held_out", source, held_out),
        part("test", test_source, torch.arange(len(test_source))),
    )


def _open(name: str, path, part: str, samples: int | None):
    from timm.data import create_dataset

    prefix = name.partition("/")[0]
    _check_name(name)
    path = None if path is None else str(user_path(path).absolute())  # absolute: it cannot begin with a scheme
    if path is None and prefix == "torch":
        raise ValueError(f"say in which folder the files of {name} are: path (--data-path DIR)")
    start_nothing()
    try:
        options = _hub_options(name, path, part) if prefix in ("hfds", "hfids") else {"split": part}
        options |= {"input_img_mode": ""} if prefix == "hfids" else {}  # as stored: to RGB it would clip 16 bits
        dataset = create_dataset(name, root=path, is_training=False, **options)
    except ImportError as error:
        raise ValueError(
            f"{name} needs a package that is not installed ({error}); pip install {EXTRAS[prefix]}"
        ) from None
    except (AssertionError, LookupError, OSError, RuntimeError, ValueError, TypeError) as error:
        where = f" in {path}" if path else ""
        why = " ".join(str(error).split()).replace(_NO_DOWNLOAD, "Put its files there")
        raise ValueError(f"timm cannot open {name}{where}: {why}") from None
    if not isinstance(dataset, torch.utils.data.IterableDataset):
        return IndexedDataset(dataset, name)
    if samples is None:
        raise ValueError(
            f"{name} is a stream, without random access; say with samples how many images to read into "
            "memory, or unpack it into class folders and use the data set `folder`"
        )
    return BufferedStream(dataset, name, samples)


def _hub_options(name: str, path, part: str) -> dict[str, str]:
    """timm's arguments that name a Hugging Face data set's split, and its columns of images and classes.

    CIFAR-10 there has the splits `train` and `test` and a column `img`, ImageNet `train` and `validation` and `image`.
    """
    import datasets

    prefix, _, hub_name = name.partition("/")
    splits = datasets.get_dataset_split_names(hub_name)
    split = next((split for split in SPLITS[part] if split in splits), None)
    if split is None:
        raise ValueError(f"it has no split {' or '.join(SPLITS[part])}, only {', '.join(splits)}")
    rows = datasets.load_dataset(hub_name, split=split, cache_dir=path, streaming=prefix == "hfids")
    columns = rows.features or {}
    kinds = {"input_key": datasets.Image, "target_key": datasets.ClassLabel}
    names = {key: [name for name, kind in columns.items() if isinstance(kind, type_)] for key, type_ in kinds.items()}
    mode = {"input_img_mode": ""} if prefix == "hfids" else {}  # as they are: `decode` knows 16 bits
    return {"split": split} | mode | {key: matching[0] for key, matching in names.items() if matching}


def _check_name(name: str) -> None:
    """A ValueError where a name after the prefix is an address or a command, or expands to several."""
    if _NO_NAME.search(name.partition("/")[2]):
        raise ValueError(f"{name} is no data set's name: it holds an address, a command or a pattern")


class Renumbered:
    """A source whose classes have other numbers; `numbers` has the new one at the place of the old."""

    def __init__(self, source, numbers: Sequence[int]):
        self.source, self.numbers = source, tuple(numbers)

    def __len__(self):
        return len(self.source)

    def __call__(self, number: int):
        image, name, target = self.source(number)
        return image, name, self.numbers[target]


def _numbered_as(source, classes: tuple[str, ...], name: str):
    """The source with the numbers that classes of its names have among `classes`.

    torchvision and timm number the class folders of each part by themselves: where `val` lacks a class, they call its
    images by the numbers of others, in training and in evaluation.
    """
    own = _classes(source)
    if own == classes:
        return source
    if stray := [label for label in own if label not in classes]:
        raise ValueError(
            f"the test images of {name} have a class {stray[0]!r} that the training images lack; both need the same"
        )
    if len(set(classes)) < len(classes):
        raise ValueError(f"{name} has two classes of one name, and another order of them to train and to test on")
    return Renumbered(source, [classes.index(label) for label in own])


def _classes(source) -> tuple[str, ...]:
    """Names where the reader knows them, or numbers up to the largest class there is."""
    reader = getattr(source, "reader", None)
    if names := getattr(reader, "classes", None):
        return tuple(map(str, names))
    if numbers := getattr(reader, "class_to_idx", None):
        return tuple(map(str, sorted(numbers, key=numbers.get)))
    return tuple(map(str, range(1 + max(source(number)[2] for number in range(len(source))))))
