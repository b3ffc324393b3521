"""How many images are looked at together, and what becomes of those that cannot be read."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from ..evaluate import unreadable

if TYPE_CHECKING:
    from ...data.corrupt import CorruptImages
    from ...models import ViT

MATRIX = 2**28  # bytes of one block's attention, at most, where the user does not say how many images a batch has
TAPE = 2**29  # bytes of what is recorded of a batch, where all of it is read
BATCH = 64


def at_once(model: ViT, image_size: tuple[int, int], weight: int = 1, tape: bool = False) -> int:
    """Images in a batch, at most `BATCH`: as many as one block's attention, `weight` times, fits into memory of.

    Args:
        tape: whether the tokens, queries and keys of all blocks have to fit too.
    """
    rows, columns = model.config.grid_of(*image_size)
    tokens = rows * columns + model.plan.tokens(model.plan.blocks - 1)
    each = 4 * weight * model.config.heads * tokens**2
    fits = MATRIX // each
    if tape:
        fits = min(fits, TAPE // (3 * 4 * model.plan.blocks * tokens * model.config.dim))
    return max(1, min(BATCH, fits))


def corrupt_images(args: Namespace) -> CorruptImages:
    """However many images cannot be read, the rest is done, unless the user has said otherwise."""
    from ...data.corrupt import CorruptImages

    return CorruptImages(1.0 if args.max_corrupt is None else args.max_corrupt)


def raise_unreadable(args: Namespace, corrupt: CorruptImages) -> None:
    """At the end of the work a ValueError that names the images that could not be read, unless `--max-corrupt` lets
    them be."""
    if corrupt.names and args.max_corrupt is None:
        raise ValueError(f"{unreadable(corrupt.names)}; all else is done")
