"""Checkers of chapter 21, Many GPUs."""

import torch

from . import exercise, expect, expect_close, is_near

ORDERS = {  # (images, batch_size, seed, epoch): keyed.permutation with the key (seed, epoch), and with wrong ones
    (12, 4, 3, 1): {
        "(seed, epoch)": [7, 1, 8, 11, 2, 9, 0, 3, 10, 5, 6, 4],
        "(seed,)": [2, 0, 5, 9, 3, 7, 1, 10, 6, 8, 4, 11],
        "(epoch, seed)": [5, 11, 8, 4, 10, 1, 9, 2, 7, 6, 3, 0],
    },
    (10, 3, 7, 2): {
        "(seed, epoch)": [6, 0, 7, 8, 9, 1, 5, 4, 3, 2],
        "(seed,)": [3, 9, 6, 1, 2, 5, 4, 0, 7, 8],
        "(epoch, seed)": [2, 8, 5, 4, 7, 1, 9, 6, 3, 0],
    },
}


@exercise
def check_epoch_batches(epoch_batches) -> None:
    """An epoch that divides into batches and one that does not, with other seeds and epochs."""
    for (images, batch_size, seed, epoch), orders in ORDERS.items():
        answer, steps = list(epoch_batches(images, batch_size, seed, epoch)), images // batch_size
        case = f"{images} images in batches of {batch_size}"
        expect(all(isinstance(batch, torch.Tensor) for batch in answer), "a batch is a tensor of image numbers")
        expect(
            all(len(batch) == batch_size for batch in answer), f"{case}: every batch is full; leave out what is left"
        )
        expect(len(answer) == steps, f"{case}: {steps} batches, not {len(answer)}")
        seen = torch.cat(answer).tolist()
        expect(len(set(seen)) == len(seen), f"{case}: no image twice in an epoch")
        expect(seen != list(range(len(seen))), f"{case}: the images come in order; an epoch is shuffled")
        for name, order in orders.items():
            expect(name == "(seed, epoch)" or seen != order[: len(seen)], f"the key is (seed, epoch), not {name}")
        right, order = orders["(seed, epoch)"][: len(seen)], orders["(seed, epoch)"]
        expect(
            seen != order[images - len(seen) :] or seen == right, f"{case}: the last ones are left out, not the first"
        )
        expect(seen == right, f"{case}: the order is keyed.permutation(images, (seed, epoch))")


@exercise
def check_larger_batch(larger_batch) -> None:
    """The same images in a quarter of the steps."""
    for before in ((32, 300, 3e-3), (16, 80, 1e-3)):
        answer = larger_batch(*before)
        expect(isinstance(answer, tuple | list) and len(answer) == 3, "return three numbers: batch_size, steps, lr")
        batch_size, steps, lr = answer
        expect(batch_size == 4 * before[0], f"four times the batch of {before[0]}, not {batch_size}")
        expect(steps * batch_size == before[0] * before[1], "a quarter of the steps: the run sees the same images")
        expect(isinstance(steps, int), f"steps are whole: {before[1]} // 4, not {steps}")
        expect(
            lr >= before[2],
            f"a larger batch usually takes a larger learning rate, at least {before[2]}; not {lr}",
        )
        expect(lr <= 4 * before[2] * (1 + 1e-9), f"four times the learning rate at most, not {lr / before[2]:g} times")


@exercise
def check_combined(combined) -> None:
    """Six images and two."""
    gradients = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, -2.0])]
    answer = combined(gradients, [6, 2])
    expect(
        not torch.allclose(torch.as_tensor(answer), torch.tensor([3.0, 0.0])),
        "a part of six weighs three times one of two",
    )
    expect_close(answer, torch.tensor([2.0, 1.0]), "each part weighs as much as it has images: (6·a + 2·b) / 8")
    blocks = [torch.arange(24.0).view(2, 3, 4), torch.zeros(2, 3, 4)]
    expect_close(combined(blocks, [1, 3]), blocks[0] / 4, "a gradient has any shape: (1·a + 3·b) / 4 of each element")
    expect_close(combined(gradients, [1, 1]), torch.tensor([3.0, 0.0]), "equal parts: the plain mean")


@exercise
def check_mine(mine) -> None:
    """Counts that divide, that do not, and fewer images than processes."""
    for images, world_size in ((12, 4), (10, 4), (2, 4), (7, 1)):
        parts = [list(mine(images, rank, world_size)) for rank in range(world_size)]
        case = f"{images} images on {world_size} processes"
        every = sorted(number for part in parts for number in part)
        expect(len(every) == len(set(every)), f"{case}: no image is evaluated twice")
        expect(every == list(range(images)), f"{case}: every image from 0 to {images - 1} is evaluated")
        sizes = sorted(map(len, parts))
        expect(sizes[-1] - sizes[0] <= 1, f"{case}: shares differ by one image at most, not {sizes}")


@exercise
def check_efficiency(efficiency) -> None:
    """Nothing, part, and all of the ring hidden."""
    expect(not is_near(efficiency(0.3, 0.0, 0.1), 100), "a share of the step, from 0 to 1; that is in per cent")
    expect(is_near(efficiency(0.3, 0.0, 0.1), 1.0), "no ring, no loss: efficiency 1")
    expect(is_near(efficiency(0.3, 0.2, 0.0), 0.6), "nothing hidden: 0.3 of 0.5 seconds")
    expect(
        is_near(efficiency(0.3, 0.2, 0.1), 0.75), "only what is not hidden makes the step longer: 0.3 of 0.4 seconds"
    )
    expect(is_near(efficiency(0.3, 0.1, 0.2), 1.0), "more than all of it cannot be hidden: efficiency is never above 1")
    answer = efficiency(0.3, 0.1, 0.5)
    expect(is_near(answer, 1.0), f"where far more than the ring could be hidden, the efficiency is 1, not {answer}")


@exercise
def check_bytes_sent(bytes_sent) -> None:
    """One process, two, eight; one part, four; with every sum and with the last alone."""
    expect(is_near(bytes_sent(100, 1, 4, True), 0.0), "one process sends nothing")
    expect(
        not is_near(bytes_sent(100, 2, 1, True), 800.0),
        "each sends world_size − 1 pieces a round, each 1/world_size of all, not the whole",
    )
    expect(not is_near(bytes_sent(100, 2, 1, True), 100.0), "a number of float32 takes 4 bytes")
    expect(is_near(bytes_sent(100, 2, 1, True), 400.0), "two rounds of the ring, half of 400 bytes in each: 400")
    expect(is_near(bytes_sent(1000, 8, 1, False), 7000.0), "2 · 7/8 of 4,000 bytes are 7,000")
    every, last = bytes_sent(1000, 8, 4, True), bytes_sent(1000, 8, 4, False)
    expect(
        not (is_near(every, 7000.0) and is_near(last, 28000.0)), "the other way round: a sum after each part sends more"
    )
    expect(is_near(bytes_sent(1000, 8, 4, True), 28000.0), "a sum after each of four parts sends four times as much")
    expect(is_near(bytes_sent(1000, 8, 4, False), 7000.0), "with no_sync() only the last part is followed by a sum")
