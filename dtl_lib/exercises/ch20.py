"""Checkers of chapter 20, One GPU."""

import math

from . import exercise, expect


def _is(found, wanted: float, hint: str) -> None:
    """Refuse a number that is not `wanted`."""
    expect(isinstance(found, int | float) and math.isclose(found, wanted, rel_tol=1e-9), f"{hint}; not {found!r}")


@exercise
def check_utilisation(utilisation) -> None:
    """A device of a round number."""
    found = utilisation(1000, 10**9, 10**13)
    expect(found != 0.1, "that is the forward pass in multiply–adds: training takes 3 × 2 operations for each")
    _is(found, 0.6, "1,000 pictures/s × 6 × 10⁹ operations over 10¹³ a second is a share of 0.6")
    _is(utilisation(50, 2 * 10**6, 6 * 10**9), 0.1, "images/s × 6 × multiply–adds, over the rate")


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
    _is(seconds_to(rows, 0.85), 4.0, "the first row that reaches 0.85 is at 4.0 seconds")
    _is(seconds_to(rows, 0.9), 4.0, "exactly 0.9 has reached 0.9")
    _is(seconds_to(rows, 0.5), 2.0, "the first row, not the best and not the last")
    never = [row.copy() for row in rows[:3]]
    expect(_none(seconds_to, never, 0.9), "a run that never gets there has no time: return None")


@exercise
def check_next_scale(next_scale) -> None:
    """Overflow, growth, and neither."""
    for asked, wanted, hint in (
        ((1024.0, True, 5, 10), (512.0, 0), "after an overflow the scale is halved, and the count begins again"),
        (
            (1024.0, False, 10, 10),
            (2048.0, 0),
            "after `every` good steps the scale is doubled, and the count begins again",
        ),
        ((1024.0, False, 9, 10), (1024.0, 9), "until then the scale and the count stay as they are"),
        ((64.0, True, 10, 10), (32.0, 0), "an overflow counts, whatever came before it"),
    ):
        found = next_scale(*asked)
        expect(isinstance(found, tuple) and len(found) == 2, "return two things: the scale and the count")
        expect(found == wanted, f"{hint}: next_scale{asked} is {wanted}, not {found}")


@exercise
def check_training_bytes(training_bytes) -> None:
    """Parameters alone, pictures alone, both."""
    found = training_bytes(10, 0, 1)
    expect(found != 40, "that is the weights alone: there are gradients and AdamW's two averages as well")
    expect(found != 120, "weights, gradients and *two* averages: four numbers a parameter")
    _is(found, 160, "4 numbers of 4 bytes for each of 10 parameters")
    _is(training_bytes(10, 3, 100), 160 + 300, "what is kept is kept for every picture of the batch")


def _none(function, *arguments) -> bool:
    """Whether a function returns None, which the checker of every other answer takes for a forgotten `return`."""
    return function.__wrapped__(*arguments) is None
