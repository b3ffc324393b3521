"""What `dtl train` prints before and after, and records."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from .. import data, ledger
from ..config import ViTConfig
from ..host import device_name
from ..train.recipe import Recipe
from .evaluate import unreadable

if TYPE_CHECKING:
    from ..models import ViT
    from ..train import FitResult
    from ..train.distributed.processes import Processes

ACCURACY_MARKS = 50, 90, 94, 95  # per cent of the held-out images right: a record says how long each took


def announcement(config: ViTConfig, sets: data.Sets, recipe: Recipe, device, processes: Processes) -> str:
    """What is about to be trained: plan, size and cost, images, steps, where."""
    cost, steps = config.cost(), recipe.steps(len(sets.train))
    size = f"{cost.parameters / 1e6:.2f} M parameters, {cost.total / 1e6:.1f} M multiply–adds an image"
    where = device_name(device)
    if processes.world_size > 1:
        hosts, each = ", ".join(dict.fromkeys(processes.hosts)), recipe.batch_size // processes.world_size
        where = f"{processes.world_size} processes on {hosts}, {each} images each, {where}"
    return f"{config.plan}\n\n{size}\n{sets.describe()}\n{steps:,} steps of {recipe.batch_size} images on {where}"


def report(result: FitResult, device) -> None:
    """Print what came of it, and where it is saved."""
    best = result.best
    print(f"test accuracy {result.test}")
    print(f"best weights at step {best['step']:,}: {best['accuracy']:.1%} of {best['n']:,} held-out images correct")
    print(f"{result.seconds:.0f} s, {result.images_per_s:,.0f} images/s on {device_name(device)}")
    if reached := [mark for mark in ACCURACY_MARKS if result.seconds_to(mark / 100) is not None]:
        print(f"{reached[-1]} % of the held-out images correct after {result.seconds_to(reached[-1] / 100):.0f} s")
    if result.skipped:
        print(f"{result.skipped} steps skipped: their gradients were non-finite")
    if result.corrupt:
        print(unreadable(result.corrupt))
    names = ", ".join(sorted(path.name for path in result.folder.iterdir() if not path.name.startswith(".")))
    print(f"saved in {result.folder}: {names}")


def record(args: Namespace, result: FitResult, model: ViT, recipe: Recipe, device) -> ledger.Record:
    """Add the results to the ledger."""
    values = {**result.test.to_dict(), "train_seconds": result.seconds, "images_per_s": result.images_per_s}
    values |= {
        f"seconds_to_{mark}": time for mark in ACCURACY_MARKS if (time := result.seconds_to(mark / 100)) is not None
    }
    about = {"n": result.test.n, "seed": recipe.seed, "config": model.config.to_dict(), "recipe": recipe.to_dict()}
    return ledger.add(args.record, f"training on {model.card['data']['name']}", args.line, device, values, **about)
