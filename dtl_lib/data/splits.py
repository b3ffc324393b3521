"""How a data set is cut into the parts to train on, hold out and test on."""

import re
from collections.abc import Iterable, Mapping

import torch

from . import keyed

# what folders and files of a part are called, whatever the case
PART_NAMES = {
    "train": ("train", "training"),
    "held_out": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
_LIKE_A_PART = re.compile("train|val|test")
_PARTS = {name: part for part, names in PART_NAMES.items() for name in names}
SPLIT_KEY = (20260101,)
HELD_OUT = 5_000


def split(length: int, held_out: int):
    """Two sorted, disjoint index tensors that cover 0 … length−1, the second of `held_out`; the same everywhere."""
    order = keyed.permutation(length, SPLIT_KEY, "split")
    return order[held_out:].sort().values, order[:held_out].sort().values


def held_out_of(length: int, path) -> int:
    """How many of `length` training images are held out: 5,000, or a tenth, at least one, where that is fewer."""
    if length < 2:
        raise ValueError(f"{path} holds {length} images to train on; one is held out, so it takes 2 or more")
    return min(HELD_OUT, max(1, length // 10))


def subset(length: int, samples: int | None):
    """`samples` of 0 … length−1, sorted, always the same ones; all where None or more than there are."""
    check_samples(samples)
    order = keyed.permutation(length, SPLIT_KEY, "subset")
    return order[: samples or length].sort().values


def check_samples(samples: int | None) -> None:
    """A ValueError for a number of training images below 1; None stands for all of them."""
    if samples is not None and samples < 1:
        raise ValueError(f"samples is {samples}; it counts training images, 1 or more")


def part_of(name: str) -> str | None:
    """The part that a folder or a word of this name means: train, held_out, test, or none."""
    return _PARTS.get(name.casefold())


def like_parts(names: Iterable[str]) -> list[str]:
    """Names that may mean parts without being their names, one of each kind: of `TrainData` and `test_set` both."""
    kinds = {found[0]: name for name in names if (found := _LIKE_A_PART.search(name.casefold()))}
    return list(kinds.values())


def assigned(parts: Mapping) -> dict:
    """The parts under the names of their use: what is there to validate on is the test where there is no other."""
    if "held_out" in parts and "test" not in parts:
        return {"test" if part == "held_out" else part: value for part, value in parts.items()}
    return dict(parts)


def cut(sources: Mapping, folders: Mapping, samples: int | None) -> dict:
    """Source and members of train, held_out and test; a part that is missing is cut from the training images.

    Args:
        sources: by part, `train`, `held_out` and `test`; `train` or `test` is there.
        folders: where they are from, by part, for errors.
        samples: training images to use; all where None.
    """
    none = torch.empty(0, dtype=torch.int64)
    parts = {part: (source, torch.arange(len(source))) for part, source in sources.items()}
    if "train" not in parts:
        return {"train": (sources["test"], none), "held_out": (sources["test"], none), **parts}
    source, train = parts["train"]
    if "held_out" not in parts:
        train, held_out = split(len(source), held_out_of(len(source), folders["train"]))
        parts["held_out"] = source, held_out
    if "test" not in parts:
        rest, last = split(len(train), held_out_of(len(train), folders["train"]))
        parts["test"], train = (source, train[last]), train[rest]
    return {**parts, "train": (source, train[subset(len(train), samples)])}


def origins(folders: Mapping) -> dict[str, str]:
    """Where each part's images are from, for a log; `folders` is as in `cut`."""
    if "train" not in folders:
        return {part: str(folder) for part, folder in folders.items()}
    return {
        part: str(folders[part]) if part in folders else f"{folders['train']}, cut off from it" for part in PART_NAMES
    }
