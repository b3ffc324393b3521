"""Checkers of chapter 20, One GPU."""

import math

from . import exercise, expect


def _equals(answer, expected: float, hint: str) -> None:
    """Refuse a number that is not `expected`."""
    expect(isinstance(answer, int | float) and math.isclose(answer, expected, rel_tol=1e-9), f"{hint}; not {answer!r}")


@exercise
def check_at_most(at_most) -> None:
    """Bound by arithmetic, bound by memory, and neither more than the other."""
    answer = at_most(100.0, 10.0, 200.0, 10.0)
    expect(answer != 3.0, "the device computes while it reads: the longer of the two counts, not their sum")
    expect(answer != 1.0, "the shorter of the two is not enough: the other has not ended by then")
    _equals(answer, 2.0, "200 operations at 100 a second take 2 s, longer than 10 bytes at 10 a second")
    _equals(at_most(100.0, 10.0, 200.0, 50.0), 5.0, "50 bytes at 10 a second take 5 s, longer than the operations")
    _equals(at_most(8.0, 4.0, 4.0, 2.0), 0.5, "seconds are operations over the rate, and bytes over the bandwidth")


@exercise
def check_share_of(share_of) -> None:
    """All, none, a half, and a rate of its own."""
    _equals(share_of(2.0, 2.0), 1.0, "a step that becomes as fast as the share itself is all of it")
    answer = share_of(2.0, 1.0)
    expect(isinstance(answer, int | float) and abs(answer) < 1e-12, f"a step no faster has a share of 0, not {answer}")
    answer = share_of(2.0, 4 / 3)
    expect(not math.isclose(answer, 1 / 3), "count time, not speed: the new step takes 1 − share + share / factor")
    _equals(answer, 0.5, "half of a step twice as fast takes 1/2 + 1/4 of the time: the step is 4/3 times as fast")
    _equals(share_of(4.0, 1.6), 0.5, "half of a step four times as fast takes 1/2 + 1/8 of the time")


@exercise
def check_seconds_to(seconds_to) -> None:
    """Rows with and without an accuracy, one that reaches it and falls back."""
    rows = [
        {"seconds": 1.0, "loss": 2.0},
        {"seconds": 2.0, "accuracy": 0.5},
        {"seconds": 3.0, "loss": 1.0},
        {"seconds": 4.0, "accuracy": 0.9},
        {"seconds": 5.0, "accuracy": 0.8},
        {"seconds": 6.0, "accuracy": 0.95},
    ]
    _equals(seconds_to(rows, 0.85), 4.0, "the first row that reaches 0.85 is at 4.0 seconds")
    _equals(seconds_to(rows, 0.9), 4.0, "exactly 0.9 has reached 0.9")
    _equals(seconds_to(rows, 0.5), 2.0, "the first row, not the best and not the last")
    never = [row.copy() for row in rows[:3]]
    expect(_returns_none(seconds_to, never, 0.9), "a run that never gets there has no time: return None")


@exercise
def check_largest_batch(largest_batch) -> None:
    """Memory for weights alone, for some pictures, for less than one, and for less than the weights."""
    answer = largest_batch(1000, 10, 84)
    expect(answer != 11, "that counts the weights alone: there are gradients and AdamW's two averages as well")
    _equals(answer, 10, "160 bytes for 10 parameters leave 840: ten pictures of 84")
    _equals(largest_batch(1000, 10, 85), 9, "whole pictures only")
    _equals(largest_batch(1000, 30, 521), 0, "480 bytes for the parameters leave 520, which is no picture of 521")
    _equals(largest_batch(100, 10, 7), 0, "where not even the weights fit, no picture does: 0, not less")


def _returns_none(function, *arguments) -> bool:
    """Whether a function returns None, which the checker of every other answer takes for a forgotten `return`."""
    return function.__wrapped__(*arguments) is None
