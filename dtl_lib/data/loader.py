"""Which images at which step, and how they get to the device."""

import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice

import torch
from torch import Tensor

from ..host import usable_cores
from . import keyed
from .corrupt import CorruptImages
from .files import ImageFiles
from .kept import KeptWorkers, Requests

PIECE = 64  # images a worker hands over at a time
AT_ONCE = 256  # images made together: a sample's pixels do not depend on its batch, and small batches have overhead
PIXELS_ON_A_GPU = 2**23  # made together there, where the overhead is the launch of every operation
PREFETCH = 4  # pieces that a worker makes before they are asked for
SHARED_MEMORY = "/dev/shm"  # where Linux keeps what processes share
WORKER_TIMEOUT = 600.0  # seconds without a piece, after which the workers count as hung
SIGNAL_DELAY = 1.0  # seconds from the end of a worker's connection to the signal that it has ended, at most
MAX_WORKERS = 16  # processes, unless more are asked for


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


def training_batches(
    images, recipe, step: int, total: int, workers: int | None = None, *, rank: int = 0, world_size: int = 1,
    corrupt: CorruptImages | None = None, device: torch.device | None = None, cores: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Augmented batches `(batch, 3, height, width)`, `(batch,)` of every step from `step` on.

    A step takes `recipe.batch_size` images, whatever the number of processes: process `rank` of `world_size` gets its
    slice of batch_size / world_size of them. Where the recipe mixes images with their neighbours and there are several
    processes, the slice begins with the image before it, which `mixer` needs and then drops.

    With `recipe.repeats` an image is in a batch that many times, each copy augmented on its own (Hoffer et al. 2020,
    Augment your batch, §3): all first copies, then all second ones, cut to batch_size. As in DeiT (Touvron et al.
    2021), an epoch has as many steps as without and so sees about one image in `repeats`.

    With `corrupt` an image that cannot be read is counted there and replaced by the next one by number. Images from
    worker processes are moved to `device`; where `workers` is None and files are read, each of `cores` gets one.

    Raises:
        ValueError: where `world_size` does not divide the batch; while iterating, where an image cannot be read and
            `corrupt` is None or has counted too many.
    """
    batch_size = recipe.batch_size
    if batch_size % world_size:
        near = [str(times * world_size) for times in (batch_size // world_size, batch_size // world_size + 1) if times]
        raise ValueError(
            f"batch_size={batch_size} cannot be shared by {world_size} processes: take {' or '.join(near)}"
        )
    augment, share = recipe.augment(), batch_size // world_size
    neighbour = int(world_size > 1 and bool(recipe.mixup or recipe.cutmix))
    places = torch.arange(rank * share - neighbour, (rank + 1) * share) % batch_size
    order = indices(len(images), batch_size, recipe.seed, step, total, recipe.repeats)
    steps = (_requests(epoch, samples, places, augment, recipe) for epoch, samples in order)
    if workers is None and (recipe.slow_augmentation or isinstance(images, ImageFiles)):
        workers = _default_workers(cores)
    return _load(images, steps, share, workers or 0, corrupt, device, replace=True)


def evaluation_batches(
    images, batch_size: int, workers: int | None = None, *, rank: int = 0, world_size: int = 1,
    corrupt: CorruptImages | None = None, device: torch.device | None = None, cores: int | None = None,
    kept: KeptWorkers | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Images rank, rank + world_size, … without augmentation, in batches of at most `batch_size`: each on one process.

    With `corrupt` an image that cannot be read is counted there and left out. `device` and `cores` are as in
    `training_batches`. Worker processes in `kept` are used again.
    """
    if workers is None and isinstance(images, ImageFiles):
        workers = _default_workers(cores)
    parts = torch.arange(len(images))[rank::world_size].split(batch_size)
    steps = ([(part, None, None)] for part in parts if len(part))
    return (
        batch
        for batch in _load(images, steps, batch_size, workers or 0, corrupt, device, replace=False, kept=kept)
        if len(batch[1])
    )


def _requests(epoch: int, samples: Tensor, places: Tensor, augment, recipe) -> list[tuple]:
    """(samples, augmentation, key) for each copy of the samples that lie at `places` of a batch."""
    copies, positions = places // len(samples), places % len(samples)
    numbers, lengths = copies.unique_consecutive(return_counts=True)
    runs = zip(numbers.tolist(), samples[positions].split(lengths.tolist()))
    key = recipe.seed, epoch
    return [(run, augment, (*key, copy) if recipe.repeats > 1 else key) for copy, run in runs]


def _default_workers(cores: int | None) -> int:
    """Worker processes for this process, which can count on so many cores; None is all that it may use."""
    return min(MAX_WORKERS, cores or len(usable_cores()))


def _load(
    images,
    steps,
    batch_size: int,
    workers: int,
    corrupt: CorruptImages | None,
    device,
    replace: bool,
    kept: KeptWorkers | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches: made in this process for images in memory, by worker processes for images in files."""
    read = images.batch if corrupt is None else partial(corrupt.batch, images, replace=replace)
    on_gpu = images.device.type == "cuda"
    if not workers or on_gpu:  # a process that is forked cannot use its parent's GPU
        singly = corrupt is not None and not replace  # batches that may come back shorter cannot be made together
        at_once = max(AT_ONCE, PIXELS_ON_A_GPU // math.prod(images.image_size)) if on_gpu else AT_ONCE
        yield from _read_together(read, iter(steps), 1 if singly else max(1, at_once // batch_size))
        return
    counts = deque()
    loader = kept.again(images, corrupt, workers) if kept is not None else None
    if loader is None:
        _check_shared_memory(images, batch_size, workers, 2 if replace else 1)
        loader = torch.utils.data.DataLoader(
            _PieceDataset(images, read, corrupt), sampler=Requests(), batch_size=None, num_workers=workers,
            prefetch_factor=PREFETCH, pin_memory=device is not None and device.type == "cuda",
            worker_init_fn=_start_worker, timeout=WORKER_TIMEOUT, persistent_workers=kept is not None,
        )  # fmt: skip
        if kept is not None:
            kept.loader = loader
    loader.sampler.pieces = _pieces(steps, counts)
    pieces = []
    for piece in _receive(loader):
        if isinstance(piece, Exception):
            raise piece
        *tensors, corrupt_names = piece
        if corrupt_names:
            corrupt.record(images, corrupt_names)
        pieces.append([tensor.to(device, non_blocking=True) for tensor in tensors])  # joined first, they lose the pin
        if len(pieces) == counts[0]:
            yield _join(pieces)
            pieces = []
            counts.popleft()


def _receive(loader) -> Iterator:
    """The pieces that workers deliver; torch's RuntimeError about a DataLoader worker where one has died or hangs."""
    try:
        yield from loader
    except (OSError, EOFError) as error:
        why = f"DataLoader worker is gone ({type(error).__name__})"
        with suppress(RuntimeError):  # torch raises one when the signal comes, wherever the process is by then
            time.sleep(SIGNAL_DELAY)
        raise RuntimeError(why) from None
    except RuntimeError as error:
        if "timed out" not in str(error):
            raise
        raise RuntimeError(f"DataLoader worker has delivered nothing for {WORKER_TIMEOUT:g} s") from None


def _check_shared_memory(images, batch_size: int, workers: int, loaders: int) -> None:
    """A ValueError where shared memory, through which workers hand images over, is too small for what may wait there.

    Args:
        loaders: at work at the same time: during an evaluation the training loader's pieces wait.
    """
    if not os.path.isdir(SHARED_MEMORY):
        return
    pieces = workers * PREFETCH + -(-batch_size // PIECE)
    need = loaders * pieces * min(PIECE, batch_size) * 3 * math.prod(images.image_size) * 4  # float32
    need *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    file_system = os.statvfs(SHARED_MEMORY)
    if (free := file_system.f_bavail * file_system.f_frsize) < need:
        raise ValueError(
            f"{SHARED_MEMORY} has {free / 2**20:,.1f} MiB free and {workers} workers may need {need / 2**20:,.1f} of "
            "it: give fewer --workers (0 needs none), or make it larger (docker run --shm-size)"
        )


def _join(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return tuple(torch.cat(tensors) if len(parts) > 1 else tensors[0] for tensors in zip(*parts))


def _pieces(steps, counts: deque) -> Iterator:
    """Requests for batches, cut into pieces small enough to prefetch; how many each batch has goes to `counts`.

    Samples travel as NumPy arrays: sending a tensor starts a thread here, which the death of a worker would upset.
    """
    for step in steps:
        pieces = [(piece.numpy(), augment, key) for samples, augment, key in step for piece in samples.split(PIECE)]
        counts.append(len(pieces))
        yield from pieces


class _PieceDataset(torch.utils.data.Dataset):
    """A data set whose items are pieces of batches: (samples, augment, key) → images, labels, names of corrupt images.

    An error is an item too: if raised, it would come back with the worker's traceback as its text.
    """

    def __init__(self, images, read: Callable, corrupt: CorruptImages | None):
        self.images, self.read, self.corrupt = images, read, corrupt

    def is_of(self, images, corrupt: CorruptImages | None, *workers: int) -> bool:
        """Whether these are the images that the workers have, and as many workers are asked for as there are."""
        same = vars(images).keys() == vars(self.images).keys()
        same = same and all(value is getattr(self.images, name) for name, value in vars(images).items())
        return same and corrupt is self.corrupt and len(set(workers)) == 1

    def __getitem__(self, request):
        samples, augment, key = request
        before = len(self.corrupt or ())
        try:
            x, y = self.read(torch.from_numpy(samples), augment=augment, key=key)
        except (ValueError, OSError) as error:
            return error
        return x, y, self.corrupt.names_of(self.images) if len(self.corrupt or ()) > before else {}


def _start_worker(worker: int) -> None:
    """Leave stopping to the parent: Ctrl-C, a closed terminal, torchrun and Slurm signal workers too, while the parent
    still needs them for the step it finishes.

    The parent alone reports why it ended: the worker's queue thread would print a traceback about it.
    """
    sys.excepthook = _ignore_lost_parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on every system
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_parents_sigterm, daemon=True).start()


def _ignore_lost_parent(kind, error, traceback) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, traceback)


def _exit_on_parents_sigterm() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _read_together(read: Callable, steps: Iterator, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, made `count` at a time: samples with the same augmentation and key are read in one call."""
    while group := list(islice(steps, count)):
        alike: dict[tuple, list[Tensor]] = {}
        for samples, augment, key in chain(*group):
            alike.setdefault((augment, key), []).append(samples)
        parts = {shared: _read_parts(read, samples, *shared) for shared, samples in alike.items()}
        for step in group:
            yield _join([next(parts[augment, key]) for _, augment, key in step])


def _read_parts(read: Callable, parts: list[Tensor], augment, key) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = read(torch.cat(parts), augment=augment, key=key)
    if len(parts) == 1:
        return iter([(x, y)])
    sizes = [len(part) for part in parts]
    return zip(x.split(sizes), y.split(sizes))
