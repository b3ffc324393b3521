"""Which images at which step, and how they get to the device."""

import os
import signal
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from ..data import keyed
from ..data.decoded import Decoded

PIECE = 64  # images a worker hands over at a time
AT_ONCE = 256  # images made together: a sample's pixels do not depend on its batch, and small batches cost overhead
STREAM = "order"


def indices(images: int, batch_size: int, seed: int, step: int, total: int) -> Iterator[tuple[int, Tensor]]:
    """(epoch, samples) of every step from `step` on; the order of an epoch is keyed by (seed, epoch)."""
    per_epoch, order, shuffled = images // batch_size, None, None
    for now in range(step, total):
        epoch, place = divmod(now, per_epoch)
        if epoch != shuffled:
            order, shuffled = keyed.permutation(images, (seed, epoch), STREAM), epoch
        yield epoch, order[place * batch_size : (place + 1) * batch_size]


def training(images, recipe, step: int, total: int, workers: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches `(batch, 3, height, width)`, `(batch,)` of every step from `step` on."""
    asked = indices(len(images), recipe.batch_size, recipe.seed, step, total)
    augment = recipe.augment()
    if workers is None and recipe.slow_augmentation:
        workers = min(8, os.cpu_count() or 1)
    return _load(images, ((part, augment, (recipe.seed, epoch)) for epoch, part in asked), recipe.batch_size, workers)


def in_order(images, batch_size: int, workers: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, as it is, in batches of at most `batch_size`."""
    parts = torch.arange(len(images)).split(batch_size)
    return _load(images, ((part, None, None) for part in parts), batch_size, workers)


def _load(images, asked, batch_size: int, workers: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches asked for: made here for images in memory, by worker processes for images in files."""
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if isinstance(images, Decoded) else 0
    if not workers:
        yield from _several(images, asked, max(1, AT_ONCE // batch_size))
        return
    counts = deque()
    loader = torch.utils.data.DataLoader(
        _Asked(images), sampler=_pieces(asked, counts), batch_size=None, num_workers=workers, prefetch_factor=4,
        pin_memory=torch.cuda.is_available(), worker_init_fn=_leave_interrupts_to_the_parent,
    )  # fmt: skip
    made = []
    for piece in loader:
        if isinstance(piece, Exception):
            raise piece
        made.append(piece)
        if len(made) == counts[0]:
            yield tuple(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*made))
            made = []
            counts.popleft()


def _pieces(asked, counts: deque) -> Iterator:
    """The batches asked for, in pieces that can wait in memory by the dozen; how many each has goes to `counts`."""
    for samples, augment, key in asked:
        pieces = samples.split(PIECE)
        counts.append(len(pieces))
        yield from ((piece, augment, key) for piece in pieces)


class _Asked(torch.utils.data.Dataset):
    """A data set whose items are pieces of batches: (samples, augmentation, key) → images and labels, or an error."""

    def __init__(self, images):
        self.images = images

    def __getitem__(self, request):
        samples, augment, key = request
        try:
            return self.images.batch(samples, augment=augment, key=key)
        except (
            ValueError,
            OSError,
        ) as error:  # raised here, it would come back with the worker's traceback as its text
            return error


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _several(images, asked, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one augmentation and key made `count` at a time."""
    waiting = []

    def flush():
        if waiting:
            parts, (_, augment, key) = [part for part, _, _ in waiting], waiting[0]
            x, y = images.batch(torch.cat(parts), augment=augment, key=key)
            sizes = [len(part) for part in parts]
            waiting.clear()
            yield from zip(x.split(sizes), y.split(sizes))

    for request in asked:
        if waiting and (len(waiting) == count or request[1:] != waiting[0][1:]):
            yield from flush()
        waiting.append(request)
    yield from flush()
