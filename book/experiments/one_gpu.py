"""How long a step takes, for chapters 20 and 21: tokens that move, and what precision, compiling and layout bring.

    python -m book.experiments.one_gpu steps
    python -m book.experiments.one_gpu speed

`steps` times a forward pass and a training step of DeiT-Ti, DeiT-S and CaiT-XXS24 with the standard plan and with
tokens that move (experiment `step_time`); `speed` changes one thing at a time in a training step on CIFAR-10's size
(`step_speed`). What is compared runs in alternating rounds, on the GPU where there is one; run it alone on a machine.
What has its record of this device is not measured again, so an interrupted command goes on where it stopped.

What is called float32 is full float32 for products of matrices, on a GPU too: TF32 is a change like the
others. (The patches' convolution is cuDNN's, which takes TF32 in any case.)
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial

import torch

from dtl_lib.config import ViTConfig, named
from dtl_lib.host import device_name, find_device
from dtl_lib.lab import bench
from dtl_lib.lab.bench.step import augmented
from dtl_lib.tokens import TokenPlan

from . import rounds
from .peaks import of_sheet, tf32
from .rounds import Compared, Subject, compared, record

STEPS, SPEED = "step_time", "step_speed"
STANDARD, PLAIN, TF32 = "standard", "plain", "TF32"
DEIT = {
    STANDARD: TokenPlan.of(12),
    "class token from 6, 4 registers from 3": TokenPlan.of(12, 6, 3, 4),
    "class token from 6": TokenPlan.of(12, 6),
    "class token from 11": TokenPlan.of(12, 11),
    "4 registers from 0": TokenPlan.of(12, 0, 0, 4),
}
CAIT = {
    STANDARD: TokenPlan.of(24, 24, class_blocks=2),
    "4 registers from 0": TokenPlan.of(24, 24, 0, 4, class_blocks=2),
    "4 registers from 12": TokenPlan.of(24, 24, 12, 4, class_blocks=2),
}
MODELS = {"deit_tiny_patch16_224": DEIT, "deit_small_patch16_224": DEIT, "cait_xxs24_224": CAIT}
CIFAR = "vit_cifar_patch4_32"
BATCH = {"cpu": {"deit_tiny_patch16_224": 8, CIFAR: 32}, "cuda": {"cait_xxs24_224": 128, CIFAR: 512}}
ELSE, ROUNDS = {"cpu": 4, "cuda": 256}, {"cpu": 20, "cuda": 100}


def steps(options: argparse.Namespace) -> None:
    """Tokens that move, against the standard plan."""
    for name, plans in MODELS.items():
        for training in (False, True):
            move_tokens(name, named(name), plans, _how(options, name, training=training), options)


def move_tokens(
    name: str, config: ViTConfig, plans: Mapping[str, TokenPlan], how: bench.BenchConfig, options: argparse.Namespace
) -> None:
    """Time one model with each of the plans, and record it beside what the cost model says of the speed.

    Args:
        name: of the model.
        config: with any plan.
        plans: label → plan; the others are compared with the first.
        how: all are run.
        options: of the command line.
    """
    subjects = {label: Subject(config.with_plan(plan), how) for label, plan in plans.items()}
    title = f"{name}, {{}}: {'training step' if how.training else 'forward pass'}, {how}"
    for one in compared(STEPS, title, subjects, _rounds(options, how), options):
        usual, this = (subject.config.cost().total for subject in (one.first, one.subject))
        values = _values(one, options) | {"predicted": usual / this}
        record(STEPS, title.format(one.label), one, values, options.command, options)


def speed(options: argparse.Namespace) -> None:
    """One change at a time to a plain training step, on CIFAR-10's size."""
    change_one(CIFAR, named(CIFAR), _how(options, CIFAR, amp="off"), options)


def change_one(
    name: str, config: ViTConfig, plain: bench.BenchConfig, options: argparse.Namespace,
    labels: Sequence[str] = (), compiler: bool | str = True,
) -> None:  # fmt: skip
    """One change at a time to a plain training step: float32, not compiled, images that lie on the device ready.

    Args:
        name, config: of the model.
        plain: how the plain step is run.
        options: of the command line.
        labels: which changes; those that the device has a use for where left out.
        compiler: what compiles, as in `BenchConfig`.
    """
    compiled, half = {"compiled": compiler}, {"amp": "bf16"}
    changes = {
        PLAIN: ({}, None), "plain, again": ({}, None), "bf16": (half, None),
        "channels last": ({"channels_last": True}, None), "compiled": (compiled, None),
        "images made on the device": ({}, plain.device), TF32: ({}, None), "bf16, compiled": (half | compiled, None),
        "images made on the CPU": ({}, "cpu"),
        "bf16, compiled, images made on the device": (half | compiled | {"channels_last": True}, plain.device),
    }  # fmt: skip
    labels = labels or (changes if plain.place.type == "cuda" else list(changes)[:6])
    subjects = {}
    for label in labels:
        change, made_on = changes[label]
        subjects[label] = _subject(label, config, replace(plain, **change), made_on)
    title = f"{name}, {{}}: {plain.batch_size} images a step"
    for one in compared(SPEED, title, subjects, _rounds(options, plain), options):
        record(SPEED, title.format(one.label), one, _values(one, options), options.command, options)


def shares(timing: bench.Timing, sizes: tuple[int, ...] = (), in_tf32: bool = False) -> dict[str, float]:
    """What share a step reaches of the measured rate of matrix products, and of the data sheet's where that is known.

    Args:
        timing: of the step.
        sizes: as in `bench.matmul_rate`.
        in_tf32: whether float32 was multiplied as TF32.
    """
    how = timing.how
    rate, sheet = (
        matmul_rate(how.device, how.dtype, sizes, in_tf32),
        of_sheet(device_name(how.device), how.dtype, in_tf32),
    )
    values = {"utilisation": timing.utilisation(rate), "matmul_flops": rate.flops}
    return values | ({"sheet_flops": sheet, "of_sheet": timing.flops / sheet} if sheet else {})


def _values(one: Compared, options: argparse.Namespace) -> dict:
    speed = [one.faster.value, one.faster.low, one.faster.high]
    return shares(one.timing, options.sizes, one.subject.inside is tf32) | {"speed": speed}


def _subject(label: str, config: ViTConfig, how: bench.BenchConfig, made_on: str | None) -> Subject:
    make = partial(_make, config, how, made_on) if made_on else None
    return Subject(config, how, make, tf32 if label == TF32 else nullcontext)


def _rounds(options: argparse.Namespace, how: bench.BenchConfig) -> int:
    return options.rounds or ROUNDS.get(how.place.type, ROUNDS["cpu"])


def _make(config: ViTConfig, how: bench.BenchConfig, made_on: str) -> Callable:
    """A step whose images are cropped, flipped and normalised each time."""
    return bench.make_step(config, how, batch=augmented(config, how, made_on))


def _how(options: argparse.Namespace, name: str, **more) -> bench.BenchConfig:
    device = find_device(options.device)
    kind = device.type if device.type in BATCH else "cpu"
    return bench.BenchConfig(options.batch_size or BATCH[kind].get(name, ELSE[kind]), device=str(device), **more)


@cache
def matmul_rate(device: str, dtype: torch.dtype, sizes: tuple[int, ...] = (), in_tf32: bool = False) -> bench.Rate:
    """`bench.matmul_rate`, measured once; with `in_tf32`, of float32 matrices that are multiplied as TF32."""
    with tf32() if in_tf32 else nullcontext():
        return bench.matmul_rate(device, dtype, sizes)


def main(arguments: list[str] | None = None) -> None:
    """One part of the runs."""
    parser = rounds.parser(__doc__.splitlines()[0], ROUNDS)
    parser.add_argument("part", choices=("steps", "speed"))
    options = parser.parse_args(arguments)
    options.command, options.sizes = f"python -m book.experiments.one_gpu {options.part}", ()
    bench.keep_memory()
    {"steps": steps, "speed": speed}[options.part](options)


if __name__ == "__main__":
    main()
