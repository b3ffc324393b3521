"""Checkers of chapter 22, The ledger."""

from ..config import named
from ..models import ViT
from . import exercise, expect, expect_fresh, expect_number

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
    """Intervals on either side of zero and across it, both claims, and three margins."""
    for case, (low, high, claim, margin, right) in CASES.items():
        answer = my_verdict(low, high, claim, margin)
        shown = f"{case}, from {low:g} to {high:g}, margin {margin:g}"
        hint = HINTS.get((answer, right, claim)) or HINTS.get((answer, right), "") if isinstance(answer, str) else ""
        expect(answer == right, f"{shown}: {right!r}, not {answer!r}" + (f"; {hint}" if hint else ""))


@exercise
def check_by_chance(by_chance) -> None:
    """One claim, twenty, a hundred; two levels."""
    answer = by_chance(20, 0.05)
    expect(isinstance(answer, tuple) and len(answer) == 2, "return two numbers: how many are expected, and how likely")
    expected, any_at_all = answer
    expect(abs(float(expected) - 1.0) > 1e-9, "half of the false findings have the wrong sign: those are 'opposite'")
    expect_number(expected, 0.5, "of 20 true nulls 1 interval in 20 leaves out 0, and half of those have the sign")
    expect(abs(float(any_at_all) - (1 - 0.95**20)) > 1e-9, "that counts the false findings of either sign")
    expect(abs(float(any_at_all) - 0.5) > 1e-9, "a probability is not an expectation: it cannot grow beyond 1")
    expect_number(any_at_all, 1 - 0.975**20, "at least one is the opposite of none: (1 − level / 2) to the power of 20")
    for claims, level in ((1, 0.05), (100, 0.05), (100, 0.01)):
        expected, any_at_all = by_chance(claims, level)
        expect_number(expected, claims * level / 2, f"{claims} claims at {level:g}: how many are expected")
        expect_number(any_at_all, 1 - (1 - level / 2) ** claims, f"{claims} claims at {level:g}: at least one")


@exercise
def check_runs_needed(runs_needed) -> None:
    """Intervals that have to become two, three and ten times as short, and one that is short already."""
    answer = runs_needed(2.0, 5, 1.0)
    expect(answer != 10, "half as long takes four times the runs: the root of their number divides")
    for half, runs, margin, right in ((2.0, 5, 1.0, 20), (3.0, 3, 1.0, 27), (1.5, 3, 1.0, 7), (0.5, 5, 1.0, 5)):
        answer = runs_needed(half, runs, margin)
        hint = "whole runs: round up" if answer != right and abs(float(answer) - right) < 1 else ""
        hint = hint or ("no fewer than there are" if answer < runs else "")
        expect(
            answer == right,
            f"± {half:g} with {runs} runs, margin {margin:g}: {right}, not {answer}; {hint}".rstrip("; "),
        )


@exercise
def check_large_patches(large_patches) -> None:
    """Patches of 16 in the plain model, and nothing else changed."""
    model, plain = large_patches(), named("vit_shapes_patch8_32")
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    config = model.config
    expect(config.patch_size == 16, f"patches are {config.patch_size} × {config.patch_size}, and should be 16 × 16")
    same = ("image_size", "dim", "depth", "heads", "mlp_ratio", "plan", "pool", "positions", "classes")
    changed = [name for name in same if getattr(config, name) != getattr(plain, name)]
    expect(not changed, f"change the patches alone: {', '.join(changed)} differs from the plain model's")
    expect_fresh(large_patches)
