"""`dtl evaluate`: a trained model on images it has not seen."""

from argparse import Namespace
from collections.abc import Sequence

from .. import data, ledger
from ..checkpoint import load_model
from ..data.corrupt import CorruptImages
from ..host import device_name, find_device
from ..models import ViT
from ..pretrained import load_pretrained
from ..train import evaluate
from ..train.distributed.processes import Processes, joined, local_device


def main(args: Namespace) -> None:
    """Print accuracy with its interval and n, time, images/s."""
    device = find_device(local_device(args.device))
    with joined(device, args.timeout) as processes:
        _evaluate(args, device, processes)


def _evaluate(args: Namespace, device, processes: Processes) -> None:
    with processes.first_on_each_host():  # what has to be fetched is fetched once
        model = _model(args)
        images = getattr(_sets(args, model), args.part)
    images = images.to(device) if hasattr(images, "to") else images  # those in memory
    shown = processes.first and not args.quiet
    corrupt = CorruptImages(args.max_corrupt)
    found = evaluate(
        model.to(device), images, args.batch_size, args.amp, args.workers, shown, processes=processes, corrupt=corrupt
    )
    if not processes.first:
        return
    where = device_name(device)
    if processes.world > 1:
        where = f"{processes.world} processes, {where}"
    print(f"{images.name}: {found}")
    print(f"{found.seconds:.1f} s, {found.n / found.seconds:,.0f} images/s on {where}")
    if corrupt.names:
        print(unreadable(corrupt.names))
    if args.record:
        what = f"{args.model_path or args.model} on {images.name}"
        values = {**found.to_dict(), "images_per_s": found.n / found.seconds}
        about = {"n": found.n, "seed": None, "config": model.config.to_dict()}
        ledger.add(args.record, what, args.line, device, values, **about)
        print(f"recorded in {ledger.path(args.record)}")


def unreadable(names: Sequence[str]) -> str:
    """One line about pictures that could not be read, the first three by name."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} image{'s' * (len(names) > 1)} could not be read: {', '.join(names[:3])}{more}"


def _model(args: Namespace) -> ViT:
    if args.model_path and args.model:
        raise ValueError("--model-path and --model name two models: give one")
    if args.model_path:
        return load_model(args.model_path)
    if not args.model:
        raise ValueError("say which model: --model-path best.safetensors, or --model NAME --pretrained")
    if args.model.startswith("zoo/") or args.model.endswith(".safetensors") or args.pretrained:
        return load_pretrained(args.model)
    raise ValueError(f"--model {args.model} alone has fresh weights: add --pretrained, or give --model-path")


def _sets(args: Namespace, model: ViT) -> data.Sets:
    trained_on = getattr(model, "card", {}).get("run", {}).get("data", {})
    name = args.data or trained_on.get("name")
    if name is None:
        raise ValueError("say which images: --data shapes, cifar10, cifar100, imagenet, folder or wds")
    same = trained_on if name == trained_on.get("name") else {}
    level = args.level or same.get("level") or 1
    return data.load(
        name, args.data_path or same.get("path"), model.config.image_size, level=level, config=model.config
    )
