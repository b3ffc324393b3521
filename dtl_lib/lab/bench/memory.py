"""The memory that a step takes at its peak, measured: on a GPU by its allocator, on a CPU from every allocation."""

from collections.abc import Callable
from itertools import accumulate

import torch

from ...config import ViTConfig
from ...host import find_device
from .pairs import silence_kineto, wait
from .step import BenchConfig, make_step, trainable

STEPS = 2  # the optimiser's averages are made in the first step, so the second is the largest


def step_memory(config: ViTConfig, batch_size: int, **how) -> int:
    """Bytes that tensors take at the peak of a step: weights, averages, the images and what the step makes.

    Args:
        config: the model; without classes it is given ImageNet's thousand where it is trained.
        batch_size: images a step.
        how: the other fields of `BenchConfig`; `training=False` measures a forward pass without gradients.

    Raises:
        ValueError: as `BenchConfig`.
    """
    how = BenchConfig(batch_size, **how)
    config = trainable(config) if how.training else config

    def steps() -> None:
        run = make_step(config, how)
        for _ in range(STEPS):
            run()

    return peak_bytes(steps, how.device)


def peak_bytes(run: Callable[[], object], device: str | None = None) -> int:
    """The most bytes of tensors that are alive at one time while a function runs, beyond those from before.

    Exact for what PyTorch allocates: the same in every run. What libraries under it take for themselves is not seen.

    Args:
        run: makes and leaves tensors.
        device: whose memory, as in `BenchConfig`.
    """
    place = find_device(device)
    if place.type == "cuda":
        wait(str(place))
        held = torch.cuda.memory_allocated(place)
        torch.cuda.reset_peak_memory_stats(place)
        run()
        wait(str(place))
        return torch.cuda.max_memory_allocated(place) - held
    silence_kineto()
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))
