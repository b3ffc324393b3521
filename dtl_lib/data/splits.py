"""Where data lies on this machine, and how it is cut into parts."""

from collections.abc import Mapping

import torch

from . import keyed

__all__ = ["cut", "held_out_of", "split", "subset"]

TRAIN, TEST = ("train", "training"), ("val", "validation", "test", "eval")
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
    if samples is not None and samples < 1:
        raise ValueError(f"samples is {samples}; it counts training images, 1 or more")
    order = keyed.permutation(length, SPLIT_KEY, "subset")
    return order[: samples or length].sort().values


def cut(sources: Mapping, folders: Mapping, samples: int | None) -> dict:
    """Source and members of train, held_out and test; what is missing is cut from the training images.

    Args:
        sources: of `train` and `test`, one of which may be missing, by that name.
        folders: where they are from, for errors.
        samples: training images to use; all where None.
    """
    if "train" not in sources:
        test, nothing = sources["test"], torch.empty(0, dtype=torch.int64)
        return {"train": (test, nothing), "held_out": (test, nothing), "test": (test, torch.arange(len(test)))}
    source = sources["train"]
    train, held_out = split(len(source), held_out_of(len(source), folders["train"]))
    if "test" in sources:
        test = sources["test"], torch.arange(len(sources["test"]))
    else:
        rest, last = split(len(train), held_out_of(len(train), folders["train"]))
        test, train = (source, train[last]), train[rest]
    return {"train": (source, train[subset(len(train), samples)]), "held_out": (source, held_out), "test": test}
