"""`dtl export`: a trained model as an ONNX file that shows what its tokens attend to."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import atomic
from ..paths import kind, require_writable, user_path
from .attention import add_force
from .evaluate import add_trained, trained_model
from .parser import Parser

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import ViT

SUMMARY = "Write a trained ViT as ONNX: logits, every block's queries and keys, and the lengths of its tokens."
IMAGES = 12


def flags(parser: Parser) -> None:
    """Which model, and where to."""
    parser.add_argument("name", nargs="?", metavar="MODEL", help="a checkpoint, zoo/NAME, or a name of timm's")
    add_trained(parser)
    parser.add_argument("--output", metavar="FILE.onnx", help="the file to write")
    text = "store matrices as int8 (dynamic quantisation), and print what that changes"
    parser.add_argument("--int8", action="store_true", help=text)
    add_force(parser)


def main(args: Namespace) -> None:
    """Write the file, compare it with PyTorch, and print by how much it differs."""
    target = _target(args)
    from ..explore import onnx_file

    onnx_file.require_packages()
    model = named_model(args)
    images = sample(model)
    written: list[onnx_file.Checked] = []

    def fill(file: Path) -> None:
        onnx_file.write(model, file, args.int8)
        written.append(onnx_file.compare(model, file, images))
        if not args.int8 and written[0].largest > onnx_file.AGREES:
            worst = max(written[0].differences, key=written[0].differences.__getitem__)
            raise ValueError(
                f"{worst} of the ONNX file differs from PyTorch's by {written[0].differences[worst]:.1e} of its "
                "largest value, and nothing was written: another version of torch or onnxscript may export it right"
            )

    atomic.replace(target, fill, force=args.force)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB; {onnx_file.summary(onnx_file.Outputs(model).names)}")
    print("\n".join(_report(model, images, written[0], args.int8)))


def named_model(args: Namespace) -> ViT:
    """The model that MODEL, or the flags of `add_trained`, name."""
    from ..train.evaluation import check_weights

    if args.name and (args.model or args.model_path):
        raise ValueError(f"give the model once: {args.name}, or --model, or --model-path")
    if args.name:
        is_file = kind(user_path(args.name)) == "a file" and not args.name.startswith("zoo/")
        args.model_path, args.model = (args.name, None) if is_file else (None, args.name)
    args.pretrained = args.pretrained or bool(args.model and not args.weights)
    model = trained_model(args).eval()
    check_weights(model)
    return model


def sample(model: ViT) -> Tensor:
    """The bundled photos as the model takes them, or shapes where it was trained on them; `(images, …)`."""
    import torch

    from .. import data

    config, card = model.config, getattr(model, "card", {})
    if str(card.get("data", {}).get("name", "")).startswith("shapes"):
        return data.load("shapes", image_size=config.image_size, config=config).test.batch(range(IMAGES))[0]
    return torch.cat([data.prepare(data.photo(name), config=config) for name in data.photo_names()])


def _target(args: Namespace) -> Path:
    if not args.output:
        raise ValueError("say which file to write: dtl export zoo/shapes_depth6_reg4 --output shapes.onnx")
    target = user_path(args.output)
    if target.suffix != ".onnx":
        raise ValueError(f"{target} is no name of an ONNX file: let it end in .onnx")
    if kind(target) and not args.force:
        raise ValueError(f"{target} is there already: give --force to replace it, or another name")
    require_writable(target, "an ONNX file")
    return target


def _report(model: ViT, images: Tensor, checked, is_int8: bool) -> list[str]:
    from ..explore import int8

    lines = [
        f"against PyTorch over {checked.n} images, by onnxruntime: an output differs by up to {checked.largest:.1g} of "
        f"its largest value; {checked.predictions} predictions differ"
    ]
    if not is_int8:
        return lines
    lines += [f"int8 changes a logit by up to {checked.logit:.2g}"] if model.config.classes else []
    found, ratios = int8.outliers(model, images)
    longest = max(ratios)
    changes = int8.with_and_without_registers(model, images)
    if found.start is None:
        return [*lines, f"no patch token is an outlier after any block (the longest is {longest:.1f} × the median)"]
    far = f"some patch tokens are far longer than the others, up to {longest:.0f} × the median"
    far = f"after block {found.start} {far}"
    if changes is None:
        return [*lines, f"{far}; there is no neuron to move to a test-time register in their place"]
    plain, registers, own = changes
    return [
        *lines,
        far,
        f"int8 with one factor for all tokens, as in this file, changes {plain}",
        f"with a test-time register in their place: {registers}",
        f"and a factor of its own for that register: {own}",
    ]
