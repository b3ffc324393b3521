"""Checkers of chapter 20, The speed of a training step."""

from dataclasses import replace

from ..config import ViTConfig, named
from . import exercise, expect, expect_number, is_near


@exercise
def check_at_most(at_most) -> None:
    """Bound by arithmetic, bound by memory, and neither more than the other."""
    answers = [float(at_most(100.0, 10.0, 200.0, moved)) for moved in (10.0, 50.0)]
    expect(answers != [3.0, 7.0], "the device computes while it reads: the longer of the two counts, not their sum")
    expect(answers != [1.0, 2.0], "the shorter of the two is not enough: the other has not ended by then")
    expect(answers != [2.0, 2.0], "50 bytes at 10 a second take 5 s, longer than 200 operations at 100 a second")
    expect(answers != [1.0, 5.0], "200 operations at 100 a second take 2 s, longer than 10 bytes at 10 a second")
    expect_number(answers[0], 2.0, "200 operations at 100 a second take 2 s, longer than 10 bytes at 10 a second")
    expect_number(answers[1], 5.0, "50 bytes at 10 a second take 5 s, longer than the operations")
    expect_number(
        at_most(8.0, 4.0, 4.0, 2.0), 0.5, "seconds are operations over the rate, and bytes over the bandwidth"
    )


@exercise
def check_share_of(share_of) -> None:
    """All, none, a half, and a rate of its own."""
    expect(
        not is_near(share_of(2.0, 2.0), 0.0), "that is the share that stays as it is: what became faster is asked for"
    )
    expect_number(share_of(2.0, 2.0), 1.0, "a step that becomes as fast as the share itself is all of it")
    answer = share_of(2.0, 1.0)
    expect_number(answer, 0.0, "a step no faster has a share of 0")
    answer = share_of(2.0, 4 / 3)
    expect(not is_near(answer, 1 / 3), "count time, not speed: the new step takes 1 − share + share / factor")
    expect_number(
        answer, 0.5, "half of a step twice as fast takes 1/2 + 1/4 of the time: the step is 4/3 times as fast"
    )
    expect_number(share_of(4.0, 1.6), 0.5, "half of a step four times as fast takes 1/2 + 1/8 of the time")


@exercise
def check_utilisation(utilisation) -> None:
    """Numbers whose factors can be told apart."""
    answer = utilisation(7.0, 11.0, 1000.0)
    expect(not is_near(answer, 0.077), "a multiply–add is two operations, and a step is more than its forward pass")
    expect(not is_near(answer, 0.154), "that is the forward pass alone: training takes about three times as much")
    expect(not is_near(answer, 0.231), "a multiply–add is two operations: a multiplication and an addition")
    expect(not is_near(answer, 0.308), "the backward pass takes two products for one; the forward pass comes on top")
    expect(not is_near(answer, 46.2), "a share of the rate, from 0 to 1; that is in per cent")
    expect_number(answer, 0.462, "7 images a second, 3 · 2 · 11 operations each, of 1,000 a second: 0.462")
    expect_number(utilisation(0.5, 3.0, 18.0), 0.5, "0.5 · 3 · 2 · 3 operations of 18 a second: a half")


@exercise
def check_precision(my_precision) -> None:
    """Every kind of device with every wish, on both sides of (8, 0)."""
    for amp in ("off", "bf16", "fp16"):
        for kind, capability in (("cpu", None), ("cuda", (7, 5)), ("cuda", (9, 0))):
            answer = my_precision(kind, capability, amp)
            expect(answer == amp, f"asked for {amp!r} on {kind}, {answer!r} comes back: anything but 'auto' decides")
    expect(my_precision("cpu", None, "auto") == "off", "on a CPU 'auto' is 'off'")
    expect(my_precision("cuda", (8, 0), "auto") == "bf16", "(8, 0) itself has bfloat16")
    for newer in ((8, 9), (9, 0), (12, 0)):
        answer = my_precision("cuda", newer, "auto")
        expect(answer == "bf16", f"{newer} comes after (8, 0) and has bfloat16; not {answer!r}")
    for older in ((7, 5), (6, 1)):
        answer = my_precision("cuda", older, "auto")
        expect(answer != "off", f"{older} is a GPU: it gains from half the bits, even without bfloat16")
        expect(answer == "fp16", f"{older} is before (8, 0) and has no bfloat16; not {answer!r}")


@exercise
def check_wide(wide) -> None:
    """Width, heads, depth and plan of two models, and everything else as it was."""
    for config in (named("vit_cifar_patch4_32"), named("vit_cifar_small_patch4_32")):
        answer = wide(config)
        expect(isinstance(answer, ViTConfig), f"return a ViTConfig, not {type(answer).__name__}")
        expect(answer.dim == 2 * config.dim, f"the width is {answer.dim}, and should be twice {config.dim}")
        expect(answer.heads == 2 * config.heads, f"there are {answer.heads} heads: twice {config.heads} are asked for")
        expect(answer.depth == config.depth // 3, f"there are {answer.depth} blocks: a third of {config.depth}")
        asked = replace(config, dim=answer.dim, heads=answer.heads, depth=answer.depth, plan=None)
        for name, value in asked.to_dict().items():
            expect(answer.to_dict()[name] == value, f"{name} changed too: change one thing at a time")
