"""How a data set is cut into the parts to train on, hold out and test on."""

from collections.abc import Mapping

import torch

from . import keyed

# what folders and files of a part are called; of several the first counts
PART_NAMES = {"train": ("train", "training"), "test": ("val", "validation", "test", "eval")}
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


def cut(sources: Mapping, folders: Mapping, samples: int | None) -> dict:
    """Source and members of train, held_out and test; a part that is missing is cut from the training images.

    Args:
        sources: by part, `train` and `test`, one of which may be missing.
        folders: where they are from, by part, for errors.
        samples: training images to use; all where None.
    """
    if "train" not in sources:
        test, none = sources["test"], torch.empty(0, dtype=torch.int64)
        return {"train": (test, none), "held_out": (test, none), "test": (test, torch.arange(len(test)))}
    source = sources["train"]
    train, held_out = split(len(source), held_out_of(len(source), folders["train"]))
    if "test" in sources:
        test = sources["test"], torch.arange(len(sources["test"]))
    else:
        rest, last = split(len(train), held_out_of(len(train), folders["train"]))
        test, train = (source, train[last]), train[rest]
    return {"train": (source, train[subset(len(train), samples)]), "held_out": (source, held_out), "test": test}
