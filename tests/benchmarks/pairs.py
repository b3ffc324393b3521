"""Fair comparisons of speed: everything in one process, alternating, ratios of medians with their spread."""

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch

WARM_UP = 2


@dataclass(frozen=True)
class Ratio:
    """How much longer `slow` takes than `fast`: ratio of medians, with a 95 % bootstrap interval over rounds."""

    slow: str
    fast: str
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def measure(functions: Mapping[str, Callable], rounds: int, device: str = "cpu") -> dict[str, np.ndarray]:
    """Seconds that each function takes in each round.

    Every round runs every function once; the order turns by one each round and is reversed every other round, so that
    none is always first, and a machine that slows down slows down all of them.
    """
    for function in functions.values():
        for _ in range(WARM_UP):
            function()
    names, seconds = list(functions), {name: [] for name in functions}
    for number in range(rounds):
        start = number // 2 % len(names)
        order = names[start:] + names[:start]
        for name in order if number % 2 == 0 else order[::-1]:
            seconds[name].append(_time(functions[name], device))
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(seconds: Mapping[str, np.ndarray], slow: str, fast: str, resamples: int = 4000) -> Ratio:
    """`slow` over `fast`, medians over rounds; rounds are drawn again in pairs, as both saw the same machine."""
    a, b = seconds[slow], seconds[fast]
    drawn = np.random.default_rng(0).integers(len(a), size=(resamples, len(a)))
    low, high = np.quantile(np.median(a[drawn], axis=1) / np.median(b[drawn], axis=1), (0.025, 0.975))
    return Ratio(slow, fast, statistics.median(a) / statistics.median(b), float(low), float(high), len(a))


def steady() -> None:
    """Start this process again with an allocator that keeps its memory.

    glibc gives the top of the heap back and takes it again page by page, at moments that depend on what ran before:
    that costs up to a third of a forward pass here and hits whoever comes next.
    """
    kept = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
    if not kept.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | kept)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all speed comparisons share."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--rounds", type=int, default=24, help="alternating rounds; a claim takes 20 or more")
    options.add_argument("--device", default="cpu")
    options.add_argument("--only", default="", help="run only cases whose name holds this")
    options.add_argument("--record", action="store_true", help="append the results to the ledger")
    return options


def report(case: str, seconds: Mapping[str, np.ndarray], ratios: Mapping[str, tuple[Ratio, str]]) -> None:
    """Print medians, and each ratio beside what is expected of it."""
    print(f"\n{case}")
    for name, values in seconds.items():
        print(f"  {name:<34} {1e3 * statistics.median(values):9.2f} ms")
    for name, (value, expected) in ratios.items():
        print(f"  {name:<34} {value!s:<24} {expected}")


def values(seconds: Mapping[str, np.ndarray], ratios: Mapping[str, Ratio], **more: float) -> dict:
    """What a ledger record keeps: medians in ms, and value, low and high of each ratio."""
    medians = {f"{_word(name)}_ms": round(1e3 * statistics.median(times), 4) for name, times in seconds.items()}
    found = {_word(name): [round(part, 4) for part in (r.value, r.low, r.high)] for name, r in ratios.items()}
    return {**medians, **found, "threads": torch.get_num_threads(), **more}


def record(module: str, options: argparse.Namespace, what: str, values: Mapping, config=None) -> None:
    """Append one record of the experiment `speed` to the ledger."""
    from dtl_lib import __version__, ledger

    command = ["python", "-m", f"tests.benchmarks.{module}", "--rounds", str(options.rounds), "--record"]
    command += ["--device", options.device] if options.device != "cpu" else []
    threads = os.environ.get("OMP_NUM_THREADS")
    ledger.append(
        ledger.Record(
            experiment="speed",
            what=what,
            command=(f"OMP_NUM_THREADS={threads} " if threads else "") + shlex.join(command),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            device=ledger.device_name(options.device),
            library=__version__,
            torch=torch.__version__,
            seed=None,
            n=options.rounds,
            values=dict(values),
            config=None if config is None else config.to_dict(),
        )
    )


def _time(function: Callable, device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _word(name: str) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name).split())
