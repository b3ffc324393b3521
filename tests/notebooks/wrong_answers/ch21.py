"""Wrong answers that the checkers of chapter 21 have to refuse."""

import torch

from dtl_lib.data import keyed


def _cut(order, batch_size):
    return [order[at : at + batch_size] for at in range(0, len(order) - batch_size + 1, batch_size)]


def one_order(images, batch_size, seed, epoch):
    return _cut(keyed.permutation(images, (seed,)), batch_size)


def key_turned_round(images, batch_size, seed, epoch):
    return _cut(keyed.permutation(images, (epoch, seed)), batch_size)


def in_order(images, batch_size, seed, epoch):
    return _cut(torch.arange(images), batch_size)


def with_the_rest(images, batch_size, seed, epoch):
    return list(keyed.permutation(images, (seed, epoch)).split(batch_size))


def one_batch_short(images, batch_size, seed, epoch):
    return _cut(keyed.permutation(images, (seed, epoch)), batch_size)[:-1]


def one_order_too_many(images, batch_size, seed, epoch):
    return _cut(keyed.permutation(images, (seed, epoch + 1)), batch_size)


def lists(images, batch_size, seed, epoch):
    return [batch.tolist() for batch in _cut(keyed.permutation(images, (seed, epoch)), batch_size)]


def batch_alone(batch_size, steps, lr):
    return 4 * batch_size, steps, lr


def twice(batch_size, steps, lr):
    return 2 * batch_size, steps // 2, lr


def smaller_rate(batch_size, steps, lr):
    return 4 * batch_size, steps // 4, lr / 4


def too_large_a_rate(batch_size, steps, lr):
    return 4 * batch_size, steps // 4, 16 * lr


def parts_of_steps(batch_size, steps, lr):
    return 4 * batch_size, steps / 4, lr


def plain_mean(gradients, sizes):
    return sum(gradients) / len(gradients)


def not_divided(gradients, sizes):
    return sum(size * value for size, value in zip(sizes, gradients))


def other_sizes(gradients, sizes):
    return sum(size * value for size, value in zip(reversed(sizes), gradients)) / sum(sizes)


def padded(images, rank, world_size):
    share = -(-images // world_size)
    return [number % images for number in range(rank * share, (rank + 1) * share)]


def rest_left_out(images, rank, world_size):
    share = images // world_size
    return range(rank * share, (rank + 1) * share)


def rest_to_the_last(images, rank, world_size):
    share = images // world_size
    return range(rank * share, images if rank == world_size - 1 else (rank + 1) * share)


def last_goes_short(images, rank, world_size):
    share = -(-images // world_size)
    return range(images)[rank * share : (rank + 1) * share]


def nothing_hidden(compute, ring, hidden):
    return compute / (compute + ring)


def all_hidden(compute, ring, hidden):
    return 1.0


def above_one(compute, ring, hidden):
    return compute / (compute + ring - hidden)


def more_than_hidden(compute, ring, hidden):
    return min(1, compute / (compute + ring - hidden))


def efficiency_in_per_cent(compute, ring, hidden):
    return 100 * compute / (compute + max(0, ring - hidden))


def vectors_alone(gradients, sizes):
    return torch.tensor([size / sum(sizes) for size in sizes]) @ torch.stack(gradients)


def first_left_out(images, batch_size, seed, epoch):
    return _cut(keyed.permutation(images, (seed, epoch))[images % batch_size :], batch_size)


def without_bytes(parameters, world_size, parts, synced):
    return 2 * (world_size - 1) / world_size * parameters * (parts if synced else 1)


def the_other_way_round(parameters, world_size, parts, synced):
    return 8 * (world_size - 1) / world_size * parameters * (1 if synced else parts)


def everything_twice(parameters, world_size, parts, synced):
    return (parts if synced else 1) * 2 * 4 * parameters * (world_size > 1)


def always_once(parameters, world_size, parts, synced):
    return 2 * (world_size - 1) / world_size * 4 * parameters


def always_every_part(parameters, world_size, parts, synced):
    return parts * 2 * (world_size - 1) / world_size * 4 * parameters


def one_round(parameters, world_size, parts, synced):
    return (parts if synced else 1) * (world_size - 1) / world_size * 4 * parameters


def through_one(parameters, world_size, parts, synced):
    return (parts if synced else 1) * (world_size - 1) * 4 * parameters


WRONG = {
    "check_epoch_batches": [
        one_order,
        key_turned_round,
        in_order,
        with_the_rest,
        one_batch_short,
        one_order_too_many,
        lists,
        first_left_out,
    ],
    "check_larger_batch": [batch_alone, twice, smaller_rate, too_large_a_rate, parts_of_steps],
    "check_combined": [plain_mean, not_divided, other_sizes, vectors_alone],
    "check_mine": [padded, rest_left_out, rest_to_the_last, last_goes_short],
    "check_efficiency": [nothing_hidden, all_hidden, above_one, more_than_hidden, efficiency_in_per_cent],
    "check_bytes_sent": [
        everything_twice,
        always_once,
        always_every_part,
        one_round,
        through_one,
        without_bytes,
        the_other_way_round,
    ],
}
