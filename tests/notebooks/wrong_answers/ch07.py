"""Wrong answers that the checkers of chapter 07 have to refuse."""

import math
from dataclasses import replace

from dtl_lib import TokenPlan, ViT, named


def _front(costs, scores, beats):
    cells = list(zip(costs, scores))
    return [at for at, one in enumerate(cells) if not any(beats(other, one) for other in cells)]


def weakly(costs, scores):
    return _front(costs, scores, lambda a, b: a != b and a[0] < b[0] and a[1] > b[1])


def beaten_by_itself(costs, scores):
    return _front(costs, scores, lambda a, b: a[0] <= b[0] and a[1] >= b[1])


def cheapest_and_best(costs, scores):
    return [costs.index(min(costs)), scores.index(max(scores))]


def best_alone(costs, scores):
    return [scores.index(max(scores))]


def everything(costs, scores):
    return list(range(len(costs)))


def worst_front(costs, scores):
    return _front(costs, scores, lambda a, b: a != b and a[0] >= b[0] and a[1] <= b[1])


def bonferroni(p):
    return [min(1.0, len(p) * one) for one in p]


def _steps(p):
    order = sorted(range(len(p)), key=p.__getitem__)
    return {at: (len(p) - rank) * p[at] for rank, at in enumerate(order)}


def no_running_maximum(p):
    return [min(1.0, _steps(p)[at]) for at in range(len(p))]


def in_sorted_order(p):
    most, corrected = 0.0, []
    for value in _steps(p).values():
        most = max(most, min(1.0, value))
        corrected.append(most)
    return corrected


def above_one(p):
    most, corrected = 0.0, {}
    for at, value in _steps(p).items():
        most = max(most, value)
        corrected[at] = most
    return [corrected[at] for at in range(len(p))]


def uncorrected(p):
    return list(p)


def _of_pairs(rest, axis=1):
    squares = rest.square().sum()
    return (rest.sum(dim=axis).square().sum() - squares) / ((rest.shape[axis] - 1) * squares)


def _left(runs):
    return runs - runs.mean(dim=2, keepdim=True) - runs.mean(dim=(0, 1)) + runs.mean()


def of_raw_runs(runs):
    return _of_pairs(runs - runs.mean())


def seeds_left_in(runs):
    return _of_pairs(runs - runs.mean(dim=2, keepdim=True))


def cells_left_in(runs):
    return _of_pairs(runs - runs.mean(dim=(0, 1)))


def of_one_column(runs):
    return _of_pairs(_left(runs), axis=0)


def with_themselves(runs):
    rest = _left(runs)
    return rest.sum(dim=1).square().sum() / (rest.shape[1] * rest.square().sum())


def covariance(runs):
    rest = _left(runs)
    return _of_pairs(rest) * rest.square().mean()


def other_seeds(runs):
    return _of_pairs(_left(runs), axis=2)


def as_on_the_page(runs):
    return 0.69


def parts_of_seeds(noise, difference):
    return 2 * (1.96 * noise / difference) ** 2


def rounded_down(noise, difference):
    return int(2 * (1.96 * noise / difference) ** 2)


def of_one_mean(noise, difference):
    return math.ceil((1.96 * noise / difference) ** 2)


def deviations_added(noise, difference):
    return math.ceil((2 * 1.96 * noise / difference) ** 2)


def not_squared(noise, difference):
    return math.ceil(2**0.5 * 1.96 * noise / difference)


def one_standard_error(noise, difference):
    return math.ceil(2 * (noise / difference) ** 2)


def standard():
    return ViT.build("vit_shapes_patch8_32")


def _with(*plan, **changes):
    config = replace(named("vit_shapes_patch8_32"), **changes)
    return ViT(config.with_plan(TokenPlan.of(config.depth, *plan)))


def registers_with_it():
    last = named("vit_shapes_patch8_32").depth - 1
    return _with(last, last, 4)


def one_register():
    return _with(named("vit_shapes_patch8_32").depth - 1, 0, 1)


def no_registers():
    return _with(named("vit_shapes_patch8_32").depth - 1)


def wider_too():
    config = named("vit_shapes_patch8_32")
    return _with(config.depth - 1, 0, 4, dim=2 * config.dim)


def first_is_one():
    return _with(named("vit_shapes_patch8_32").depth - 1, 1, 4)


WRONG = {
    "check_pareto": [weakly, beaten_by_itself, cheapest_and_best, best_alone, everything, worst_front],
    "check_holm": [bonferroni, no_running_maximum, in_sorted_order, above_one, uncorrected],
    "check_correlation": [
        of_raw_runs,
        seeds_left_in,
        cells_left_in,
        of_one_column,
        with_themselves,
        covariance,
        other_seeds,
        as_on_the_page,
    ],
    "check_seeds_needed": [
        parts_of_seeds,
        rounded_down,
        of_one_mean,
        deviations_added,
        not_squared,
        one_standard_error,
    ],
    "check_corner": [standard, registers_with_it, one_register, no_registers, wider_too, first_is_one],
}
