"""Part 2: where the time of a step goes, in at most 150 s, the cheap and the certain first."""

import statistics
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping

import torch

from dtl_lib import ledger
from dtl_lib.config import ViTConfig
from dtl_lib.lab import bench
from dtl_lib.models import ViT
from dtl_lib.train.device import autocast
from tests.benchmarks.bench_tape import all_rows, class_token, recorded

from .. import one_gpu, rounds
from .schedule import Task
from .sizes import Sizes

EXPERIMENT = "gpu_steps"
CHANGES = (one_gpu.PLAIN, "plain, again", one_gpu.TF32, "bf16", "images made on the CPU", "compiled", "bf16, compiled")


def tasks(sizes: Sizes, options: Namespace) -> list[Task]:
    """In order of value for their seconds, which are given for each record: an H200 took no longer."""
    name, _, batch = sizes.cifar
    deit, config, many = sizes.deit
    half = bench.BenchConfig(many, amp="bf16", device=options.device)
    compiled = bench.BenchConfig(many, amp="bf16", compiled=sizes.compiler, device=options.device)
    standard = {one_gpu.STANDARD: sizes.plans[one_gpu.STANDARD]}

    def task(title: str, seconds: float, experiment: str, whats: Iterable[str], run: Callable, *arguments) -> Task:
        wanted = set(whats)
        left = lambda: wanted - ledger.measured(experiment, options.device, options.folder)  # noqa: E731
        return Task(2, title, lambda: seconds * len(left()), lambda: not left(), lambda: run(*arguments))

    def plans(title: str, seconds: float, these: dict, how: bench.BenchConfig) -> Task:
        whats = (f"{deit}, {label}: training step, {how}" for label in these)
        return task(title, seconds, one_gpu.STEPS, whats, one_gpu.move_tokens, deit, config, these, how, options)

    def batches(title: str, seconds: float, compiler: bool | str) -> Task:
        whats = (batch_of(name, _how(size, compiler, options)) for size in sizes.batches)
        return task(title, seconds, EXPERIMENT, whats, time_batches, sizes, compiler, options)

    def timm(title: str, seconds: float, how: bench.BenchConfig) -> Task:
        what = f"ours against timm: {deit}: training step, {how}"
        return task(title, seconds, EXPERIMENT, [what], against_timm, what, config, how, options)

    memories = [memory_of(*one) for one in _memories(sizes)]
    return [
        task(
            "a CIFAR step, one change at a time", 8, one_gpu.SPEED,
            (f"{name}, {label}: {batch} images a step" for label in CHANGES), change_one, sizes, options,
        ),
        batches("time against batch size", 2, False),
        plans("token plans at 224: does the cost model hold?", 3, sizes.plans, half),
        task("recording and maps", 10, EXPERIMENT, [looking_at(sizes)], look_inside, sizes, options),
        task("peak memory", 2, EXPERIMENT, memories, measure_memory, sizes, options),
        timm("ours against timm", 10, half),
        plans("DeiT-S compiled, in bf16", 40, standard, compiled),
        batches("time against batch size, compiled", 35, sizes.compiler),
        timm("ours against timm, both compiled", 45, compiled),
    ]  # fmt: skip


def change_one(sizes: Sizes, options: Namespace) -> None:
    """The CIFAR step, one change at a time."""
    name, config, batch = sizes.cifar
    plain = bench.BenchConfig(batch, amp="off", device=options.device)
    one_gpu.change_one(name, config, plain, options, CHANGES, sizes.compiler)


def batch_of(name: str, how: bench.BenchConfig) -> str:
    """What `time_batches` measures of one batch size."""
    return f"batch size: {name}: training step, {how}"


def time_batches(sizes: Sizes, compiler: bool | str, options: Namespace) -> None:
    """A record a batch size, the smallest first: what a step takes that has next to nothing to compute.

    Compiled, the first size has code of its own; from the second on the compiler makes one for every size.
    """
    name, config, _ = sizes.cifar
    done = ledger.measured(EXPERIMENT, options.device, options.folder)
    for size in sizes.batches:
        how = _how(size, compiler, options)
        if (what := batch_of(name, how)) in done:
            continue
        timing = bench.step_time(config, size, steps=sizes.steps, amp=how.amp, compiled=compiler, device=options.device)
        _add(EXPERIMENT, what, timing.to_dict() | one_gpu.shares(timing, options.sizes), sizes.steps, config, options)
        print(f"{what}: {1e3 * timing.median:.2f} ms", flush=True)


def looking_at(sizes: Sizes) -> str:
    """What `look_inside` measures."""
    name, _, batch = sizes.looked
    return f"looking inside: {name}: forward, batch {batch}, bf16, over a plain forward"


def look_inside(sizes: Sizes, options: Namespace) -> None:
    """A recorded forward pass, and one whose class-token maps are read, over a plain one."""
    _, config, batch = sizes.looked
    model = ViT(config).eval().to(options.device)
    images = torch.randn(batch, config.channels, *config.image_size, device=options.device)
    ways = {
        "plain": lambda: model(images),
        "plain_again": lambda: model(images),
        "plain_every_row": all_rows(model, images),
        "recording": recorded(model, images),
        "recording_all_rows_False": recorded(model, images, all_queries=False),
        "the_same_and_the_class_token": recorded(model, images, class_token, all_queries=False),
        "class_token_of_every_block": recorded(model, images, class_token),
    }
    with torch.inference_mode(), autocast(torch.device(options.device), "bf16"):
        seconds = bench.measure(ways, sizes.rounds, options.device)
    ratios = {way: bench.ratio(seconds, way, "plain") for way in ways}
    values = _medians(seconds) | {way: [one.value, one.low, one.high] for way, one in ratios.items()}
    _add(EXPERIMENT, looking_at(sizes), values, sizes.rounds, config, options)
    print(", ".join(f"{way} {one}" for way, one in ratios.items()), flush=True)


def memory_of(name: str, config: ViTConfig, batch: int, amp: str) -> str:
    """What `measure_memory` measures of a model."""
    return f"peak memory: {name}: training step, batches of {batch:,}, {'float32' if amp == 'off' else amp}"


def measure_memory(sizes: Sizes, options: Namespace) -> None:
    """The peak of a training step beside what the cost model takes to be there at one time."""
    done = ledger.measured(EXPERIMENT, options.device, options.folder)
    for name, config, batch, amp in _memories(sizes):
        if (what := memory_of(name, config, batch, amp)) in done:
            continue
        how = bench.BenchConfig(batch, amp=amp, device=options.device)
        peak = bench.step_memory(config, batch, amp=amp, device=options.device)
        values = rounds.predicted(config, config, how)
        values = {name: values[name] for name in ("activation_bytes", "model_bytes")} | {"peak_bytes": peak}
        _add(EXPERIMENT, what, values | {"over_model": peak / values["model_bytes"]}, 1, config, options)
        print(f"{what}: {peak / 1e9:.2f} GB, {peak / values['model_bytes']:.2f} times the cost model's", flush=True)


def against_timm(what: str, config: ViTConfig, how: bench.BenchConfig, options: Namespace) -> None:
    """timm's time over ours, and over that of a copy of timm's."""
    same = {"amp": how.amp, "compiled": how.compiled, "device": how.device}
    found = bench.against_timm(config, how.batch_size, rounds=options.rounds, **same)
    values = {"speed": found.speed, "control": found.control}
    values = {name: [one.value, one.low, one.high] for name, one in values.items()}
    medians = {
        f"{name.replace(', a ', '_')}_ms": 1e3 * float(torch.tensor(t).median()) for name, t in found.seconds.items()
    }
    _add(EXPERIMENT, what, values | medians, options.rounds, config, options)
    print(found, flush=True)


def _memories(sizes: Sizes) -> list[tuple[str, ViTConfig, int, str]]:
    return [(*model, amp) for model in (sizes.cifar, sizes.deit) for amp in ("off", "bf16")]


def _how(size: int, compiler: bool | str, options: Namespace) -> bench.BenchConfig:
    return bench.BenchConfig(size, amp="bf16", compiled=compiler, device=options.device)


def _medians(seconds: Mapping) -> dict[str, float]:
    return {f"{name.replace(', a ', '_')}_ms": 1e3 * statistics.median(times) for name, times in seconds.items()}


def _add(experiment: str, what: str, values: dict, n: int, config: ViTConfig, options: Namespace) -> None:
    about = {"n": n, "seed": None, "config": config.to_dict(), "folder": options.folder}
    ledger.add(experiment, what, options.command, options.device, values, **about)
