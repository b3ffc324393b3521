"""`dtl registers`: give a finished model registers, trained or not, and save it as a checkpoint."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..host import find_device
from ..paths import require_writable, user_path
from .evaluate import unreadable
from .parser import Parser, number, positive, whole
from .shared_flags import add_device, add_max_corrupt, add_weights

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.corrupt import CorruptImages
    from ..data.images import Images
    from ..models import ViT
    from ..registers import RegisterNeuron

SUMMARY = "Give a trained ViT registers: train them into it, or move what makes patches long to an empty token."
WAYS = {
    "add": "train new registers until the patches are clean; other weights stay as they are",
    "test-time": "train nothing: the neurons that make patches long write into an empty token instead",
}
COUNT = {"add": 4, "test-time": 1}
SAMPLES = 16  # images on which the neurons are looked for: their activations are kept, block by block
TRAINING = {"norms": False, "steps": None, "epochs": None, "batch_size": None, "lr": None, "seed": None}


def flags(parser: Parser) -> None:
    """Which way, which model, which images, and where the result goes."""
    parser.add_argument(
        "way", nargs="?", choices=WAYS, metavar="WAY", help="; ".join(f"{way}: {text}" for way, text in WAYS.items())
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a name of timm's, a checkpoint of ours, or zoo/…")
    add_weights(parser, "MODEL")
    parser.add_argument("--output", metavar="FILE", help="the checkpoint to write, .safetensors")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    text = "a folder of images, without labels (default for test-time: photos that come with the library)"
    parser.add_argument("--data-path", "--images", dest="data_path", metavar="DIR", help=text)
    tokens = parser.add_argument_group("tokens")
    tokens.add_argument("--n", type=positive, metavar="N", help="how many (default: 4 for add, 1 for test-time)")
    text = "the block that they enter before (default: 0 for add, that of the first neuron for test-time)"
    tokens.add_argument("--at", type=whole, metavar="BLOCK", help=text)
    tokens.add_argument(
        "--leave", type=positive, metavar="BLOCK", help="the block that they leave before (default: never)"
    )
    clean = parser.add_argument_group("what is clean")
    text = "move the N neurons that write most of long patches (default: as many as write 80%% of it)"
    clean.add_argument("--neurons", type=positive, metavar="N", help=text)
    text = f"images on which the neurons are looked for (default: {SAMPLES})"
    clean.add_argument("--samples", type=positive, default=SAMPLES, metavar="N", help=text)
    training = parser.add_argument_group("dtl registers add")
    training.add_argument("--norms", action="store_true", help="train the norms of the blocks as well")
    training.add_argument("--steps", type=positive, metavar="N", help="steps of the optimizer (default: 200)")
    training.add_argument("--epochs", type=number, metavar="X", help="passes over the images, instead of --steps")
    training.add_argument("--batch-size", type=positive, metavar="N", help="images in a step (default: 8)")
    training.add_argument("--lr", type=number, metavar="X", help="learning rate of the registers (default: 0.05)")
    training.add_argument("--seed", type=whole, metavar="N", help="of the order of the images (default: 0)")
    text = "go on with a training that was stopped: the same command, with this flag"
    training.add_argument("--resume", action="store_true", help=text)
    add_device(parser)
    add_max_corrupt(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def main(args: Namespace) -> None:
    """Find what makes patches long, make the model, save it, and print what has changed."""
    from ..pretrained import load_pretrained
    from ..registers import move_to_registers
    from ..train.evaluation import check_weights

    output, state = _files(args)
    model = load_pretrained(args.model, weights=args.weights).eval()
    check_weights(model)
    images = _images(args, model)
    model = model.to(find_device(args.device))
    sample = _sample(images, args.samples).to(next(model.parameters()).device)
    _check_tokens(args, model)
    block, cut, neurons = _neurons(model, sample, args)
    n = args.n or COUNT[args.way]
    if args.way == "add":
        made = _added(args, model, images, sample, neurons, n, state)
    else:
        made = move_to_registers(model, neurons, n, args.at, args.leave)
    print(f"{made.plan}\n")
    print("\n".join(_effect(model, made, sample, block, cut)))
    _save(args, output, model, made, neurons)
    state.unlink(missing_ok=True)
    print(f"saved in {output}")
    if images.corrupt.names:
        print(f"{unreadable(images.corrupt.names)}; others stood in")


def _files(args: Namespace) -> tuple[Path, Path]:
    """The checkpoint's file and that of a training's state; a ValueError where they cannot be, before any work."""
    from ..checkpoint import SUFFIX

    if not (args.model and args.output):
        raise ValueError("say which way, which model and where to: dtl registers test-time MODEL --output FILE")
    output = user_path(args.output)
    if output.suffix != SUFFIX:
        raise ValueError(f"--output is a checkpoint, and ends in {SUFFIX}: call it {output.with_suffix(SUFFIX).name}")
    if output.exists() and not (args.force or args.resume):
        raise ValueError(f"{output} is there already: add --force to replace it, or give another name")
    if args.way == "test-time":
        for name, default in {**TRAINING, "resume": False}.items():
            if getattr(args, name) != default:
                raise ValueError(
                    f"--{name.replace('_', '-')} is about training, and test-time trains nothing: leave it out"
                )
    elif not args.data_path:
        raise ValueError("say on which images to train: --data-path DIR, a folder of images; labels are not needed")
    if args.steps and args.epochs is not None:
        raise ValueError("--steps and --epochs both say how long to train: give one of them")
    if args.epochs is not None and not 0 < args.epochs < 10**6:
        raise ValueError(f"--epochs is a number above 0, not {args.epochs}")
    state = output.with_suffix(f".state{SUFFIX}")
    if args.resume and not state.exists():
        raise ValueError(f"there is no training to go on with at {state}: leave --resume out")
    if state.exists() and not args.resume:
        raise ValueError(f"{state} holds a training that was stopped: add --resume to go on, or remove it")
    require_writable(output, "a checkpoint")
    return output, state


@dataclass(frozen=True)
class _Readable:
    """Images, where others stand in for those that cannot be read, as in `dtl train`."""

    images: Images
    corrupt: CorruptImages

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """As `Images.batch` gives it."""
        return self.corrupt.batch(self.images, numbers)


def _images(args: Namespace, model: ViT) -> _Readable:
    from ..data.corrupt import CorruptImages
    from ..data.photos import PHOTOS, photo_path
    from ..data.sources.folder import every_image, named_images
    from ..train.evaluation import as_expected

    size = model.config.image_size
    if args.data_path:
        images = every_image(args.data_path, size, model.config)
    else:
        images = named_images([photo_path(name) for name in PHOTOS], size, model.config)
    return _Readable(as_expected(model, images), CorruptImages(args.max_corrupt))


def _sample(images: _Readable, count: int) -> Tensor:
    from ..data.splits import subset

    some = subset(len(images), min(count, len(images)))
    return images.corrupt.batch(images.images, some, replace=False)[0]


def _check_tokens(args: Namespace, model: ViT) -> None:
    """A ValueError for blocks that the plan does not have, before the neurons are looked for."""
    from ..tokens import MOVED_TO, Group, TokenPlan

    if model.plan.group(MOVED_TO):
        raise ValueError(f"{args.model} has test-time registers already: give the model that it was made of")
    if args.way == "add" or args.at is not None:
        group = Group("new", args.n or COUNT[args.way], args.at or 0, args.leave)
        TokenPlan(model.plan.depth, (*model.plan.groups, group), model.plan.class_blocks)


def _neurons(model: ViT, images: Tensor, args: Namespace) -> tuple[int, float, tuple[RegisterNeuron, ...]]:
    """The block after which outliers are longest beside the others, the length they begin at, and what writes them."""
    import torch

    from ..probes import find_outliers
    from ..registers import MOST, SHARE, find_register_neurons
    from ..tape import record

    with torch.no_grad(), record(model) as tape:
        model(images)
    outliers = find_outliers(tape)
    if outliers.start is None:
        seen = f"{len(images)} image{'s' * (len(images) > 1)}"
        if outliers.left_out:
            raise ValueError(
                f"no patch of {seen} counts as an outlier: some are long after block {min(outliers.left_out)}, but so "
                "are the patches most similar to them at the input, so they are taken for what the images show; other "
                "images, less alike, may tell more (chapter 14)"
            )
        raise ValueError(
            f"no patch of {seen} is an outlier after any block: there is nothing to clean; dtl registers is for models "
            "whose norms have a second mode (chapter 14)"
        )
    block = max(range(len(outliers.modes)), key=lambda b: outliers.modes[b].ratio if outliers.modes[b] else 0)
    mask = outliers.mask(block)
    share, most = (1.0, args.neurons) if args.neurons else (SHARE, MOST)
    neurons = find_register_neurons(model, images, mask, block, share, most)
    print(f"{int(mask.sum()):,} of {mask.numel():,} patches are outliers after block {block}; what makes them long:")
    for one in neurons:
        where = f"neuron {one.neuron} of block {one.block}"
        print(f"  {where}, {one.share:.0%}: {one.high:.3g} on them, {one.usual:.3g} elsewhere")
    return block, outliers.modes[block].cut, neurons


def _added(args: Namespace, model: ViT, images: _Readable, sample: Tensor, neurons, n: int, state: Path) -> ViT:
    from ..added import add_registers
    from ..train.registers import RegisterRecipe, clean_states, train_registers

    given = {name: value for name in TRAINING if name != "epochs" and (value := getattr(args, name)) is not None}
    if args.epochs is not None:
        given["steps"] = round(args.epochs * (len(images) // given.get("batch_size", RegisterRecipe.batch_size)))
    recipe = RegisterRecipe(**given)
    name = next(name for name in ("reg", *(f"reg{k}" for k in range(2, 99))) if not model.plan.group(name))
    made = add_registers(model, n, args.at or 0, args.leave, name, sample)
    about = {"neurons": [[one.block, one.neuron, int(one.sign)] for one in neurons]}
    losses = train_registers(
        made, clean_states(model, neurons), images, recipe, (name,), state=state, resume=args.resume,
        progress=not args.quiet, about=about,
    )  # fmt: skip
    tenth = max(1, len(losses) // 10)
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    print(f"{len(losses)} steps of {recipe.batch_size} images; loss {first:.3f} at first, {last:.3f} at the end")
    return made


def _effect(model: ViT, made: ViT, images: Tensor, block: int, cut: float) -> list[str]:
    """What has changed, on the images on which the neurons were looked for."""
    import torch

    from ..added import logit_change
    from ..tape import record
    from ..tokens import PATCHES

    found, logits = [], []
    for one in (model, made):
        with torch.no_grad(), record(one) as tape:
            logits.append(one(images))
        lengths = tape.norms(block)[PATCHES]
        found.append((int((lengths > cut).sum()), float(lengths.max() / lengths.median())))
    (many, long), (few, short) = found
    change = float(logit_change(logits[1], logits[0]).mean())
    lines = [
        f"patches longer than {cut:.3g} after block {block}, {len(images)} images: {many:,} before, {few:,} now",
        f"longest patch over the median: {long:.1f} before, {short:.1f} now",
        f"what the head gives has changed by {change:.2f} of its spread",
    ]
    if model.config.classes:
        same = int((logits[0].argmax(dim=1) == logits[1].argmax(dim=1)).sum())
        lines.append(f"the same class for {same} of {len(images)} images")
    return lines


def _save(args: Namespace, output: Path, model: ViT, made: ViT, neurons) -> None:
    from dataclasses import asdict

    from ..checkpoint import save_model
    from ..train.classes import class_names

    kept = {name: model.card[name] for name in ("data",) if name in getattr(model, "card", {})}
    names = class_names(model) if model.config.classes else None
    card = kept | ({"classes": list(names)} if names else {}) | {"command": args.line, "registers": args.way}
    save_model(output, made, {**card, "from": args.model, "neurons": [asdict(one) for one in neurons]})
