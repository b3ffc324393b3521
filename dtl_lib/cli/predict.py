"""`dtl predict`: the classes that a trained model predicts for images."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from ..checks import one_line
from ..host import find_device
from .evaluate import add_trained, trained_model
from .parser import Parser, positive
from .shared_flags import add_device

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import ViT

SUMMARY = "Print the most likely classes of an image, and their probabilities, as a trained ViT predicts them."


def flags(parser: Parser) -> None:
    """The images, and the model."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="an image, such as cat.jpg")
    add_trained(parser)
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="how many classes to print (default: 5)")
    add_device(parser)


def main(args: Namespace) -> None:
    """Print the most likely classes of each image; at the end, raise a ValueError that names the unreadable ones."""
    from ..train.classes import class_names, shown_names

    if not args.images:
        raise ValueError("name the images: dtl predict cat.jpg dog.jpg --model-path best.safetensors")
    device = find_device(args.device)
    model = trained_model(args).to(device)
    if not model.config.classes:
        raise ValueError(f"{args.model_path or args.model} has no classes, only features")
    names = class_names(model)
    shown = shown_names(names) if names else [f"class {number}" for number in range(model.config.classes)]
    failures = {}
    for image in args.images:
        try:
            probabilities = _probabilities(model, image, device)
        except ValueError as error:
            failures[one_line(image)] = str(error)
            continue
        print(one_line(image))
        for value, number in zip(*(part.tolist() for part in probabilities.topk(min(args.top, len(shown))))):
            print(f"  {value:6.1%}  {shown[number]}")
    if failures:
        first, *others = failures
        more = f" ({', '.join(others)} cannot be read either)" if others else ""
        raise ValueError(failures[first] + more)


def _probabilities(model: ViT, image: str, device) -> Tensor:
    """The softmax of an image's logits, `(classes,)`."""
    import torch

    from ..data import open_image, prepare

    with torch.inference_mode():
        logits = model(prepare(open_image(image), config=model.config).to(device))[0].float()
    if not logits.isfinite().all():
        raise ValueError(f"{image}: the model's logits are non-finite; its weights are damaged")
    return logits.softmax(dim=0).cpu()
