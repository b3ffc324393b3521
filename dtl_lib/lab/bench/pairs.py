"""Fair comparisons of speed: everything in one process, alternating, ratios of medians with their spread."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

WARM_UP = 2  # calls that are not timed


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


def silence_kineto() -> None:
    """Keep PyTorch's profiler from reporting on itself; called before it is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _time(function: Callable, device: str) -> float:
    wait(device)
    start = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - start
