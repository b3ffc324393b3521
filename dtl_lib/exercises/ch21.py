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
    answer = combined(gradients, [6, 2])
    expect(
        not torch.allclose(torch.as_tensor(answer), torch.tensor([3.0, 0.0])),
        "a part of six weighs three times one of two",
    )
    expect_close(answer, torch.tensor([2.0, 1.0]), "each part weighs as much as it has pictures: (6·a + 2·b) / 8")
    expect_close(combined(gradients, [1, 1]), torch.tensor([3.0, 0.0]), "equal parts: the plain mean")


@exercise
def check_mine(mine) -> None:
    """Counts that divide, that do not, and fewer pictures than processes."""
    for images, world_size in ((12, 4), (10, 4), (2, 4), (7, 1)):
        parts = [list(mine(images, rank, world_size)) for rank in range(world_size)]
        case = f"{images} pictures on {world_size} processes"
        every = sorted(number for part in parts for number in part)
        expect(len(every) == len(set(every)), f"{case}: no picture is evaluated twice")
        expect(every == list(range(images)), f"{case}: every picture from 0 to {images - 1} is evaluated")
        sizes = sorted(map(len, parts))
        expect(sizes[-1] - sizes[0] <= 1, f"{case}: shares differ by one picture at most, not {sizes}")


@exercise
def check_efficiency(efficiency) -> None:
    """Nothing, part, and all of the ring hidden."""
    expect(_close(efficiency(0.3, 0.0, 0.1), 1.0), "no ring, no loss: efficiency 1")
    expect(_close(efficiency(0.3, 0.2, 0.0), 0.6), "nothing hidden: 0.3 of 0.5 seconds")
    expect(_close(efficiency(0.3, 0.2, 0.1), 0.75), "only what is not hidden makes the step longer: 0.3 of 0.4 seconds")
    expect(_close(efficiency(0.3, 0.1, 0.2), 1.0), "more than all of it cannot be hidden: efficiency is never above 1")


@exercise
def check_bytes_sent(bytes_sent) -> None:
    """One process, two, eight; one part, four; with every sum and with the last alone."""
    expect(_close(bytes_sent(100, 1, 4, True), 0.0), "one process sends nothing")
    expect(
        not _close(bytes_sent(100, 2, 1, True), 800.0),
        "each sends world_size − 1 pieces a round, each 1/world_size of all, not the whole",
    )
    expect(_close(bytes_sent(100, 2, 1, True), 400.0), "two rounds of the ring, half of 400 bytes in each: 400")
    expect(_close(bytes_sent(1000, 8, 1, False), 7000.0), "2 · 7/8 of 4,000 bytes are 7,000")
    expect(_close(bytes_sent(1000, 8, 4, True), 28000.0), "a sum after each of four parts sends four times as much")
    expect(_close(bytes_sent(1000, 8, 4, False), 7000.0), "with no_sync() only the last part is followed by a sum")


def _close(answer, expected: float) -> bool:
    return isinstance(answer, int | float) and math.isclose(answer, expected, rel_tol=1e-9)
