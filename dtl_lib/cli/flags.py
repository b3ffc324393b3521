"""Flags, made from the fields of `ViTConfig`, `TokenPlan.of` and `Recipe`."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import get_args, get_origin

from ..config import ViTConfig, configurations
from ..train.recipe import AMP, Recipe, recipes

PLAN = {
    "cls_pos": (int | None, "block the class token enters before; none for no class token"),
    "reg_pos": (int | None, "block the registers enter before"),
    "num_reg": (int, "number of registers"),
    "dist": (bool, "a distillation token, which enters with the class token"),
    "class_blocks": (int, "class-attention blocks after the trunk"),
}
CONFIG = {
    "depth": "blocks in the trunk",
    "dim": "width of a token",
    "heads": "heads of attention; they divide dim",
    "mlp_ratio": "hidden width of an MLP over dim",
    "image_size": "height and width in pixels, or one number",
    "patch_size": "pixels along a patch's side",
    "layer_scale": "LayerScale's first value; none for none",
    "drop_path": "stochastic depth's probability",
    "drop_path_schedule": "linear or uniform over the blocks",
    "talking_heads": "mix heads before and after the softmax",
    "pool": "what the head reads: cls or patches",
    "norm_after_pool": "pool first, then normalise",
    "positions": "learned or sincos",
}
ALIASES = {  # what DeiT's and timm's scripts call a field
    "image_size": "--input-size",
    "optimizer": "--opt",
    "betas": "--opt-betas",
    "clip": "--clip-grad",
    "erase": "--reprob",
    "three_augment": "--ThreeAugment",
    "ema": "--model-ema-decay",
    "distill": "--distillation-type",
    "distill_from": "--teacher-model",
    "distill_weight": "--distillation-alpha",
    "distill_temperature": "--distillation-tau",
}
VALUES = {"--repeated-aug": ("repeats", 3), "--bce-loss": ("loss", "bce"), "--model-ema": ("ema", 0.99996)}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are a ValueError of one line, with the nearest flags there are."""

    def __init__(self, **options):
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str):
        """Raise instead of printing usage."""
        message = message.removeprefix("argument ").replace("COMMAND: invalid choice:", "there is no command")
        before, choose, choices = message.partition("(choose from ")
        raise ValueError(before + choose + choices.replace("'", ""))  # Python 3.11 quotes them, 3.12 does not

    def parse_args(self, args: Sequence[str] | None = None, namespace=None) -> argparse.Namespace:
        """As argparse's; an unknown flag is a ValueError with the ones near it."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            raise ValueError(self._unknown(rest[0], getattr(found, "command", None)))
        return found

    def _unknown(self, word: str, command: str | None) -> str:
        if not word.startswith("-"):
            return f"{word!r} belongs to no flag of {command}; see dtl {command} --help"
        choices = next(action.choices for action in self._actions if isinstance(action.choices, dict))
        known = [flag for flag in choices[command]._option_string_actions if flag.startswith("--")]
        near = get_close_matches(word.partition("=")[0], known, n=3, cutoff=0.5)
        hint = f"; near it: {', '.join(near)}" if near else f"; see dtl {command} --help"
        return f"{command} has no flag {word}{hint}"


def alike(arguments: Sequence[str]) -> list[str]:
    """Flags with `-` for `_`, so that both spellings work; values stay as they are."""
    parts = [(word, *word.partition("=")) if word.startswith("--") else (word,) for word in arguments]
    return [part[0] if len(part) == 1 else part[1].replace("_", "-") + part[2] + part[3] for part in parts]


def plan(parser: Parser) -> None:
    """`dtl plan`."""
    model(parser)


def train(parser: Parser) -> None:
    """`dtl train`."""
    model(parser)
    data(parser, "what to train on (default shapes)")
    parser.add_argument("--samples", type=_positive, metavar="N", help="training images to use (default all)")
    place = parser.add_argument_group("the run")
    place.add_argument("--output-dir", metavar="DIR", help="where to save (default runs/ and the date)")
    place.add_argument(
        "--resume", nargs="?", const=True, metavar="DIR", help="go on with the run saved in DIR, or in --output-dir"
    )
    place.add_argument("--finetune", metavar="WEIGHTS", help="begin with these weights: a timm name, zoo/… or a path")
    place.add_argument(
        "--eval", action="store_true", help="only measure the weights of --resume or --finetune, as dtl evaluate does"
    )
    place.add_argument("--checkpoint-every", type=_positive, metavar="STEPS", help="save the whole state this often")
    place.add_argument("--tensorboard", action="store_true", help="write TensorBoard's curves too")
    place.add_argument("--record", type=_word, metavar="EXPERIMENT", help="add a record to the ledger")
    several = processes(parser)
    several.add_argument("--shard", action="store_true", help="cut the model over the processes instead of copying it")
    place.add_argument("--compile", action="store_true", help="compile the training step with torch.compile")
    machine(place)
    named = recipes()
    group = parser.add_argument_group("recipe", "Where a flag is left out, the recipe of the data set decides.")
    group.add_argument("--recipe", choices=named, help="one of those below, which can be another data set's")
    for field in fields(Recipe):
        _add(group, field.name, field.type, field.metadata["help"])
    for flag, (name, value) in VALUES.items():
        what = f"the same as --{name} {value}"
        group.add_argument(flag, action="store_const", const=value, dest=name, default=argparse.SUPPRESS, help=what)
    parser.epilog = "Recipes: " + "; ".join(f"{name}: {_told(recipe)}" for name, recipe in named.items())


def evaluate(parser: Parser) -> None:
    """`dtl evaluate`."""
    parser.add_argument("--model-path", metavar="FILE", help="a checkpoint, such as best.safetensors")
    parser.add_argument("--model", metavar="NAME", help="a timm name with --pretrained, or zoo/…")
    parser.add_argument("--pretrained", action="store_true", help="take the published weights of --model")
    data(parser, "what to measure on (default what it was trained on)")
    parser.add_argument("--part", choices=("test", "held_out", "train"), default="test", help="default test")
    parser.add_argument("--batch-size", type=_positive, default=256, metavar="N", help="images at a time (default 256)")
    parser.add_argument("--amp", choices=AMP, default="auto", help="autocast (default auto)")
    parser.add_argument("--record", type=_word, metavar="EXPERIMENT", help="add a record to the ledger")
    machine(parser)
    processes(parser)


def bench(parser: Parser) -> None:
    """`dtl bench`."""
    model(parser)
    number = _reader(float, False)
    timed = parser.add_argument_group("what is timed")
    timed.add_argument("--batch-size", type=_positive, metavar="N", help="images a step (default 64 on a GPU, else 8)")
    timed.add_argument("--amp", choices=AMP, default="auto", help="autocast (default auto)")
    timed.add_argument("--compile", dest="compiled", action="store_true", help="compile with torch.compile")
    timed.add_argument("--channels-last", action="store_true", help="images and weights with channels innermost")
    timed.add_argument("--steps", type=_positive, default=20, metavar="N", help="timed steps (default 20)")
    timed.add_argument("--device", metavar="NAME", help="cuda, cpu, … (default the GPU where there is one)")
    timed.add_argument("--against", choices=("timm",), help="timm's model too, in alternating rounds")
    timed.add_argument("--profile", action="store_true", help="the time of each part of a training step")
    timed.add_argument("--record", type=_word, metavar="EXPERIMENT", help="add two records to the ledger")
    many = parser.add_argument_group("many GPUs", "What training would take, by a stated model, from the step timed.")
    many.add_argument("--gpus", type=_positive, nargs="+", metavar="N", help="how many (default 1 8 64)")
    many.add_argument("--epochs", type=number, metavar="X", help="passes over the images (default 300)")
    many.add_argument("--images", type=_positive, metavar="N", help="in an epoch (default ImageNet's 1,281,167)")
    many.add_argument("--gpus-per-host", type=_positive, metavar="N", help="default 8")
    many.add_argument("--within", type=number, metavar="GB/s", help="bandwidth within a host (default 450)")
    many.add_argument("--between", type=number, metavar="GB/s", help="bandwidth between hosts (default 25)")
    many.add_argument("--overlap", type=number, metavar="X", help="share of the sum that is hidden (default 0.8)")
    many.add_argument("--loader-rate", type=number, metavar="X", help="images/s of a host's loader (default no limit)")
    many.add_argument("--core-rate", type=number, metavar="X", help="images/s of one core, to count cores with")


def atlas(parser: Parser) -> None:
    """`dtl atlas`."""
    parser.add_argument("what", choices=("run", "show"), help="train what has no record yet, or print what there is")
    parser.add_argument("--grid", choices=("cpu", "gpu"), default="cpu", help="which places and how long (default cpu)")
    parser.add_argument("--records", metavar="DIR", help="where the records are (default the ledger's own)")
    training = parser.add_argument_group("dtl atlas run")
    training.add_argument("--weights", metavar="DIR", help="keep every run's weights there")
    training.add_argument("--jobs", type=_positive, metavar="N", help="runs beside each other (default 1)")
    training.add_argument("--device", metavar="NAME", help="cuda, cpu, … (default the GPU where there is one)")
    training.add_argument("--quiet", action="store_true", help="no progress bar, a line a run")
    shown = parser.add_argument_group("dtl atlas show")
    shown.add_argument("--value", metavar="NAME", help="any number in the records (default accuracy)")
    shown.add_argument("--figure", metavar="FILE", help="draw it there too: .png, .pdf or .svg")


def zoo(parser: Parser) -> None:
    """`dtl zoo`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="print the card of this one")


def model(parser: Parser) -> None:
    """Which ViT: a named configuration, then what is changed in it."""
    names = ", ".join(sorted(configurations()))
    parser.add_argument("--model", metavar="NAME", help=f"a named configuration: {names}")
    tokens = parser.add_argument_group("tokens")
    for name, (kind, text) in PLAN.items():
        _add(tokens, name, kind, text)
    shape = parser.add_argument_group("configuration")
    kinds = {field.name: field.type for field in fields(ViTConfig)}
    for name, text in CONFIG.items():
        _add(shape, name, kinds[name], text)


def data(parser: Parser, text: str) -> None:
    """Which images."""
    parser.add_argument("--data", metavar="NAME", help=f"{text}: shapes, cifar10, cifar100, imagenet, folder, wds, …")
    parser.add_argument("--data-path", metavar="DIR", help="where the data lies (default under DTL_DATA)")
    parser.add_argument("--level", type=_positive, metavar="N", help="how hard shapes are, 1 to 3 (default 1)")


def machine(parser) -> None:
    """Where to compute, and how images get there."""
    parser.add_argument("--device", metavar="NAME", help="cuda, cpu, … (default the GPU where there is one)")
    parser.add_argument("--workers", type=_whole, metavar="N", help="processes that read images from files")
    share = "share of the images that may be unreadable before it stops (default 0.001)"
    parser.add_argument("--max-corrupt", "--broken", type=_share, default=0.001, metavar="X", help=share)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def processes(parser: Parser):
    """How several work together."""
    group = parser.add_argument_group("processes", "torchrun and Slurm's srun are noticed; nothing has to be said.")
    for ignored in ("--distributed", "--dist-eval"):
        group.add_argument(ignored, action="store_true", help="accepted for compatibility; ignored")
    wait = "how long to wait for the others (default 600)"
    most = 10**6  # more is no more to anyone, and too much for torch's clocks
    group.add_argument("--timeout", type=lambda s: min(_positive(s), most), default=600, metavar="SECONDS", help=wait)
    return group


def given(args: argparse.Namespace, names) -> dict:
    """Those of the fields that were given as flags."""
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def _add(group, name: str, kind, text: str) -> None:
    """A flag for a field of that type; one not given is not in the namespace: defaults stay in one place."""
    flags = [f"--{name.replace('_', '-')}", *([ALIASES[name]] if name in ALIASES else [])]
    options = {"dest": name, "help": text, "default": argparse.SUPPRESS}
    if kind is bool:
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, **options)
        return
    optional = type(None) in get_args(kind)
    parts = [part for part in get_args(kind) or (kind,) if part is not type(None)]
    if name == "image_size":
        group.add_argument(*flags, action=_Size, nargs="+", type=int, metavar="PIXELS", **options)
    elif get_origin(kind) is tuple:
        group.add_argument(*flags, nargs=2, type=_reader(float, False), metavar="X", **options)
    else:
        metavar = _METAVARS[parts[0]] + "|none" * optional
        group.add_argument(*flags, type=_reader(parts[0], optional), metavar=metavar, **options)


_METAVARS = {int: "N", float: "X", str: "NAME"}


class _Size(argparse.Action):
    """One number for a square, two for height and width."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2:
            raise argparse.ArgumentError(self, f"give one number or two, not {len(values)}")
        setattr(namespace, self.dest, values[0] if len(values) == 1 else tuple(values))


def _reader(kind: type, optional: bool):
    def read(text: str):
        if optional and text.lower() == "none":
            return None
        try:
            return kind(text)
        except ValueError:
            what = {int: "a whole number", float: "a number"}[kind] + (" or none" if optional else "")
            raise argparse.ArgumentTypeError(f"give {what}, not {text!r}") from None

    return read


def _positive(text: str) -> int:
    return _whole(text, least=1)


def _whole(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"give a whole number, {least} or more, not {text!r}")
    return int(text)


def _share(text: str) -> float:
    value = _reader(float, False)(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"give a share from 0 to 1, not {text!r}")
    return value


def _word(text: str) -> str:
    if not text.isidentifier():
        raise argparse.ArgumentTypeError(f"give a word of letters, digits and _, not {text!r}")
    return text


def _told(recipe: Recipe) -> str:
    """The fields in which a recipe differs from a bare one."""
    bare = Recipe().to_dict()
    changed = {name: value for name, value in recipe.to_dict().items() if value != bare[name]}
    if recipe.epochs is None:
        del changed["epochs"]
    return ", ".join(f"{name} {'none' if value is None else value}" for name, value in changed.items())
