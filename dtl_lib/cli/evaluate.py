"""`dtl evaluate`: a trained model on images it has not seen."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import data, ledger, train
from ..data.saved import saved_images
from ..host import device_name, find_device
from ..train.recipe import AMP
from ..zoo import PREFIX
from .parser import Parser, positive
from .shared_flags import DATA, add_data, add_machine, add_processes, add_record, add_weights, check_level

if TYPE_CHECKING:
    from ..models import ViT
    from ..train.distributed.processes import Processes

SUMMARY = "Evaluate a trained ViT."


def flags(parser: Parser) -> None:
    """Which model, on which images, and how."""
    add_trained(parser)
    add_data(parser, "data to evaluate on (default: the data set that the model was trained on)")
    parts = ("test", "held_out", "train")
    parser.add_argument("--part", choices=parts, default="test", help="which part of the data set (default: test)")
    parser.add_argument(
        "--batch-size", type=positive, default=256, metavar="N", help="images in a batch (default: 256)"
    )
    parser.add_argument("--amp", choices=AMP, default="auto", help="mixed precision (default: auto)")
    add_record(parser)
    add_machine(parser)
    add_processes(parser)


def add_trained(parser: Parser) -> None:
    """Which trained model."""
    parser.add_argument("--model-path", metavar="FILE", help="a checkpoint, such as best.safetensors")
    parser.add_argument("--model", metavar="NAME", help="a name of timm's, with --pretrained or --weights, or zoo/…")
    parser.add_argument("--pretrained", action="store_true", help="use the published weights of --model")
    add_weights(parser)


def main(args: Namespace) -> None:
    """Print accuracy with its interval and n, time, images/s."""
    from ..train.distributed.environment import local_device
    from ..train.distributed.processes import joined

    device = find_device(local_device(args.device))
    with joined(device, args.timeout) as processes:
        _evaluate(args, device, processes)


def _evaluate(args: Namespace, device, processes: Processes) -> None:
    from ..data.corrupt import CorruptImages
    from ..train.classes import match_classes

    with processes.first_on_each_host():  # what has to be downloaded is downloaded once
        model = trained_model(args)
        images = getattr(_sets(args, model, processes.is_main), args.part)
        notes = match_classes(model, images).notes
    images = images.to(device) if hasattr(images, "to") else images  # those in memory
    progress = processes.is_main and not args.quiet
    corrupt = CorruptImages(args.max_corrupt)
    evaluation = train.evaluate(
        model.to(device), images, args.batch_size, args.amp, args.workers, progress, processes=processes,
        corrupt=corrupt,
    )  # fmt: skip
    if not processes.is_main:
        return
    where = device_name(device)
    if processes.world_size > 1:
        where = f"{processes.world_size} processes, {where}"
    images_per_s = evaluation.n / evaluation.seconds
    print("\n".join([*notes, f"{images.name}: {evaluation}"]))
    print(f"{evaluation.seconds:.1f} s, {images_per_s:,.0f} images/s on {where}")
    if corrupt.names:
        print(unreadable(corrupt.names))
    if args.record:
        what = f"{args.model_path or args.model} on {images.name}"
        values = {**evaluation.to_dict(), "images_per_s": images_per_s}
        about = {"n": evaluation.n, "seed": None, "config": model.config.to_dict()}
        ledger.add(args.record, what, args.line, device, values, **about)
        print(f"recorded in {ledger.path(args.record)}")


def unreadable(names: Sequence[str]) -> str:
    """One line about images that could not be read, the first three by name."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} image{'s' * (len(names) > 1)} could not be read: {', '.join(names[:3])}{more}"


def trained_model(args: Namespace) -> ViT:
    """The model that `add_trained`'s flags say."""
    from ..checkpoint import load_model
    from ..pretrained import load_pretrained

    if args.model_path and args.model:
        raise ValueError("give --model-path or --model, not both")
    if args.pretrained and not args.model:
        raise ValueError("--pretrained means the published weights of --model: give --model, or leave it out")
    if args.weights and (args.pretrained or not args.model):
        raise ValueError("--weights FILE holds the weights of --model NAME: give that name, and no --pretrained")
    if args.model_path:
        return load_model(args.model_path)
    if not args.model:
        raise ValueError("say which model: --model-path best.safetensors, or --model NAME --pretrained")
    if args.weights:
        return load_pretrained(args.model, weights=args.weights)
    if args.model.startswith("zoo/") or args.model.endswith(".safetensors") or args.pretrained:
        return load_pretrained(args.model)
    raise ValueError(f"--model {args.model} alone has random weights: add --pretrained or --weights FILE")


def _sets(args: Namespace, model: ViT, said: bool) -> data.Sets:
    """The images that were asked for, or those of the model's card."""
    saved = saved_images(getattr(model, "card", {}), args.data, args.data_path)
    name, path = args.data or saved.get("name"), args.data_path or saved.get("path")
    if name is None:
        raise ValueError(f"say which images: --data NAME, such as {DATA}")
    if said and path and not args.data_path:
        print(f"{name} is read from {path}, the path on the model's card")
    download = bool(args.data) or (args.model or "").startswith(PREFIX)
    check_level(args, name)
    level = args.level or saved.get("level") or 1
    return data.load(name, path, model.config.image_size, level=level, config=model.config, download=download)
