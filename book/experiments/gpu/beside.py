"""How many small models one GPU trains beside each other: each waits for Python, and the GPU for all of them."""

import multiprocessing
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from dtl_lib import ledger
from dtl_lib.config import ViTConfig
from dtl_lib.host import device_name
from dtl_lib.lab import bench

EXPERIMENT = "gpu_beside"
SECONDS = 60.0
WORTH = 0.95  # of the best rate: the smallest number of runs that reaches it is used


def what(name: str, batch: int) -> str:
    """What `measure` measures."""
    return f"{name}: training steps of {batch} images, bf16, several processes"


def measure(name: str, config: ViTConfig, batch: int, options: Namespace, counts: Sequence[int], steps: int) -> None:
    """Images a second of so many processes together, and the record of it."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(max(counts), spawn) as pool:

        def together(count: int, steps: int) -> float:
            meeting = manager.Barrier(count)
            ends = [pool.submit(_train, meeting, config, batch, options.device, steps) for _ in range(count)]
            return sum(end.result() for end in ends)

        together(max(counts), 1)  # every process is there, and has the GPU
        rates = [together(count, steps) for count in counts]
    for count, rate in zip(counts, rates):
        print(f"{count} beside each other: {rate:,.0f} images/s", flush=True)
    values = {"processes": list(counts), "images_per_s": rates}
    about = {"n": steps, "seed": None, "config": config.to_dict(), "folder": options.folder}
    ledger.add(EXPERIMENT, what(name, batch), options.command, options.device, values, **about)


def best(options: Namespace, usual: int) -> int:
    """How many runs to make beside each other: what was asked for, else by this device's record, else what is usual."""
    if options.jobs:
        return options.jobs
    name = device_name(options.device)
    runs = [run for run in ledger.read(EXPERIMENT, options.folder, missing_ok=True) if run.device == name]
    if not runs:
        return usual
    rates = dict(zip(runs[-1].get("processes"), runs[-1].get("images_per_s")))
    return min(count for count, rate in rates.items() if rate >= WORTH * max(rates.values()))


def _train(meeting, config: ViTConfig, batch: int, device: str, steps: int) -> float:
    """Images a second of this process, while the others train too."""
    bench.step_time(config, batch, steps=2, amp="bf16", device=device)
    meeting.wait(timeout=SECONDS)
    timing = bench.step_time(config, batch, steps=steps, amp="bf16", device=device)
    return batch / timing.median
