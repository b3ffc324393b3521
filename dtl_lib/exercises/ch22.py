"""Checkers of chapter 22, The ledger."""

import math
from dataclasses import fields

from ..config import named
from ..models import ViT
from . import exercise, expect, expect_fresh, expect_number, is_near

CASES = {  # low, high, claim, margin, and the verdict
    "an interval above 0, where above is claimed": (0.4, 2.2, 1, 1.0, "reproduced"),
    "an interval above 0, where below is claimed": (0.4, 2.2, -1, 1.0, "opposite"),
    "an interval below 0, where below is claimed": (-2.6, -0.8, -1, 1.0, "reproduced"),
    "an interval below 0, where above is claimed": (-2.6, -0.8, 1, 1.0, "opposite"),
    "a short interval that contains 0": (-0.5, 0.7, 1, 1.0, "null"),
    "a long interval that contains 0": (-0.8, 2.4, 1, 1.0, "undecided"),
    "one that contains 0 and is too long below it": (-2.4, 0.8, 1, 1.0, "undecided"),
    "one that leaves out 0 and lies within the margin": (0.1, 0.3, 1, 1.0, "reproduced"),
    "no difference is claimed, and the interval is short": (-0.5, 0.7, 0, 1.0, "reproduced"),
    "no difference is claimed, and the interval is long": (-0.8, 2.4, 0, 1.0, "undecided"),
    "no difference is claimed, and one is found": (1.2, 3.4, 0, 1.0, "opposite"),
    "no difference that matters is claimed, and a tiny one is found": (0.1, 0.3, 0, 1.0, "reproduced"),
    "short beside 2 margins, and beyond one": (-0.4, 1.2, 1, 1.0, "undecided"),
    "a tiny one above 0, where below is claimed": (0.1, 0.3, -1, 1.0, "opposite"),
    "no difference is claimed; short beside 2 margins, and beyond one": (-0.4, 1.2, 0, 1.0, "undecided"),
    "no difference is claimed, and one is found that may be small": (0.4, 2.2, 0, 1.0, "opposite"),
    "no difference is claimed, and the margin is 3": (-0.8, 2.4, 0, 3.0, "reproduced"),
    "no difference is claimed, and the margin is 0.2": (0.1, 0.3, 0, 0.2, "opposite"),
    "another margin: 3": (-0.8, 2.4, -1, 3.0, "null"),
    "another margin: 0.1": (-0.5, 0.7, -1, 0.1, "undecided"),
}
HINTS = {
    ("null", "undecided"): "it contains 0, but reaches beyond the margin: a difference that matters is not excluded",
    ("undecided", "null"): "it lies within the margin on both sides, so what is excluded is all that matters",
    ("null", "reproduced"): "found is found, however small: it leaves out 0",
    ("opposite", "reproduced"): "its sign is the claimed one",
    ("reproduced", "opposite"): "it leaves out 0, and what it leaves is not what was claimed",
    ("null", "reproduced", 0): "that no difference matters is what was claimed",
    ("opposite", "reproduced", 0): "a difference is found, but none that matters, and that is what was claimed",
    ("undecided", "reproduced", 0): "no difference that matters was claimed, and none is left",
}


@exercise
def check_my_verdict(my_verdict) -> None:
    """Intervals on either side of zero and across it, all claims, and several margins; each also turned round zero."""
    turned = {
        f"{case}, turned round 0": (-high, -low, -claim, *rest) for case, (low, high, claim, *rest) in CASES.items()
    }
    for case, (low, high, claim, margin, right) in (CASES | turned).items():
        answer = my_verdict(low, high, claim, margin)
        shown = f"{case}, from {low:g} to {high:g}, claim {claim}, margin {margin:g}"
        hint = HINTS.get((answer, right, claim)) or HINTS.get((answer, right), "") if isinstance(answer, str) else ""
        expect(answer == right, f"{shown}: {right!r}, not {answer!r}" + (f"; {hint}" if hint else ""))


@exercise
def check_by_chance(by_chance) -> None:
    """One claim, twenty, a hundred; two levels."""
    answer = by_chance(20, 0.05)
    pair = isinstance(answer, tuple | list) or getattr(answer, "ndim", 0) == 1
    expect(pair and len(answer) == 2, "return two numbers: how many are expected, and how likely")
    expected, any_at_all = answer
    expect(not is_near(expected, 1.0), "half of the false findings have the wrong sign: those are 'opposite'")
    expect_number(expected, 0.5, "of 20 true nulls 1 interval in 20 leaves out 0, and half of those have the sign")
    expect(not is_near(any_at_all, 1 - 0.95**20), "that counts the false findings of either sign")
    expect(not is_near(any_at_all, 0.5), "a probability is not an expectation: it cannot grow beyond 1")
    expect_number(any_at_all, 1 - 0.975**20, "at least one is the opposite of none: (1 − level / 2) to the power of 20")
    for claims, level in ((1, 0.05), (100, 0.05), (100, 0.01)):
        expected, any_at_all = by_chance(claims, level)
        expect_number(expected, claims * level / 2, f"{claims} claims at {level:g}: how many are expected")
        expect_number(any_at_all, 1 - (1 - level / 2) ** claims, f"{claims} claims at {level:g}: at least one")


@exercise
def check_runs_needed(runs_needed) -> None:
    """Intervals that have to become two to four times as short, or a little, or not at all; three margins."""
    expect(not is_near(runs_needed(2.0, 4, 1.0), 8), "half as long takes four times the runs: their root divides")
    cases = ((2.0, 4, 1.0), (4.0, 4, 1.0), (1.5, 3, 1.0), (1.1, 5, 1.0), (3.0, 3, 2.0), (1.0, 4, 0.25), (0.5, 5, 1.0))
    for half, runs, margin in cases:  # their roots and quotients are exact, or far from a whole number
        answer, exact = runs_needed(half, runs, margin), runs * (half / margin) ** 2
        right = max(runs, math.ceil(exact))
        hint = ""
        if not is_near(right, exact) and any(is_near(answer, it) for it in (exact, math.floor(exact))):
            hint = "; no fewer than there are" if exact < runs else "; whole runs: round up"
        elif exact < runs and is_near(answer, math.ceil(exact)):
            hint = "; no fewer than there are"
        expect(
            is_near(answer, right),
            f"± {half:g} with {runs} runs, margin {margin:g}: {right} in all, not {answer!r}{hint}",
        )


@exercise
def check_large_patches(large_patches) -> None:
    """Patches of 16 in the plain model, and nothing else changed."""
    model, plain = large_patches(), named("vit_shapes_patch8_32")
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    config = model.config
    expect(config.patch_size == 16, f"patches are {config.patch_size} × {config.patch_size}, and should be 16 × 16")
    same = [field.name for field in fields(plain) if field.name != "patch_size"]
    changed = [name for name in same if getattr(config, name) != getattr(plain, name)]
    expect(not changed, f"change the patches alone: {', '.join(changed)} differs from the plain model's")
    expect_fresh(large_patches)
