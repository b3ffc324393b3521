"""Wrong answers that the checkers of chapter 21 have to refuse."""


def every_nth(samples, rank, world_size):
    if len(samples) % world_size:
        raise ValueError
    return samples[rank::world_size]


def rest_to_nobody(samples, rank, world_size):
    share = len(samples) // world_size
    return samples[rank * share : (rank + 1) * share]


def one_too_many(samples, rank, world_size):
    if len(samples) % world_size:
        raise ValueError
    share = len(samples) // world_size
    return samples[rank * share : (rank + 1) * share + 1]


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
    "check_my_part": [every_nth, rest_to_nobody, one_too_many],
    "check_combined": [plain_mean, not_divided, other_sizes],
    "check_mine": [padded, rest_left_out, rest_to_the_last, last_goes_short],
    "check_efficiency": [nothing_hidden, all_hidden, above_one],
    "check_bytes_sent": [everything_twice, always_once, always_every_part, one_round, through_one],
}
