"""Which images at which step, and how they get to the device."""

import os
import signal
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice

import torch
from torch import Tensor

from ..data import keyed
from ..data.decoded import Decoded

PIECE = 64  # images a worker hands over at a time
AT_ONCE = 256  # images made together: a sample's pixels do not depend on its batch, and small batches cost overhead
STREAM = "order"


def indices(
    images: int, batch_size: int, seed: int, step: int, total: int, repeats: int = 1
) -> Iterator[tuple[int, Tensor]]:
    """(epoch, samples) of every step from `step` on; the order of an epoch is keyed by (seed, epoch).

    Args:
        repeats: times that each of the samples is in the batch, which then holds ceil(batch_size / repeats) of them;
            an epoch has as many steps as without, and so sees about one image in `repeats`.
    """
    per_epoch, distinct, order, shuffled = images // batch_size, -(-batch_size // repeats), None, None
    for now in range(step, total):
        epoch, place = divmod(now, per_epoch)
        if epoch != shuffled:
            order, shuffled = keyed.permutation(images, (seed, epoch), STREAM), epoch
        yield epoch, order[place * distinct : (place + 1) * distinct]


def training(
    images, recipe, step: int, total: int, workers: int | None = None, *, rank: int = 0, world: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches `(batch, 3, height, width)`, `(batch,)` of every step from `step` on.

    `recipe.batch_size` images are one step's, whatever the number of processes: process `rank` of `world` gets its
    run of batch_size / world of them. Where the recipe mixes images with their neighbours and there are several
    processes, the image before the first comes with them, first: `mixer` says what becomes of it.

    With `recipe.repeats` an image is in a batch that many times, each copy augmented on its own (Hoffer et al. 2020,
    Augment your batch, §3): all first copies, then all second ones, cut to batch_size. As in DeiT (Touvron et al.
    2021), an epoch has as many steps as without and so sees about one image in `repeats`.

    Raises:
        ValueError: where `world` does not divide the batch.
    """
    whole = recipe.batch_size
    if whole % world:
        near = [str(times * world) for times in (whole // world, whole // world + 1) if times]
        raise ValueError(f"batch_size={whole} cannot be shared by {world} processes: take {' or '.join(near)}")
    augment, share = recipe.augment(), whole // world
    places = torch.arange(rank * share - bool(world > 1 and (recipe.mixup or recipe.cutmix)), (rank + 1) * share)
    asked = indices(len(images), whole, recipe.seed, step, total, recipe.repeats)
    steps = (_requests(epoch, samples, places % whole, augment, recipe) for epoch, samples in asked)
    if workers is None and recipe.slow_augmentation:
        workers = _cores()
    return _load(images, steps, share, workers)


def in_order(
    images, batch_size: int, workers: int | None = None, *, rank: int = 0, world: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images rank, rank + world, … as they are, in batches of at most `batch_size`: each is in one process alone."""
    parts = torch.arange(len(images))[rank::world].split(batch_size)
    return _load(images, ([(part, None, None)] for part in parts if len(part)), batch_size, workers)


def _requests(epoch: int, samples: Tensor, places: Tensor, augment, recipe) -> list[tuple]:
    """(samples, augmentation, key) of the copies that lie at `places` of a batch."""
    copies, which = places // len(samples), places % len(samples)
    numbers, lengths = copies.unique_consecutive(return_counts=True)
    runs = zip(numbers.tolist(), samples[which].split(lengths.tolist()))
    key = recipe.seed, epoch
    return [(run, augment, (*key, copy) if recipe.repeats > 1 else key) for copy, run in runs]


def _cores() -> int:
    """Worker processes for this process: those of one machine share its cores."""
    return max(1, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def _load(images, steps, batch_size: int, workers: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches asked for: made here for images in memory, by worker processes for images in files."""
    if workers is None:
        workers = _cores() if isinstance(images, Decoded) else 0
    if not workers:
        yield from _several(images, iter(steps), max(1, AT_ONCE // batch_size))
        return
    counts = deque()
    loader = torch.utils.data.DataLoader(
        _Asked(images), sampler=_pieces(steps, counts), batch_size=None, num_workers=workers, prefetch_factor=4,
        pin_memory=torch.cuda.is_available(), worker_init_fn=_leave_interrupts_to_the_parent,
    )  # fmt: skip
    made = []
    for piece in loader:
        if isinstance(piece, Exception):
            raise piece
        made.append(piece)
        if len(made) == counts[0]:
            yield _joined(made)
            made = []
            counts.popleft()


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return parts[0] if len(parts) == 1 else tuple(torch.cat(tensors) for tensors in zip(*parts))


def _pieces(steps, counts: deque) -> Iterator:
    """The batches asked for, in pieces that can wait in memory by the dozen; how many each has goes to `counts`."""
    for step in steps:
        pieces = [(piece, *how) for samples, *how in step for piece in samples.split(PIECE)]
        counts.append(len(pieces))
        yield from pieces


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


def _several(images, steps: Iterator, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches made `count` at a time, what shares augmentation and key together."""
    while together := list(islice(steps, count)):
        asked: dict[tuple, list[Tensor]] = {}
        for samples, *how in chain(*together):
            asked.setdefault(tuple(how), []).append(samples)
        made = {how: _made(images, parts, *how) for how, parts in asked.items()}
        for step in together:
            yield _joined([next(made[tuple(how)]) for _, *how in step])


def _made(images, parts: list[Tensor], augment, key) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = images.batch(torch.cat(parts), augment=augment, key=key)
    sizes = [len(part) for part in parts]
    return zip(x.split(sizes), y.split(sizes))
