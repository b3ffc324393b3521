"""`dtl bench`: how long a step of a model takes here, why, and what training comes to on more GPUs.

`--amp off` is float32, and on a GPU full float32 for products of matrices: TF32 is not asked for, neither here nor in
training. The patches' convolution is cuDNN's, which PyTorch lets use TF32.
"""

from argparse import Namespace
from collections.abc import Sequence

import torch

from .. import ledger
from ..config import ViTConfig, named
from ..host import device_name, find_device
from ..lab import bench
from ..lab.bench.estimate import IMAGENET_IMAGES, Cluster, cores_needed, estimate, images_per_second_needed, table
from .configure import configured

DEFAULT = "deit_tiny_patch16_224"
BATCH = {"cuda": 64}  # elsewhere 8
GPUS, EPOCHS = (1, 8, 64), 300.0


def main(args: Namespace) -> None:
    """Time a forward pass and a training step; print rates, memory, utilisation, and what else was asked for."""
    config, device = configured(named(args.model or DEFAULT), args), str(find_device(args.device))
    how = {name: getattr(args, name) for name in ("amp", "compiled", "channels_last")} | {"device": device}
    batch = args.batch_size or BATCH.get(device.partition(":")[0], 8)
    _check(args, batch, config)
    if device == "cpu":
        bench.keep_memory()
    _announce(args, config, bench.BenchConfig(batch, **how))
    timings = [run(config, batch, steps=args.steps, **how) for run in (bench.forward_time, bench.step_time)]
    rate = bench.matmul_rate(device, timings[0].how.dtype)
    print(_timed(timings, rate), flush=True)
    speeds = [_against(timing, config, args.steps, how) if args.against else {} for timing in timings]
    if args.profile:
        print(_parts(bench.profile_step(config, batch, **how)))
    if many := _extrapolated(args, timings[1].median, batch, config):
        print(many)
    for timing, speed in zip(timings, speeds) if args.record else ():
        _record(args, timing, rate, speed, config)
        print(f"recorded in {ledger.path(args.record)}")


def _check(args: Namespace, batch: int, config: ViTConfig) -> None:
    """A ValueError for what would only be found out after the measurement."""
    if args.profile and args.compiled:
        raise ValueError("--profile takes the step apart, and a compiled one has no parts: leave --compile out")
    _extrapolated(args, 1.0, batch, config)
    if args.against:
        with torch.device("meta"):
            bench.timm_of(config)


def _announce(args: Namespace, config: ViTConfig, how: bench.BenchConfig) -> None:
    cost, (height, width) = config.cost(), config.image_size
    threads = f", {(n := torch.get_num_threads())} thread{'s' * (n > 1)}" if how.device == "cpu" else ""
    print(
        f"{config.plan}\n\n{args.model or DEFAULT}, {height}×{width} pixels: {cost.parameters / 1e6:.2f} M parameters,"
    )
    print(f"{cost.total / 1e6:,.1f} M multiply–adds an image; {how},")
    print(f"on {device_name(how.device)}{threads}", flush=True)


def _timed(timings: Sequence[bench.Timing], rate: bench.Rate) -> str:
    """Both timings, side by side."""
    rows = {"": [timing.what for timing in timings]}
    rows["images/s, median"] = [f"{timing.images_per_s[1]:,.1f}" for timing in timings]
    rows["  quartiles"] = ["{:,.1f} to {:,.1f}".format(*timing.images_per_s[::2]) for timing in timings]
    rows["ms a step"] = [f"{1e3 * timing.median:,.2f}" for timing in timings]
    rows["first step, s"] = [f"{timing.first_seconds:,.2f}" for timing in timings]
    rows["multiply–adds a step, G"] = [f"{timing.multiply_adds / 1e9:,.2f}" for timing in timings]
    rows["GFLOP/s"] = [f"{timing.flops / 1e9:,.1f}" for timing in timings]
    rows["model FLOP utilisation"] = [f"{timing.utilisation(rate):.1%}" for timing in timings]
    peaks = ["–" if timing.peak_bytes is None else f"{timing.peak_bytes / 2**20:,.0f}" for timing in timings]
    rows["memory at the peak, MiB"] = peaks
    lines = [f"{name:26}" + "".join(f"{cell:>22}" for cell in cells) for name, cells in rows.items()]
    kind = str(rate.dtype).removeprefix("torch.")
    notes = [
        f"n = {len(timings[0].seconds)} steps after a warm-up; the first step, compiling included, is not among them.",
        "A multiply–add is two FLOP; a training step counts as three forward passes. Utilisation is of "
        f"{rate.flops / 1e9:,.1f} GFLOP/s,",
        f"measured here on products of two {kind} matrices of {rate.size}×{rate.size}.",
        f"Memory of a training step: {timings[1].memory}.",
    ]
    return "\n".join(["", *lines, *notes])


def _against(timing: bench.Timing, config: ViTConfig, rounds: int, how: dict) -> dict:
    training = timing.what == "training step"
    found = bench.against_timm(config, timing.how.batch_size, rounds=rounds, training=training, **how)
    print(f"{timing.what}: {found}", flush=True)
    parts = {"speed": found.speed, "control": found.control}
    return {name: [part.value, part.low, part.high] for name, part in parts.items()}


def _parts(parts: Sequence[bench.Part]) -> str:
    total = sum(part.seconds for part in parts)
    lines = [f"{part.name:40}{1e3 * part.seconds:10.2f} ms{part.seconds / total:8.1%}" for part in parts]
    return "\n".join(["", *lines, f"{'a step, watched':40}{1e3 * total:10.2f} ms"])


def _extrapolated(args: Namespace, step_seconds: float, batch: int, config: ViTConfig) -> str:
    """Training on many GPUs, as a table, and what their loader has to deliver; empty where nobody asked."""
    scale = {"gpus_per_host": 1, "within": 1e9, "between": 1e9, "overlap": 1, "loader_rate": 1}
    asked = {name: getattr(args, name) * by for name, by in scale.items() if getattr(args, name) is not None}
    if not asked and all(value is None for value in (args.gpus, args.epochs, args.images, args.core_rate)):
        return ""
    cluster = Cluster(**{name.removesuffix("_rate"): value for name, value in asked.items()})
    epochs, parameters = EPOCHS if args.epochs is None else args.epochs, config.cost().parameters
    more = {"epochs": epochs, "images": args.images or IMAGENET_IMAGES, "cluster": cluster}
    found = [estimate(step_seconds, batch, parameters, gpus, **more) for gpus in args.gpus or GPUS]
    gpus, needed = cluster.gpus_per_host, images_per_second_needed(step_seconds, batch, cluster.gpus_per_host)
    feed = f"To feed the {gpus} GPUs of a host its loader has to deliver {needed:,.0f} images/s"
    if args.core_rate is not None:
        feed += f": {cores_needed(needed, args.core_rate):,} cores at {args.core_rate:g} each"
    return f"\n{table(found, parameters, **more)}\n{feed}."


def _record(args: Namespace, timing: bench.Timing, rate: bench.Rate, speed: dict, config: ViTConfig):
    values = timing.to_dict() | {"matmul_flops": rate.flops, "utilisation": timing.utilisation(rate)} | speed
    what = f"{args.model or DEFAULT}: {timing.what}, {timing.how}"
    about = {"n": len(timing.seconds), "seed": None, "config": config.to_dict()}
    return ledger.add(args.record, what, args.line, timing.how.device, values, **about)
