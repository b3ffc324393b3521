"""Change, run, explain for chapter 20: the steps of two shapes of a model, on the clock in turn."""

import statistics
from collections.abc import Callable

import torch

from ...config import ViTConfig
from ...exercises import is_stub
from .step import BenchConfig, make_step
from .timing import step_seconds


def compare_steps(
    config: ViTConfig, wide: Callable[[ViTConfig], ViTConfig], batch: int, device: str, rounds: int = 5
) -> None:
    """Time training steps of a model and of `wide(config)` in turn, and print both; a stub times nothing.

    Args:
        config: the deep model.
        wide: returns the other configuration.
        batch: images a step.
        device: "cuda", "cpu", …
        rounds: timed steps of each; the median counts.
    """
    if is_stub(wide):
        print("not attempted")
        return
    models = {"deep": config, "wide": wide(config)}
    makes = {name: make_step(one, BenchConfig(batch, device=device)) for name, one in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for warm_up in [1] + [0] * (rounds - 1):
        for name, run in makes.items():  # in turn: a busy moment of the machine meets both
            seconds[name] += step_seconds(run, 1, torch.device(device), warm_up=warm_up)
    print("       M multiply–adds   images/s   GFLOP/s")
    for name, one in models.items():
        total, speed = one.cost().total, batch / statistics.median(seconds[name])
        print(f"{name} {total / 1e6:17.0f} {speed:12,.1f} {6 * total * speed / 1e9:9,.0f}")
