"""Wrong answers that the checkers of chapter 20 have to refuse."""


def added(rate, bandwidth, operations, moved):
    return operations / rate + moved / bandwidth


def the_shorter(rate, bandwidth, operations, moved):
    return min(operations / rate, moved / bandwidth)


def arithmetic_alone(rate, bandwidth, operations, moved):
    return operations / rate


def memory_alone(rate, bandwidth, operations, moved):
    return moved / bandwidth


def a_rate(rate, bandwidth, operations, moved):
    return min(rate, bandwidth * operations / moved)


def of_speed(factor, speed):
    return (speed - 1) / (factor - 1)


def what_remains(factor, speed):
    return 1 - (1 - 1 / speed) / (1 - 1 / factor)


def without_the_factor(factor, speed):
    return 1 - 1 / speed


def a_ratio(factor, speed):
    return speed / factor


def above(rows, accuracy):
    for row in rows:
        if row.get("accuracy", 0) > accuracy:
            return row["seconds"]


def the_last(rows, accuracy):
    reached = [row["seconds"] for row in rows if row.get("accuracy", 0) >= accuracy]
    return reached[-1] if reached else None


def the_best(rows, accuracy):
    return max(rows, key=lambda row: row.get("accuracy", 0))["seconds"]


def needs_accuracy(rows, accuracy):
    return next((row["seconds"] for row in rows if row["accuracy"] >= accuracy), None)


def the_end_if_never(rows, accuracy):
    return next((row["seconds"] for row in rows if row.get("accuracy", 0) >= accuracy), rows[-1]["seconds"])


def weights_alone(memory, parameters, kept):
    return max(0, (memory - 4 * parameters) // kept)


def one_average(memory, parameters, kept):
    return max(0, (memory - 12 * parameters) // kept)


def below_nothing(memory, parameters, kept):
    return (memory - 16 * parameters) // kept


def parts_of_pictures(memory, parameters, kept):
    return max(0, (memory - 16 * parameters) / kept)


def rounded(memory, parameters, kept):
    return max(0, round((memory - 16 * parameters) / kept))


def at_least_one(memory, parameters, kept):
    return max(1, (memory - 16 * parameters) // kept)


WRONG = {
    "check_at_most": [added, the_shorter, arithmetic_alone, memory_alone, a_rate],
    "check_share_of": [of_speed, what_remains, without_the_factor, a_ratio],
    "check_seconds_to": [above, the_last, the_best, needs_accuracy, the_end_if_never],
    "check_largest_batch": [weights_alone, one_average, below_nothing, parts_of_pictures, rounded, at_least_one],
}
