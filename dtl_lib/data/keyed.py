"""Random numbers that depend on what they are for, not on when they are drawn.

A number is a hash of (key, sample index, stream, counter). A sample gets the same augmentation in whatever batch, order
or process it comes up, and a resumed run is the run that was never interrupted.
"""

import math
import zlib
from collections.abc import Sequence
from contextlib import contextmanager

import torch

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)
WORD = (1 << 64) - 1


def uniform(shape_tail: Sequence[int], key: Sequence[int], indices, stream: str) -> torch.Tensor:
    """Uniform numbers in [0, 1), a pure function of the arguments, for every sample.

    The hash is SplitMix64 (Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators), used by
    counter as in Salmon et al. 2011 (Parallel Random Numbers: As Easy as 1, 2, 3).

    Args:
        shape_tail: the shape drawn for each sample.
        key: integers, such as (seed, epoch).
        indices: the samples, 1-D integers.
        stream: what the numbers are for; two streams are independent.

    Returns:
        float32 (samples, *shape_tail), on the device of `indices`.
    """
    bits = _bits(math.prod(shape_tail), key, indices, stream)
    return (_shift(bits, 40).float() * 2.0**-24).view(len(bits), *shape_tail)


def uniform_at(places: torch.Tensor, key: Sequence[int], indices, stream: str) -> torch.Tensor:
    """One number for each sample: the one at its place, int64 (samples,), of those that `uniform` draws, flattened."""
    return _shift(_mix(_counter_starts(key, indices, stream) + (places + 1) * _signed(GOLDEN)), 40).float() * 2.0**-24


def permutation(length: int, key: Sequence[int], stream: str = "order") -> torch.Tensor:
    """A random order of 0 … length−1, int64 (length,), a pure function of the arguments."""
    return torch.argsort(_bits(1, key, torch.arange(length), stream).squeeze(1), stable=True)


def seeds(key: Sequence[int], indices, stream: str) -> list[int]:
    """One seed for each sample, for libraries that bring their own generator."""
    return _shift(_bits(1, key, indices, stream), 1).squeeze(1).tolist()


@contextmanager
def borrowed_generator():
    """Lends torch's own generator on the CPU: yields a function that seeds it; what it held before comes back after."""
    before = torch.get_rng_state()
    try:
        yield torch.default_generator.manual_seed  # torch.manual_seed would reach for every GPU at each image
    finally:
        torch.set_rng_state(before)


@contextmanager
def keyed_generators(device: torch.device, *key: int):
    """Seeds torch's generators by `key` inside, and leaves them as they were outside.

    What is drawn at a step then depends on (seed, step) alone, and a resumed run draws the same.

    Args:
        device: whose generator is seeded beside the CPU's.
        key: integers, such as seed and step.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        seed = seeds(key, torch.zeros(1, dtype=torch.int64), "step")[0]
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reach for every GPU, at every step
        if gpus:
            number = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[number].manual_seed(seed)
        yield


def _bits(count: int, key: Sequence[int], indices, stream: str) -> torch.Tensor:
    """64 hashed bits as int64 (samples, count)."""
    sample = _counter_starts(key, indices, stream)
    counter = torch.arange(1, count + 1, device=sample.device) * _signed(GOLDEN)
    return _mix(sample[:, None] + counter)


def _counter_starts(key: Sequence[int], indices, stream: str) -> torch.Tensor:
    """The value each sample's counter starts from, int64 (samples,)."""
    start = zlib.crc32(stream.encode())
    for part in key:
        start = _mix_integer((start ^ (int(part) & WORD)) + GOLDEN & WORD)
    return _mix(torch.as_tensor(indices, dtype=torch.int64) * _signed(GOLDEN) + _signed(start))


def _mix(z: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser on int64, whose products wrap as unsigned ones do."""
    z = (z ^ _shift(z, SHIFTS[0])) * _signed(MULTIPLIERS[0])
    z = (z ^ _shift(z, SHIFTS[1])) * _signed(MULTIPLIERS[1])
    return z ^ _shift(z, SHIFTS[2])


def _mix_integer(z: int) -> int:
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=False):
        z = (z ^ z >> shift) * multiplier & WORD
    return z ^ z >> SHIFTS[2]


def _shift(z: torch.Tensor, by: int) -> torch.Tensor:
    """Logical shift right; torch's own keeps the sign."""
    return z >> by & (1 << 64 - by) - 1


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
