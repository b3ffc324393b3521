"""Wrong answers that the checkers of chapter 07 have to refuse."""


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


def of_all_runs(runs):
    return runs.std()


def with_the_seeds(runs):
    return ((runs - runs.mean(dim=1, keepdim=True)).square().sum() / (len(runs) * (runs.shape[1] - 1))) ** 0.5


def mean_of_deviations(runs):
    return runs.std(dim=1).mean()


def _rest(runs):
    return runs - runs.mean(dim=1, keepdim=True) - runs.mean(dim=0) + runs.mean()


def too_many_degrees(runs):
    return _rest(runs).std()


def variance(runs):
    return _rest(runs).square().sum() / ((len(runs) - 1) * (runs.shape[1] - 1))


def no_grand_mean(runs):
    rest = runs - runs.mean(dim=1, keepdim=True) - runs.mean(dim=0)
    return (rest.square().sum() / ((len(runs) - 1) * (runs.shape[1] - 1))) ** 0.5


def luckiest_run(noise):
    return noise.amax(dim=(1, 2)).mean()


def mean_first(noise):
    return noise.mean(dim=(0, 2)).max()


def not_averaged(noise):
    return noise.mean(dim=2).amax(dim=1)


def worst_cell(noise):
    return noise.mean(dim=2).amin(dim=1).mean()


WRONG = {
    "check_pareto": [weakly, beaten_by_itself, cheapest_and_best, best_alone, everything, worst_front],
    "check_holm": [bonferroni, no_running_maximum, in_sorted_order, above_one, uncorrected],
    "check_noise": [of_all_runs, with_the_seeds, mean_of_deviations, too_many_degrees, variance, no_grand_mean],
    "check_luck": [luckiest_run, mean_first, not_averaged, worst_cell],
}
