"""Where data lies on this machine."""

from ..pretrained import data_folder
from . import keyed

__all__ = ["data_folder", "held_out_of", "split", "subset"]

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
