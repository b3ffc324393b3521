"""The time of a forward pass and of a training step, and the rate of matrix products they are measured against."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ...checks import whole
from ...config import ViTConfig
from ...host import find_device
from .pairs import WARM_UP, wait
from .step import BenchConfig, make_step, trainable

TRAINING = 3  # a step counts as three forward passes: each product has two more in the backward pass
SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192, 16384)}
REPEATS = 10
SETTLED = 1.0  # seconds after which a GPU's clocks are those of long work
BY_COST = "by the cost model, in float32: activations kept, weights, gradients, the optimiser's two averages"


@dataclass(frozen=True)
class Timing:
    """What a step takes.

    Attributes:
        what: "forward pass" or "training step".
        how: as it was run.
        seconds: of each step, warm-up left out.
        first_seconds: the first step, with what is done once: compiling, choosing kernels.
        multiply_adds: of a step, from `config.cost()`; a training step counts as three forward passes.
        peak_bytes: memory at its peak; None where it is not known.
        memory: how `peak_bytes` is known.
    """

    what: str
    how: BenchConfig
    seconds: tuple[float, ...]
    first_seconds: float
    multiply_adds: int
    peak_bytes: int | None
    memory: str

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """The lower quartile, the median and the upper quartile of the seconds a step takes."""
        if len(self.seconds) == 1:
            return self.seconds * 3
        return tuple(statistics.quantiles(self.seconds, n=4, method="inclusive"))

    @property
    def median(self) -> float:
        """Seconds a step."""
        return self.quartiles[1]

    @property
    def images_per_s(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile over steps."""
        return tuple(self.how.batch_size / seconds for seconds in reversed(self.quartiles))

    @property
    def flops(self) -> float:
        """Floating-point operations a second; a multiply–add is two."""
        return 2 * self.multiply_adds / self.median

    def utilisation(self, rate: "Rate") -> float:
        """Model FLOP utilisation: what the model's products come to, over a measured rate of products."""
        return self.flops / rate.flops

    def to_dict(self) -> dict[str, float]:
        """Numbers for a record."""
        low, middle, high = self.images_per_s
        values = {
            "images_per_s": middle, "images_per_s_low_quartile": low, "images_per_s_high_quartile": high,
            "step_seconds": self.median, "first_seconds": self.first_seconds, "batch": self.how.batch_size,
            "multiply_adds": self.multiply_adds, "flops": self.flops, "threads": torch.get_num_threads(),
        }  # fmt: skip
        return values | ({} if self.peak_bytes is None else {"peak_bytes": self.peak_bytes})


@dataclass(frozen=True)
class Rate:
    """The rate of square matrix products on a device: of a few sizes the best.

    Attributes:
        flops: floating-point operations a second, median of the repeats.
        size: rows and columns.
        dtype: of what is multiplied.
    """

    flops: float
    size: int
    dtype: torch.dtype


@dataclass(frozen=True)
class WarmStep:
    """A step that has been made a few times: what it took to begin, and the memory it needs.

    Attributes: as in `Timing`, and
        config: of the model.
        run: makes a step.
    """

    config: ViTConfig
    how: BenchConfig
    run: Callable
    first_seconds: float
    peak_bytes: int | None
    memory: str

    def timing(self, seconds: Sequence[float]) -> Timing:
        """The timing that these seconds of steps make."""
        training = self.how.training
        products = self.config.cost().total * self.how.batch_size * (TRAINING if training else 1)
        what = "training step" if training else "forward pass"
        about = (self.first_seconds, products, self.peak_bytes, self.memory)
        return Timing(what, self.how, tuple(map(float, seconds)), *about)


def warm_step(config: ViTConfig, how: BenchConfig, make: Callable | None = None) -> WarmStep:
    """Build a step and warm it up.

    Args:
        config: of the model.
        how: it is run.
        make: gives a function that makes a step; `make_step(config, how)` where None.
    """
    gpu = how.place.type == "cuda"
    held = torch.cuda.memory_allocated(how.place) if gpu else 0
    run = make_step(config, how) if make is None else make()
    start = time.perf_counter()
    run()
    wait(how.device)
    first = time.perf_counter() - start
    if gpu:
        torch.cuda.reset_peak_memory_stats(how.place)
    for _ in range(WARM_UP):
        run()
    wait(how.device)
    if gpu:
        peak = torch.cuda.max_memory_allocated(how.place) - held
        return WarmStep(config, how, run, first, peak, "measured: the most that was allocated")
    if not how.training:
        return WarmStep(config, how, run, first, None, "not measured on a CPU")
    cost = config.cost()
    return WarmStep(config, how, run, first, how.batch_size * cost.activation_bytes + 16 * cost.parameters, BY_COST)


def step_time(config: ViTConfig, batch_size: int, *, steps: int = 20, **how) -> Timing:
    """The time of a training step of fresh weights on noise that lies on the device.

    Args:
        config: the model; without classes it is given ImageNet's thousand.
        batch_size: images a step.
        steps: timed, after a warm-up.
        how: the other fields of `BenchConfig`; `training=False` times a forward pass.

    Raises:
        ValueError: for numbers out of range, or a device that is not there.
    """
    steps = whole("steps", steps)
    how = BenchConfig(batch_size, **how)
    begun = warm_step(trainable(config) if how.training else config, how)
    return begun.timing(step_seconds(begun.run, steps, how.place))


def forward_time(config: ViTConfig, batch_size: int, *, steps: int = 20, **how) -> Timing:
    """The time of a forward pass without gradients; arguments as in `step_time`."""
    return step_time(config, batch_size, steps=steps, training=False, **how)


def matmul_rate(device: str | None = None, dtype: torch.dtype = torch.float32, sizes: tuple[int, ...] = ()) -> Rate:
    """The rate at which a device multiplies square matrices: the most that a model's products could reach.

    A GPU multiplies each size for a second, and the second half of it counts: its clocks fall while it gets warm.
    float32 means full float32, as in training: PyTorch does not use TF32 for products unless it is asked to.

    Args:
        device: as in `BenchConfig`.
        dtype: float32, bfloat16 or float16.
        sizes: rows and columns to try.
    """
    place, rates = find_device(device), []
    with torch.inference_mode():
        for size in sizes or SIZES.get(place.type, SIZES["cpu"]):
            left, right = (torch.randn(size, size, device=place).to(dtype) for _ in range(2))
            out = torch.empty_like(left)
            run = partial(torch.mm, left, right, out=out)
            seconds = step_seconds(run, REPEATS, place, warm_up=2)
            if place.type == "cuda":
                seconds = step_seconds(run, math.ceil(SETTLED / statistics.median(seconds)), place)
                seconds = seconds[len(seconds) // 2 :]
            rates.append(Rate(2 * size**3 / statistics.median(seconds), size, dtype))
    return max(rates, key=lambda rate: rate.flops)


def step_seconds(run: Callable, steps: int, device: torch.device, warm_up: int = 0) -> list[float]:
    """Seconds from the end of one step to the end of the next; on a GPU by its own clock, without waiting between."""
    for _ in range(warm_up):
        run()
    wait(device.type)
    if device.type != "cuda":
        times = [time.perf_counter()]
        for _ in range(steps):
            run()
            times.append(time.perf_counter())
        return [after - before for before, after in zip(times, times[1:])]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    wait(device.type)
    return [before.elapsed_time(after) / 1e3 for before, after in zip(events, events[1:])]
