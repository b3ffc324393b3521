"""`dtl bench`: how long a step of a model takes here, why, and what training would take on more GPUs.

`--amp off` is float32, and on a GPU full float32 for products of matrices: TF32 is not asked for, neither here nor in
training. The patches' convolution is cuDNN's, which PyTorch lets use TF32.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import ledger
from ..config import ViTConfig, named
from ..host import device_name, find_device, keep_memory
from ..train.recipe import AMP
from .parser import Parser, number, positive
from .shared_flags import add_device, add_model, add_record, check_trainable, configured

if TYPE_CHECKING:
    from ..lab import bench

SUMMARY = "Time a model's forward pass and training step, and estimate what training takes on more GPUs."
DEFAULT = "deit_tiny_patch16_224"
BATCH_SIZE = {"cuda": 64}  # elsewhere 8
GPUS, EPOCHS = (1, 8, 64), 300.0


def flags(parser: Parser) -> None:
    """Which model, what is timed, and the GPUs that it is extrapolated to."""
    add_model(parser, DEFAULT)
    timed = parser.add_argument_group("what is timed")
    timed.add_argument(
        "--batch-size", type=positive, metavar="N", help="images per step (default: 64 on a GPU, else 8)"
    )
    timed.add_argument("--amp", choices=AMP, default="auto", help="mixed precision (default: auto)")
    timed.add_argument("--compile", dest="compiled", action="store_true", help="compile with torch.compile")
    timed.add_argument("--channels-last", action="store_true", help="use the channels-last memory format")
    timed.add_argument("--steps", type=positive, default=20, metavar="N", help="timed steps (default: 20)")
    add_device(timed)
    timed.add_argument("--against", choices=("timm",), help="also time timm's model, in alternating rounds")
    timed.add_argument("--profile", action="store_true", help="also print the time of each part of a training step")
    add_record(timed)
    many = parser.add_argument_group("many GPUs", "What training would take, estimated from the measured step.")
    many.add_argument("--gpus", type=positive, nargs="+", metavar="N", help="numbers of GPUs (default: 1 8 64)")
    many.add_argument("--epochs", type=number, metavar="X", help="passes over the images (default: 300)")
    many.add_argument("--images", type=positive, metavar="N", help="images in an epoch (default: ImageNet's 1,281,167)")
    many.add_argument("--gpus-per-host", type=positive, metavar="N", help="GPUs in a host (default: 8)")
    many.add_argument("--within", type=number, metavar="GB/s", help="bandwidth within a host (default: 450)")
    many.add_argument("--between", type=number, metavar="GB/s", help="bandwidth between hosts (default: 25)")
    many.add_argument(
        "--overlap", type=number, metavar="X", help="fraction of the gradients' all-reduce that overlaps the backward "
        "pass (default: 0.8)",
    )  # fmt: skip
    many.add_argument("--loader-rate", type=number, metavar="X", help="images/s that a host loads (default: no limit)")
    many.add_argument("--core-rate", type=number, metavar="X", help="images/s that one core loads, to count cores")


def main(args: Namespace) -> None:
    """Time a forward pass and a training step; print rates, memory, utilisation, and what else was asked for."""
    from ..lab import bench

    config, device = configured(named(args.model or DEFAULT), args), find_device(args.device)
    settings = {name: getattr(args, name) for name in ("amp", "compiled", "channels_last")} | {"device": str(device)}
    batch_size = args.batch_size or BATCH_SIZE.get(device.type, 8)
    _check(args, batch_size, config)
    if device.type == "cpu":
        keep_memory()
    _announce(args, config, bench.BenchConfig(batch_size, **settings))
    timings = [time(config, batch_size, steps=args.steps, **settings) for time in (bench.forward_time, bench.step_time)]
    rate = bench.matmul_rate(str(device), timings[0].how.dtype)
    print(_timed(timings, rate), flush=True)
    speeds = [_against(timing, config, args.steps, settings) if args.against else {} for timing in timings]
    if args.profile:
        print(_parts(bench.profile_step(config, batch_size, **settings)))
    if many := _extrapolated(args, timings[1].median, batch_size, config):
        print(many)
    for timing, speed in zip(timings, speeds) if args.record else ():
        _record(args, timing, rate, speed, config)
        print(f"recorded in {ledger.path(args.record)}")


def _check(args: Namespace, batch_size: int, config: ViTConfig) -> None:
    """Raise a ValueError for what would otherwise fail after the measurement."""
    if args.profile and args.compiled:
        raise ValueError("--profile times the parts of a step, and a compiled step has none: leave out --compile")
    check_trainable(config)
    _extrapolated(args, 1.0, batch_size, config)
    if args.against:
        import torch

        from ..lab.bench import timm_of

        with torch.device("meta"):
            timm_of(config)


def _announce(args: Namespace, config: ViTConfig, settings: bench.BenchConfig) -> None:
    import torch

    cost, (height, width) = config.cost(), config.image_size
    threads = f", {(n := torch.get_num_threads())} thread{'s' * (n > 1)}" if settings.device == "cpu" else ""
    print(
        f"{config.plan}\n\n{args.model or DEFAULT}, {height}×{width} pixels: {cost.parameters / 1e6:.2f} M parameters,"
    )
    print(f"{cost.total / 1e6:,.1f} M multiply–adds an image; {settings},")
    print(f"on {device_name(settings.device)}{threads}", flush=True)


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
    rows["peak memory, MiB"] = peaks
    lines = [f"{name:26}" + "".join(f"{cell:>22}" for cell in cells) for name, cells in rows.items()]
    kind = str(rate.dtype).removeprefix("torch.")
    notes = [
        f"n = {len(timings[0].seconds)} steps after a warm-up; the first step, which includes compiling, is not "
        "counted.",
        "A multiply–add is two FLOP; a training step counts as three forward passes. Utilisation is of "
        f"{rate.flops / 1e9:,.1f} GFLOP/s,",
        f"measured here on products of two {kind} matrices of {rate.size}×{rate.size}.",
        f"Memory of a training step: {timings[1].memory}.",
    ]
    return "\n".join(["", *lines, *notes])


def _against(timing: bench.Timing, config: ViTConfig, rounds: int, settings: dict) -> dict:
    from ..lab.bench import against_timm

    training = timing.how.training
    against = against_timm(config, timing.how.batch_size, rounds=rounds, training=training, **settings)
    print(f"{timing.what}: {against}", flush=True)
    ratios = {"speed": against.speed, "control": against.control}
    return {name: [ratio.value, ratio.low, ratio.high] for name, ratio in ratios.items()}


def _parts(parts: Sequence[bench.Part]) -> str:
    total = sum(part.seconds for part in parts)
    lines = [f"{part.name:40}{1e3 * part.seconds:10.2f} ms{part.seconds / total:8.1%}" for part in parts]
    return "\n".join(["", *lines, f"{'a step under the profiler':40}{1e3 * total:10.2f} ms"])


def _extrapolated(args: Namespace, step_seconds: float, batch_size: int, config: ViTConfig) -> str:
    """Training on many GPUs, as a table, and what their loader has to deliver; empty where no flag asks for it."""
    from ..lab.bench.estimate import IMAGENET_IMAGES, Cluster, cores_needed, estimate, images_per_second_needed, table

    units = {"gpus_per_host": 1, "within": 1e9, "between": 1e9, "overlap": 1, "loader_rate": 1}
    links = {name: getattr(args, name) * unit for name, unit in units.items() if getattr(args, name) is not None}
    if not links and all(value is None for value in (args.gpus, args.epochs, args.images, args.core_rate)):
        return ""
    cluster = Cluster(**{name.removesuffix("_rate"): value for name, value in links.items()})
    epochs, parameters = EPOCHS if args.epochs is None else args.epochs, config.cost().parameters
    run = {"epochs": epochs, "images": args.images or IMAGENET_IMAGES, "cluster": cluster}
    estimates = [estimate(step_seconds, batch_size, parameters, gpus, **run) for gpus in args.gpus or GPUS]
    gpus, needed = cluster.gpus_per_host, images_per_second_needed(step_seconds, batch_size, cluster.gpus_per_host)
    feed = f"To keep the {gpus} GPUs of a host busy, its loader has to deliver {needed:,.0f} images/s"
    if args.core_rate is not None:
        feed += f": {cores_needed(needed, args.core_rate):,} cores at {args.core_rate:g} each"
    return f"\n{table(estimates, parameters, **run)}\n{feed}."


def _record(args: Namespace, timing: bench.Timing, rate: bench.Rate, speed: dict, config: ViTConfig):
    values = timing.to_dict() | {"matmul_flops": rate.flops, "utilisation": timing.utilisation(rate)} | speed
    what = f"{args.model or DEFAULT}: {timing.what}, {timing.how}"
    about = {"n": len(timing.seconds), "seed": None, "config": config.to_dict()}
    return ledger.add(args.record, what, args.line, timing.how.device, values, **about)
