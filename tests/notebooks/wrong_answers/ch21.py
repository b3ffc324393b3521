"""Wrong answers that the checkers of chapter 21 have to refuse."""


def every_nth(samples, rank, world):
    if len(samples) % world:
        raise ValueError
    return samples[rank::world]


def rest_to_nobody(samples, rank, world):
    share = len(samples) // world
    return samples[rank * share : (rank + 1) * share]


def one_too_many(samples, rank, world):
    if len(samples) % world:
        raise ValueError
    share = len(samples) // world
    return samples[rank * share : (rank + 1) * share + 1]


def plain_mean(gradients, sizes):
    return sum(gradients) / len(gradients)


def not_divided(gradients, sizes):
    return sum(size * value for size, value in zip(sizes, gradients))


def other_sizes(gradients, sizes):
    return sum(size * value for size, value in zip(reversed(sizes), gradients)) / sum(sizes)


def mean_of_accuracies(right, seen):
    return sum(a / b for a, b in zip(right, seen)) / len(seen)


def first_alone(right, seen):
    return right[0] / seen[0]


def nothing_hidden(compute, ring, hidden):
    return compute / (compute + ring)


def all_hidden(compute, ring, hidden):
    return 1.0


def above_one(compute, ring, hidden):
    return compute / (compute + ring - hidden)


def everything_twice(parameters, world, sharded):
    return (3 if sharded else 2) * 4 * parameters * (world > 1)


def sharded_alike(parameters, world, sharded):
    return 2 * (world - 1) / world * 4 * parameters


def through_one(parameters, world, sharded):
    return (world - 1) * 4 * parameters


WRONG = {
    "check_my_part": [every_nth, rest_to_nobody, one_too_many],
    "check_combined": [plain_mean, not_divided, other_sizes],
    "check_accuracy": [mean_of_accuracies, first_alone],
    "check_efficiency": [nothing_hidden, all_hidden, above_one],
    "check_bytes_sent": [everything_twice, sharded_alike, through_one],
}
