"""Images a second: CIFAR batches against torchvision's Dataset and DataLoader with two workers, and generated shapes.

python -m tests.benchmarks.bench_data [--pairs 20]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Subset
from torchvision import transforms as v1
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2

from dtl_lib import data, ledger
from dtl_lib.config import CIFAR_MEAN, CIFAR_STD
from dtl_lib.data.shapes.generator import LEVELS

BATCH = 512
THEIR_IMAGES = 10_240  # a loader's workers stay up between measurements; this many take it about a second
SHAPES = 4_000


def cifar_records(pairs: int = 20, path=None) -> list[dict]:
    """Random crop with a mirrored border of 4, flip, normalise: one thread of ours over torchvision's two workers.

    The control is ours against ours. Each record: `what`, `n` (pairs), `values` (medians, quartiles, images a second).
    """
    train = data.load("cifar10", path).train
    ours = _ours(train)
    theirs = {name: _theirs(train, transform) for name, transform in _transforms().items()}
    with _one_thread():
        records = [_compare("itself", ours, ours, pairs)]
        return records + [_compare(f"torchvision {name}", ours, loader, pairs) for name, loader in theirs.items()]


def shapes_records(repeats: int = 20) -> list[dict]:
    """Pictures of 32 × 32 drawn a second on one core, by level, in batches of 32 and of 1,000."""
    with _one_thread():
        return [_drawn(level, batch, repeats) for level in LEVELS for batch in (32, 1000)]


@contextmanager
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _drawn(level: int, batch: int, repeats: int) -> dict:
    shapes = data.Shapes(level=level)
    chunks = torch.arange(SHAPES).split(batch)

    def draw() -> int:
        return sum(len(shapes.raw(chunk)) for chunk in chunks)

    draw()
    rates = _summary("images_per_second", [_rate(draw) for _ in range(repeats)])
    return {"what": f"shapes, level {level}, batches of {batch}, one core", "n": repeats, "values": rates}


def _compare(what: str, ours: Callable, other: Callable, pairs: int) -> dict:
    ours(), other()
    rates = []
    for pair in range(pairs):
        order = (ours, other) if pair % 2 else (other, ours)
        first, second = (_rate(run) for run in order)
        rates.append((first, second) if pair % 2 else (second, first))
    mine, theirs = zip(*rates, strict=True)
    ratios = [ours / theirs for ours, theirs in rates]
    values = _summary("ratio", ratios) | _summary("ours", list(mine)) | _summary("other", list(theirs))
    return {"what": f"CIFAR-10 training batches of {BATCH} against {what}", "n": pairs, "values": values}


def _ours(train) -> Callable[[], int]:
    augment, epoch = data.Augment(crop=4, flip=True), iter(range(10**9))

    def run() -> int:
        key = (0, next(epoch))
        order = data.keyed.permutation(len(train), key)
        return sum(len(train.batch(chunk, augment, key)[0]) for chunk in order.split(BATCH))

    return run


def _theirs(train, transform) -> Callable[[], int]:
    dataset = _AsTorchvision(train, transform)
    subset = Subset(dataset, range(THEIR_IMAGES))
    loader = DataLoader(subset, BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    return lambda: sum(len(x) for x, _ in loader)


class _AsTorchvision(CIFAR10):
    """torchvision's data set with our training images, so that both read the same ones through its `__getitem__`."""

    def __init__(self, train, transform):
        self.data = train.raw(range(len(train))).movedim(1, -1).contiguous().numpy()
        self.targets = train.labels(range(len(train))).tolist()
        self.transform, self.target_transform = transform, None


def _transforms() -> dict[str, Callable]:
    old = [
        v1.RandomCrop(32, 4, padding_mode="reflect"),
        v1.RandomHorizontalFlip(),
        v1.ToTensor(),
        v1.Normalize(CIFAR_MEAN, CIFAR_STD),
    ]
    new = [
        v2.ToImage(),
        v2.RandomCrop(32, 4, padding_mode="reflect"),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(CIFAR_MEAN, CIFAR_STD),
    ]
    return {"v1": v1.Compose(old), "v2": v2.Compose(new)}


def _rate(run: Callable[[], int]) -> float:
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def _summary(name: str, numbers: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(numbers, n=4)
    return {name: round(middle, 3), f"{name}_low_quartile": round(low, 3), f"{name}_high_quartile": round(high, 3)}


def test_cifar_batches_are_fifteen_times_torchvisions():
    control, *others = cifar_records()
    print(*(record for record in (control, *others)), sep="\n")
    assert 0.9 < control["values"]["ratio"] < 1.1
    assert all(record["values"]["ratio"] >= 15 for record in others)


def test_shapes_are_drawn_five_thousand_a_second():
    records = shapes_records()
    print(*records, sep="\n")
    assert all(record["values"]["images_per_second"] >= 5000 for record in records)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--path", help="folder of CIFAR-10")
    parser.add_argument("--record", action="store_true", help="append the results to the ledger")
    asked = parser.parse_args()
    for line in (*shapes_records(asked.pairs), *cifar_records(asked.pairs, asked.path)):
        print(line["what"], f"n={line['n']}", line["values"])
        if asked.record:
            command = f"python -m tests.benchmarks.bench_data --pairs {asked.pairs} --record"
            ledger.add("speed_of_data", line["what"], command, "cpu", line["values"], n=line["n"], seed=None)
