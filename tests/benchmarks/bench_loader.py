"""Images a second that the loader makes ready: photos from a folder and from shards on one core, CIFAR batches.

OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_loader [--rounds 24]
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import torch
from torchvision.transforms import v2

from dtl_lib import data, ledger
from dtl_lib.data import loader as batches
from dtl_lib.data.augment.trivial import trivial
from dtl_lib.data.sources.shards import Shards
from dtl_lib.host import keep_memory
from dtl_lib.lab.bench.pairs import measure, ratio
from dtl_lib.train import Recipe
from tests.benchmarks.pairs import parser
from tests.unit.shards import pack

BATCH, STEPS = 32, 3
PLAIN = Recipe(batch_size=BATCH, crop=1, flip=True)
DEIT = Recipe(batch_size=BATCH, crop=1, flip=True, randaugment=9, erase=0.25)  # DeiT, Touvron et al. 2021, table 9
SMALL = Recipe(batch_size=512, crop=4, flip=True, erase=0.1)
TRIVIAL = Recipe(batch_size=512, crop=4, flip=True, erase=0.1, trivial=True)
INDEXED = 2_000  # samples of a shard whose headers are read
CORES = os.cpu_count() or 1


def photo_records(rounds: int, folder=None) -> list[dict]:
    """Photos a second at 224 pixels: by augmentation, from files and from shards, on one core and on all."""
    files = data.load("imagenet", folder, image_size=224).train
    with tempfile.TemporaryDirectory() as temporary:
        shards = data.load("wds", _packed(files.source, Path(temporary)), image_size=224).train
        cases = {
            "folder, evaluation": _on_one_core(lambda: list(_evaluated(files))),
            "folder, crop and flip": _on_one_core(_passes(files, PLAIN)),
            "folder, DeiT": _on_one_core(_passes(files, DEIT)),
            "shards, DeiT": _on_one_core(_passes(shards, DEIT)),
            f"folder, DeiT, {CORES} workers": _passes(files, DEIT, CORES, 6 * CORES),
        }
        seconds = measure(cases, rounds)
    size = statistics.mean(os.path.getsize(file) for file in files.source.files)
    overhead = ratio(seconds, "shards, DeiT", "folder, DeiT")
    quartiles = overhead.value, overhead.low, overhead.high
    records = []
    for name, times in seconds.items():
        images = BATCH * STEPS * (6 * CORES if "workers" in name else 1)
        more = {"bytes_a_photo": round(size), "cores": CORES if "workers" in name else 1}
        if name.startswith("shards"):
            more["seconds_over_folder"] = [round(float(part), 4) for part in quartiles]
        records.append(_record(f"photos at 224 pixels, {name}", images, times, **more))
    return records


def cifar_records(rounds: int, folder=None) -> list[dict]:
    """CIFAR-10 batches of 512 a second on one core, with and without TrivialAugment; torchvision's one by one."""
    train, epoch = data.load("cifar10", folder).train, count()
    some, theirs = train.raw(range(512)), v2.TrivialAugmentWide()
    cases = {
        "crop, flip, erase": _on_one_core(_passes(train, SMALL, 0)),
        "crop, flip, TrivialAugment, erase": _on_one_core(_passes(train, TRIVIAL, 0)),
        "TrivialAugment alone": _on_one_core(lambda: trivial(some, (0, next(epoch)), torch.arange(512))),
        "TrivialAugment alone, torchvision's": _on_one_core(lambda: [theirs(image) for image in some]),
    }
    seconds = measure(cases, rounds)
    images = {name: 512 * (1 if "alone" in name else STEPS) for name in cases}
    return [_record(f"CIFAR-10, {name}", images[name], times, cores=1) for name, times in seconds.items()]


def index_records(rounds: int) -> list[dict]:
    """Samples of a shard indexed a second: their places and classes, on one core."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "0.tar"
        files = {}
        for number in range(INDEXED):
            files |= {f"{number:06}.jpg": bytes(100_000), f"{number:06}.cls": b"7"}
        pack(path, files)
        seconds = measure({"index": _on_one_core(lambda: Shards([path]))}, rounds)
    return [_record("samples of a shard indexed", INDEXED, seconds["index"], cores=1)]


def _packed(source, root: Path) -> Path:
    """The photos of a folder in one shard."""
    files = {}
    for number, file in enumerate(source.files):
        files |= {f"{number:06}.jpg": Path(file).read_bytes(), f"{number:06}.cls": str(source.targets[number]).encode()}
    pack(root / "train" / "0.tar", files)
    return root


def _passes(images, recipe: Recipe, workers: int = 0, times: int = 1) -> Callable:
    """A function that makes the next STEPS · times batches of training each time."""
    starts = count(step=STEPS * times)

    def run() -> None:
        start = next(starts)
        for _ in batches.training_batches(images, recipe, start, start + STEPS * times, workers):
            pass

    return run


def _evaluated(images) -> Iterator:
    return (images.batch(range(start, start + BATCH)) for start in range(0, BATCH * STEPS, BATCH))


def _on_one_core(function: Callable) -> Callable:
    def run() -> None:
        with _pinned():
            function()

    return run


@contextmanager
def _pinned():
    """The process and its threads on one core, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _record(what: str, images: int, seconds, **more) -> dict:
    low, middle, high = statistics.quantiles((images / seconds).tolist(), n=4)
    rates = {"images_per_s": middle, "images_per_s_low_quartile": low, "images_per_s_high_quartile": high}
    return {"what": what, "n": len(seconds), "values": {name: round(rate, 1) for name, rate in rates.items()} | more}


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--path", help="folder of ImageNet's photos")
    asked = options.parse_args()
    keep_memory()
    made = {
        "photos": lambda: photo_records(asked.rounds, asked.path),
        "cifar": lambda: cifar_records(asked.rounds),
        "index": lambda: index_records(asked.rounds),
    }
    for name in made:
        for record in made[name]() if asked.only in name else ():
            print(record["what"], f"n={record['n']}", record["values"], flush=True)
            if asked.record:
                threads = f"OMP_NUM_THREADS={torch.get_num_threads()} "
                command = f"{threads}python -m tests.benchmarks.bench_loader --rounds {asked.rounds} --record"
                ledger.add(
                    "speed_of_loading", record["what"], command, "cpu", record["values"], n=record["n"], seed=None
                )


if __name__ == "__main__":
    main()
