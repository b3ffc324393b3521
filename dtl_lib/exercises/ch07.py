"""Checkers of chapter 07, The location atlas."""

import torch

from ..config import named
from ..models import ViT
from . import exercise, expect


@exercise
def check_pareto(pareto) -> None:
    """A front of three, a tie, and a cell that is beaten in one respect alone."""
    costs, scores = [3.0, 1.0, 2.0, 4.0, 2.0], [50.0, 40.0, 45.0, 49.0, 44.0]
    answer = sorted(pareto(costs, scores))
    expect(3 not in answer, "cell 3 costs more than cell 0 and scores less: it is beaten")
    expect(4 not in answer, "cell 4 costs as much as cell 2 and scores less: it is beaten")
    expect(1 in answer, "cell 1 is the cheapest: nothing beats it, though it scores least")
    expect(2 in answer, "cell 2 is neither the cheapest nor the best, and nothing beats it in both")
    expect(answer == [0, 1, 2], f"the front is 0, 1 and 2, not {answer}")
    expect(sorted(pareto([1.0, 1.0], [5.0, 5.0])) == [0, 1], "two equal cells do not beat each other")
    expect(sorted(pareto([1.0, 2.0], [5.0, 5.0])) == [0], "as good and cheaper is better")


@exercise
def check_holm(holm) -> None:
    """Numbers worked out by hand; unsorted, one that the step down has to lift, one above 1."""
    answer = holm([0.04, 0.01, 0.03])
    expect(len(answer) == 3, "as many p-values come out as went in")
    bonferroni = [0.12, 0.03, 0.09]
    expect(not _close(answer, bonferroni), "that is Bonferroni's: Holm multiplies the second smallest by one less")
    expect(not _close(answer, [0.03, 0.06, 0.06]), "give them back in the order in which they came")
    expect(
        not _close(answer, [0.04, 0.03, 0.06]),
        "a larger p cannot become smaller than a smaller one: take the maximum so far",
    )
    expect(_close(answer, [0.06, 0.03, 0.06]), f"0.04, 0.01, 0.03 become 0.06, 0.03, 0.06, not {answer}")
    expect(_close(holm([0.9, 0.8]), [1.0, 1.0]), "a probability is at most 1")


@exercise
def check_correlation(correlation) -> None:
    """A grid whose rows share noise, with effects of cell and seed that must not count, and one that shares nothing."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    effects = 3 * noise(5, 4, 1) + 4 * noise(1, 1, 6)
    runs = effects + noise(5, 1, 6) + 0.7 * noise(5, 4, 6)
    rest = _rest(runs)
    expected, answer = _in_common(rest, 1), float(correlation(runs))
    expect(not _close([answer], [_in_common(runs - runs.mean(), 1)]), "that has the effects of cell and seed in it")
    by_cell = runs - runs.mean(dim=2, keepdim=True)
    expect(not _close([answer], [_in_common(by_cell, 1)]), "that has the seeds' own differences in it")
    by_seed = runs - runs.mean(dim=(0, 1))
    expect(not _close([answer], [_in_common(by_seed, 1)]), "that has the cells' own differences in it")
    expect(not _close([answer], [_in_common(rest, 0)]), "those are pairs of one column: take two cells of one row")
    with_itself = rest.sum(dim=1).square().sum() / (4 * rest.square().sum())
    expect(not _close([answer], [float(with_itself)]), "a run and itself are no pair: leave those out")
    covariance = expected * float(rest.square().mean())
    expect(not _close([answer], [covariance]), "that is the covariance: divide by the variance")
    expect(_close([answer], [expected]), f"{expected:.4f} in a grid whose rows share noise, not {answer:.4f}")
    alone = effects + noise(5, 4, 6)
    expected, answer = _in_common(_rest(alone), 1), float(correlation(alone))
    expect(_close([answer], [expected]), f"{expected:.4f} where every run has its own noise, not {answer:.4f}")


def _rest(runs):
    """What is left of runs `(rows, columns, seeds)` without every cell's and every seed's mean."""
    return runs - runs.mean(dim=2, keepdim=True) - runs.mean(dim=(0, 1)) + runs.mean()


def _in_common(rest, axis: int) -> float:
    """The correlation of two values that differ only in their place along an axis."""
    squares = rest.square().sum()
    return float((rest.sum(dim=axis).square().sum() - squares) / ((rest.shape[axis] - 1) * squares))


@exercise
def check_seeds_needed(seeds_needed) -> None:
    """Whole numbers of seeds, and what each factor does to them."""
    answer = seeds_needed(1.0, 1.0)
    expect(not _close([answer], [7.6832]), "whole seeds only: round up, so that the interval is short enough")
    expect(answer != 7, "7 seeds leave an interval a little too long: round up")
    expect(answer != 4, "that is one mean's interval: the difference of two has twice its variance")
    expect(answer != 16, "independent errors add as variances, not as deviations: twice, not four times")
    expect(answer not in (2, 3), "the half-width shrinks with the root of the number of seeds: square the ratio")
    _expect_seeds(answer, 8, "noise 1, difference 1")
    _expect_seeds(seeds_needed(1.0, 0.5), 31, "noise 1, difference a half")
    _expect_seeds(seeds_needed(0.5, 2.0), 1, "noise a half, difference 2")
    _expect_seeds(seeds_needed(3.0, 1.0), 70, "noise 3, difference 1")


def _expect_seeds(answer, expected: int, case: str) -> None:
    expect(answer == expected, f"{case}: {expected} seeds each, not {answer}")


@exercise
def check_corner(corner) -> None:
    """The plan of the model, and everything else as in the plain one."""
    model, plain = corner(), named("vit_shapes_patch8_32")
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    groups = {group.name: group for group in model.config.plan.groups}
    last = plain.depth - 1
    expect("cls" in groups and not model.config.plan.class_blocks, "the class token enters a block of the trunk")
    expect(groups["cls"].enter == last, f"the class token enters at {groups['cls'].enter}: the last block is {last}")
    expect("reg" in groups and groups["reg"].tokens == 4, "four registers are asked for")
    expect(groups["reg"].enter == 0, f"the registers enter at {groups['reg'].enter}, and should at 0")
    expect(model.config.with_plan(plain.plan) == plain, "change the plan alone: the rest is the plain model's")
    expect(corner() is not model, "build a fresh model at each call")


def _close(answer, expected) -> bool:
    return all(abs(float(a) - float(b)) < 1e-6 for a, b in zip(answer, expected))
