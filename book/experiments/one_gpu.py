"""How long a step takes, for chapters 20 and 21: tokens that move, and what precision, compiling and layout bring.

    python -m book.experiments.one_gpu steps
    python -m book.experiments.one_gpu speed

`steps` times a forward pass and a training step of DeiT-Ti, DeiT-S and CaiT-XXS24 with the standard plan and with
tokens that move (experiment `step_time`); `speed` changes one thing at a time in a training step on CIFAR-10's size
(`step_speed`). What is compared runs in alternating rounds, on the GPU where there is one; run it alone on a machine.
What has its record of this device is not measured again, so an interrupted command goes on where it stopped.

What is called float32 is full float32 for products of matrices, on a GPU too: TF32 is not asked for.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache

import torch

from dtl_lib import ledger
from dtl_lib.config import ViTConfig, named
from dtl_lib.host import find_device
from dtl_lib.lab import bench
from dtl_lib.lab.bench.step import augmented
from dtl_lib.tokens import TokenPlan

STEPS, SPEED = "step_time", "step_speed"
STANDARD, PLAIN = "standard", "plain"
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
            how = _how(options, name, training=training)
            configs = {label: named(name).with_plan(plan) for label, plan in plans.items()}
            makers = {label: (config, how, None) for label, config in configs.items()}
            title = f"{name}, {{}}: {'training step' if training else 'forward pass'}, {how}"
            for label, timing, values in compared(STEPS, title, makers, options):
                usual, this = (configs[place].cost().total for place in (STANDARD, label))
                values["predicted"] = usual / this
                record(STEPS, title.format(label), timing, values, configs[label], options)


def speed(options: argparse.Namespace) -> None:
    """One change at a time to a plain training step: float32, not compiled, images that lie on the device ready."""
    config, plain = named(CIFAR), _how(options, CIFAR, amp="off")
    on, every = plain.device, {"amp": "bf16", "channels_last": True, "compiled": True}
    changes = {
        PLAIN: ({}, None), "plain, again": ({}, None), "bf16": ({"amp": "bf16"}, None),
        "channels last": ({"channels_last": True}, None), "compiled": ({"compiled": True}, None),
        "images made on the device": ({}, on),
    }  # fmt: skip
    if plain.place.type == "cuda":
        changes |= {"images made on the CPU": ({}, "cpu"), "bf16, compiled, images made on the device": (every, on)}
    hows = {label: replace(plain, **change) for label, (change, _) in changes.items()}
    makers = {label: (config, hows[label], made_on) for label, (_, made_on) in changes.items()}
    title = f"{CIFAR}, {{}}: {plain.batch_size} images a step"
    for label, timing, values in compared(SPEED, title, makers, options):
        record(SPEED, title.format(label), timing, values, config, options)


def compared(experiment: str, title: str, makers: Mapping, options) -> Iterator[tuple[str, bench.Timing, dict]]:
    """Runs of which the first is what the others are compared with; those that have their record are left out.

    Args:
        experiment: whose records there may be.
        title: what is measured, with {} for the label.
        makers: label → configuration, how it is run, and where the images of a step are made (None: nowhere).
        options: of the command line.

    Yields:
        label, timing, and values for the record: among them how many times as fast as the first.
    """
    (first, (_, how, _)), done = next(iter(makers.items())), ledger.measured(experiment, find_device(options.device))
    todo = [label for label in makers if title.format(label) not in done and options.only in title.format(label)]
    if not todo:
        return
    begun = {}
    for label in dict.fromkeys([first, *todo]):
        config, each, made_on = makers[label]
        begun[label] = bench.warm_step(config, each, _make(config, each, made_on) if made_on else None)
    rounds = options.rounds or ROUNDS.get(how.place.type, ROUNDS["cpu"])
    seconds = bench.measure({label: one.run for label, one in begun.items()}, rounds, how.device)
    for label in todo:
        timing, ratio = begun[label].timing(seconds[label]), bench.ratio(seconds, first, label)
        rate = _rate(how.device, timing.how.dtype)
        values = timing.to_dict() | {"utilisation": timing.utilisation(rate), "matmul_flops": rate.flops}
        yield label, timing, values | {"speed": [ratio.value, ratio.low, ratio.high]}


def record(experiment: str, what: str, timing: bench.Timing, values: dict, config: ViTConfig, options) -> None:
    """Print it, and add it to the ledger unless it is only tried."""
    speed, low, high = values["speed"]
    print(f"{what}: {1e3 * timing.median:.1f} ms, {speed:.3f} [{low:.3f}, {high:.3f}] times as fast", flush=True)
    if not options.dry:
        command = f"python -m book.experiments.one_gpu {options.part}"
        about = {"config": config.to_dict(), "recipe": timing.how.recipe.to_dict()}
        ledger.add(experiment, what, command, timing.how.device, values, n=len(timing.seconds), seed=None, **about)


def _make(config: ViTConfig, how: bench.BenchConfig, made_on: str) -> Callable:
    """What gives a step whose images are cropped, flipped and normalised each time."""
    return lambda: bench.make_step(config, how, batch=augmented(config, how, made_on))


def _how(options: argparse.Namespace, name: str, **more) -> bench.BenchConfig:
    device = find_device(options.device)
    kind = device.type if device.type in BATCH else "cpu"
    return bench.BenchConfig(options.batch_size or BATCH[kind].get(name, ELSE[kind]), device=str(device), **more)


@cache
def _rate(device: str, dtype: torch.dtype) -> bench.Rate:
    return bench.matmul_rate(device, dtype)


def main(arguments: list[str] | None = None) -> None:
    """One part of the runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("steps", "speed"))
    parser.add_argument("--device", help="the GPU where there is one")
    parser.add_argument("--batch-size", type=int, help="images a step, for every model")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS['cpu']} on a CPU, {ROUNDS['cuda']} on a GPU")
    parser.add_argument("--only", default="", help="what holds these words")
    parser.add_argument("--dry", action="store_true", help="record nothing")
    options = parser.parse_args(arguments)
    bench.keep_memory()
    {"steps": steps, "speed": speed}[options.part](options)


if __name__ == "__main__":
    main()
