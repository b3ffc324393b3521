"""Which images at which step, and how they get to the device."""

import math
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice

import torch
from torch import Tensor

from ..host import usable_cores
from . import keyed
from .corrupt import CorruptImages
from .decoded import Decoded

PIECE = 64  # images a worker hands over at a time
AT_ONCE = 256  # images made together: a sample's pixels do not depend on its batch, and small batches cost overhead
PIXELS_ON_A_GPU = 2**23  # made together there, where the overhead is a launch for each of many operations
AHEAD = 4  # pieces that a worker makes before they are asked for
SHARED = "/dev/shm"  # where Linux keeps what processes share
STANDSTILL = 600.0  # seconds without a piece, after which the workers are given up
MOST = 16  # worker processes, unless more are asked for


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
            order, shuffled = keyed.permutation(images, (seed, epoch)), epoch
        yield epoch, order[place * distinct : (place + 1) * distinct]


def training(
    images, recipe, step: int, total: int, workers: int | None = None, *, rank: int = 0, world: int = 1,
    corrupt: CorruptImages | None = None, device: torch.device | None = None, cores: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Augmented batches `(batch, 3, height, width)`, `(batch,)` of every step from `step` on.

    `recipe.batch_size` images are one step's, whatever the number of processes: process `rank` of `world` gets its
    run of batch_size / world of them. Where the recipe mixes images with their neighbours and there are several
    processes, the image before the first comes with them, first: `mixer` says what becomes of it.

    With `recipe.repeats` an image is in a batch that many times, each copy augmented on its own (Hoffer et al. 2020,
    Augment your batch, §3): all first copies, then all second ones, cut to batch_size. As in DeiT (Touvron et al.
    2021), an epoch has as many steps as without and so sees about one image in `repeats`.

    With `broken` a picture that cannot be read is counted there, and the next one by number takes its place. Worker
    processes' images come to `device`; where `workers` is None and files are read, there is one for each of `cores`.

    Raises:
        ValueError: where `world` does not divide the batch; on the way, where a picture cannot be read and there is
            no `broken`, or it has counted too many.
    """
    whole = recipe.batch_size
    if whole % world:
        near = [str(times * world) for times in (whole // world, whole // world + 1) if times]
        raise ValueError(f"batch_size={whole} cannot be shared by {world} processes: take {' or '.join(near)}")
    augment, share = recipe.augment(), whole // world
    places = torch.arange(rank * share - bool(world > 1 and (recipe.mixup or recipe.cutmix)), (rank + 1) * share)
    asked = indices(len(images), whole, recipe.seed, step, total, recipe.repeats)
    steps = (_requests(epoch, samples, places % whole, augment, recipe) for epoch, samples in asked)
    if workers is None and (recipe.slow_augmentation or isinstance(images, Decoded)):
        workers = _workers(cores)
    return _load(images, steps, share, workers or 0, corrupt, device, replace=True)


def evaluation_batches(
    images, batch_size: int, workers: int | None = None, *, rank: int = 0, world: int = 1,
    corrupt: CorruptImages | None = None, device: torch.device | None = None, cores: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Images rank, rank + world, … as they are, in batches of at most `batch_size`: each is in one process alone.

    With `broken` a picture that cannot be read is counted there, and left out. `device` and `cores` are as in
    `training`.
    """
    if workers is None and isinstance(images, Decoded):
        workers = _workers(cores)
    parts = torch.arange(len(images))[rank::world].split(batch_size)
    steps = ([(part, None, None)] for part in parts if len(part))
    return (
        batch
        for batch in _load(images, steps, batch_size, workers or 0, corrupt, device, replace=False)
        if len(batch[1])
    )


def _requests(epoch: int, samples: Tensor, places: Tensor, augment, recipe) -> list[tuple]:
    """(samples, augmentation, key) of the copies that lie at `places` of a batch."""
    copies, which = places // len(samples), places % len(samples)
    numbers, lengths = copies.unique_consecutive(return_counts=True)
    runs = zip(numbers.tolist(), samples[which].split(lengths.tolist()))
    key = recipe.seed, epoch
    return [(run, augment, (*key, copy) if recipe.repeats > 1 else key) for copy, run in runs]


def _workers(cores: int | None) -> int:
    """Worker processes for this process, which has so many cores to itself; None is all that it may use."""
    return min(MOST, cores or len(usable_cores()))


def _load(
    images, steps, batch_size: int, workers: int, corrupt: CorruptImages | None, device, replace: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches asked for: made here for images in memory, by worker processes for images in files."""
    read = images.batch if corrupt is None else partial(corrupt.batch, images, replace=replace)
    on_gpu = images.device.type == "cuda"
    if not workers or on_gpu:  # a process that is forked cannot use its parent's GPU
        alone = corrupt is not None and not replace  # a batch that may come back shorter cannot be cut out of several
        at_once = max(AT_ONCE, PIXELS_ON_A_GPU // math.prod(images.image_size)) if on_gpu else AT_ONCE
        yield from _several(read, iter(steps), 1 if alone else max(1, at_once // batch_size))
        return
    _room(images, batch_size, workers, 2 if replace else 1)
    counts = deque()
    loader = torch.utils.data.DataLoader(
        _Asked(images, read, corrupt), sampler=_pieces(steps, counts), batch_size=None, num_workers=workers,
        prefetch_factor=AHEAD, pin_memory=device is not None and device.type == "cuda",
        worker_init_fn=_leave_to_the_parent, timeout=STANDSTILL,
    )  # fmt: skip
    made = []
    for piece in _received(loader):
        if isinstance(piece, Exception):
            raise piece
        *batch, found = piece
        if found:
            corrupt.add(images, found)
        made.append([tensor.to(device, non_blocking=True) for tensor in batch])  # a copy made here would not be pinned
        if len(made) == counts[0]:
            yield _joined(made)
            made = []
            counts.popleft()


def _received(loader) -> Iterator:
    """What the workers hand over; where one is gone or stands still, torch's RuntimeError about a DataLoader worker."""
    try:
        yield from loader
    except (OSError, EOFError) as error:
        raise RuntimeError(f"DataLoader worker is gone ({type(error).__name__})") from None
    except RuntimeError as error:
        if "timed out" not in str(error):
            raise
        raise RuntimeError(f"DataLoader worker has handed over nothing for {STANDSTILL:g} s") from None


def _room(images, batch_size: int, workers: int, loaders: int) -> None:
    """A ValueError where the shared memory, in which images are handed over, does not hold what workers may put there.

    Args:
        loaders: at work at a time: while the held-out images are looked at, what was made for training waits.
    """
    if not os.path.isdir(SHARED):
        return
    pieces = workers * AHEAD + -(-batch_size // PIECE)
    need = loaders * pieces * min(PIECE, batch_size) * 3 * math.prod(images.image_size) * 4  # float32
    need *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    found = os.statvfs(SHARED)
    if (free := found.f_bavail * found.f_frsize) < need:
        raise ValueError(
            f"{SHARED} has {free / 2**20:,.1f} MiB free and {workers} workers may need {need / 2**20:,.1f} of it: give "
            "fewer --workers (0 needs none), or make it larger (docker run --shm-size)"
        )


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return tuple(torch.cat(tensors) if len(parts) > 1 else tensors[0] for tensors in zip(*parts))


def _pieces(steps, counts: deque) -> Iterator:
    """The batches asked for, in pieces that can wait in memory by the dozen; how many each has goes to `counts`.

    Samples are asked for by NumPy arrays: a tensor would need a thread here, which a worker's death would upset.
    """
    for step in steps:
        pieces = [(piece.numpy(), *how) for samples, *how in step for piece in samples.split(PIECE)]
        counts.append(len(pieces))
        yield from pieces


class _Asked(torch.utils.data.Dataset):
    """A data set whose items are pieces of batches: (samples, augmentation, key) → images, labels and what is broken.

    An error is an item too: raised here, it would come back with the worker's traceback as its text.
    """

    def __init__(self, images, read: Callable, corrupt: CorruptImages | None):
        self.images, self.read, self.corrupt = images, read, corrupt

    def __getitem__(self, request):
        samples, augment, key = request
        before = len(self.corrupt or ())
        try:
            x, y = self.read(torch.from_numpy(samples), augment=augment, key=key)
        except (ValueError, OSError) as error:
            return error
        return x, y, self.corrupt.of(self.images) if len(self.corrupt or ()) > before else {}


def _leave_to_the_parent(worker: int) -> None:
    """Ctrl-C, a closed terminal, torchrun and Slurm reach all; a worker is needed for what its parent then finishes.

    And the parent alone says why it ended: the thread that hands images over would print a traceback about it.
    """
    sys.excepthook = _say_nothing_of_a_parent_that_is_gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on every system
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says_so, daemon=True).start()


def _say_nothing_of_a_parent_that_is_gone(kind, error, traceback) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, traceback)


def _end_when_the_parent_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _several(read: Callable, steps: Iterator, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches made `count` at a time, what shares augmentation and key together."""
    while together := list(islice(steps, count)):
        asked: dict[tuple, list[Tensor]] = {}
        for samples, *how in chain(*together):
            asked.setdefault(tuple(how), []).append(samples)
        made = {how: _made(read, parts, *how) for how, parts in asked.items()}
        for step in together:
            yield _joined([next(made[tuple(how)]) for _, *how in step])


def _made(read: Callable, parts: list[Tensor], augment, key) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = read(torch.cat(parts), augment=augment, key=key)
    if len(parts) == 1:
        return iter([(x, y)])
    sizes = [len(part) for part in parts]
    return zip(x.split(sizes), y.split(sizes))
