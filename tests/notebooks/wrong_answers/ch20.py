"""Wrong answers that the checkers of chapter 20 have to refuse."""


def of_inference(images_per_second, multiply_adds, rate):
    return images_per_second * 2 * multiply_adds / rate


def upside_down(images_per_second, multiply_adds, rate):
    return rate / (images_per_second * 6 * multiply_adds)


def in_multiply_adds_a_second(images_per_second, multiply_adds, rate):
    return images_per_second * multiply_adds / rate


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


def never_grows(scale, overflowed, good, every):
    return (scale / 2, 0) if overflowed else (scale, good)


def keeps_counting(scale, overflowed, good, every):
    if overflowed:
        return scale / 2, good
    return (scale * 2, 0) if good == every else (scale, good)


def grows_first(scale, overflowed, good, every):
    if good == every:
        return scale * 2, 0
    return (scale / 2, 0) if overflowed else (scale, good)


def weights_alone(parameters, kept, batch):
    return 4 * parameters + kept * batch


def one_average(parameters, kept, batch):
    return 12 * parameters + kept * batch


def one_picture(parameters, kept, batch):
    return 16 * parameters + kept


WRONG = {
    "check_utilisation": [of_inference, upside_down, in_multiply_adds_a_second],
    "check_seconds_to": [above, the_last, the_best, needs_accuracy, the_end_if_never],
    "check_next_scale": [never_grows, keeps_counting, grows_first],
    "check_training_bytes": [weights_alone, one_average, one_picture],
}
