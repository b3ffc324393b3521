"""Checkers of chapter 21, Many GPUs."""

import math

import torch

from . import exercise, expect, expect_close


@exercise
def check_my_part(my_part) -> None:
    """Twelve samples on three processes, and ten, which do not divide."""
    samples = [7, 3, 9, 1, 0, 5, 2, 8, 4, 6, 11, 10]
    parts = [list(my_part(samples, rank, 3)) for rank in range(3)]
    expect(len({len(part) for part in parts}) == 1, "all parts are equally long")
    expect(sorted(sum(parts, [])) == sorted(samples), "every sample is in exactly one part")
    expect(parts[1] == [0, 5, 2, 8], "a run of the batch, in its order: rank 1 has samples[4:8]")
    try:
        my_part(samples[:10], 0, 3)
    except ValueError:
        return
    expect(False, "10 samples do not divide into 3 equal parts: raise a ValueError")


@exercise
def check_combined(combined) -> None:
    """Six pictures and two."""
    gradients = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, -2.0])]
    found = combined(gradients, [6, 2])
    expect(
        not torch.allclose(torch.as_tensor(found), torch.tensor([3.0, 0.0])),
        "a part of six weighs three times one of two",
    )
    expect_close(found, torch.tensor([2.0, 1.0]), "each part weighs as much as it has pictures: (6·a + 2·b) / 8")
    expect_close(combined(gradients, [1, 1]), torch.tensor([3.0, 0.0]), "equal parts: the plain mean")


@exercise
def check_accuracy(accuracy) -> None:
    """A process that saw next to nothing."""
    found = accuracy([90, 0], [100, 1])
    expect(not _close(found, 0.45), "one picture must not weigh as much as a hundred: add up the counts")
    expect(_close(found, 90 / 101), "right in all, over seen in all: 90 of 101")


@exercise
def check_efficiency(efficiency) -> None:
    """Nothing, part, and all of the ring hidden."""
    expect(_close(efficiency(0.3, 0.0, 0.1), 1.0), "no ring, no loss: efficiency 1")
    expect(_close(efficiency(0.3, 0.2, 0.0), 0.6), "nothing hidden: 0.3 of 0.5 seconds")
    expect(_close(efficiency(0.3, 0.2, 0.1), 0.75), "only what is not hidden makes the step longer: 0.3 of 0.4 seconds")
    expect(_close(efficiency(0.3, 0.1, 0.2), 1.0), "more than all of it cannot be hidden: efficiency is never above 1")


@exercise
def check_bytes_sent(bytes_sent) -> None:
    """Two processes, eight, one; copied and sharded."""
    expect(_close(bytes_sent(100, 1, False), 0.0), "one process sends nothing")
    expect(not _close(bytes_sent(100, 2, False), 800.0), "each sends (world − 1) pieces of a world-th a round, not all")
    expect(_close(bytes_sent(100, 2, False), 400.0), "two rounds of the ring, half of 400 bytes in each: 400")
    expect(_close(bytes_sent(1000, 8, False), 7000.0), "2 · 7/8 of 4,000 bytes are 7,000")
    expect(_close(bytes_sent(1000, 8, True), 10500.0), "sharded: one reduce-scatter and two all-gathers, three rounds")


def _close(found, wanted: float) -> bool:
    return isinstance(found, int | float) and math.isclose(found, wanted, rel_tol=1e-9)
