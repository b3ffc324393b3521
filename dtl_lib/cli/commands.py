"""The commands there are."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from . import flags
from .flags import Parser


@dataclass(frozen=True)
class Command:
    """A command: what it is for, its flags, and where its function `main(args)` lives."""

    summary: str
    flags: Callable[[Parser], None]
    module: str


COMMANDS = {
    "plan": Command("print when each token is there, and what that costs", flags.plan, "plan"),
    "train": Command("train a ViT, and measure it on the test images", flags.train, "train"),
    "evaluate": Command("measure a trained ViT", flags.evaluate, "evaluate"),
    "bench": Command("time a model's step, and say what training takes on more GPUs", flags.bench, "bench"),
    "atlas": Command("train a grid of places for the tokens, and draw it", flags.atlas, "atlas"),
    "zoo": Command("list the small trained models that come with the library, or show one", flags.zoo, "zoo"),
}


def run(args: Namespace) -> None:
    """Run the command that was parsed."""
    import_module(f".{COMMANDS[args.command].module}", __package__).main(args)
