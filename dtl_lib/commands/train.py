"""`dtl train`: from flags to a trained ViT, measured and saved."""

import os
from argparse import Namespace
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path

from .. import data, ledger
from ..config import ViTConfig, named
from ..layers import interpolate_positions
from ..models import ViT
from ..pretrained import LoadReport, load_pretrained, load_shared
from ..train import FitResult, Recipe, fit, recipes, state
from ..train.device import find_device, keyed_generators
from .configure import configured
from .flags import given

MODELS = {"shapes": "vit_shapes_patch8_32", "cifar10": "vit_cifar_patch4_32", "cifar100": "vit_cifar_patch4_32"}
LARGE = "vit_tiny_patch16_224"


def main(args: Namespace) -> None:
    """Train; print accuracy with its interval and n, time, images/s, and where things were saved."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("training in several processes is not there yet: start one, with --nproc_per_node=1")
    device = find_device(args.device)
    folder, before = _resumed(args)
    source = load_pretrained(args.finetune) if args.finetune and not before else None
    images = _images(args, before)
    config, recipe = _config(args, images["name"], source, before), _recipe(args, images["name"], before)
    sets = data.load(**images, image_size=config.image_size, config=config)
    config = replace(config, classes=len(sets.train.classes), mean=sets.train.mean, std=sets.train.std)
    with keyed_generators(device, recipe.seed):
        model = ViT(config)
    _announce(config, sets, recipe, device)
    if source is not None:
        print(f"{args.finetune}: {_begin_with(model, source)}")
    found = fit(
        model, sets, recipe, folder, resume=before is not None, device=str(device), progress=not args.quiet,
        checkpoint_every=args.checkpoint_every, tensorboard=args.tensorboard, workers=args.workers,
        card={"command": args.line, "run": {"data": images}},
    )  # fmt: skip
    _tell(found, device)
    if args.record:
        print(f"recorded in {_record(args, found, model, recipe, device)}")


def _announce(config: ViTConfig, sets: data.Sets, recipe: Recipe, device) -> None:
    cost, steps = config.cost(), recipe.steps(len(sets.train))
    print(f"{config.plan}\n\n{cost.parameters / 1e6:.2f} M parameters, {cost.total / 1e6:.1f} M multiply–adds an image")
    print(sets.describe())
    print(f"{steps:,} steps of {recipe.batch_size} images on {ledger.device_name(device)}", flush=True)


def _tell(found: FitResult, device) -> None:
    best = found.best
    print(f"test accuracy {found.test}")
    print(
        f"with the weights of step {best['step']:,}: {best['accuracy']:.1%} of {best['n']:,} held-out images, the best"
    )
    print(f"{found.seconds:.0f} s, {found.images_per_s:,.0f} images/s on {ledger.device_name(device)}")
    names = ", ".join(sorted(path.name for path in found.folder.iterdir() if not path.name.startswith(".")))
    print(f"saved in {found.folder}: {names}")


def _resumed(args: Namespace) -> tuple[Path, dict | None]:
    """The run's folder, and the card of the state to go on from."""
    if args.resume is None:
        return Path(args.output_dir or f"runs/{datetime.now():%Y%m%d-%H%M%S}"), None
    folder = args.output_dir if args.resume is True else args.resume
    if folder is None:
        raise ValueError("say which run to resume: --resume DIR, or --output-dir DIR --resume")
    if args.resume is not True and args.output_dir and Path(args.output_dir) != Path(args.resume):
        raise ValueError("--resume goes on in its own folder: leave --output-dir out")
    return Path(folder), state.read(folder)[1]


def _images(args: Namespace, before: dict | None) -> dict:
    """The arguments of `data.load` that say which images."""
    saved = (before or {}).get("run", {}).get("data", {})
    if args.data_path and not (args.data or saved):
        raise ValueError(f"say what lies in {args.data_path}: --data cifar10, cifar100, imagenet or folder")
    asked = {"name": args.data, "path": args.data_path, "level": args.level, "samples": args.samples}
    usual = {"name": "shapes", "path": None, "level": 1, "samples": None}
    return {name: saved.get(name, usual[name]) if value is None else value for name, value in asked.items()}


def _config(args: Namespace, images: str, source: ViT | None, before: dict | None) -> ViTConfig:
    if args.model:
        base = named(args.model)
    elif before:
        base = ViTConfig.from_dict(before["config"])
    else:
        base = source.config if source else named(MODELS.get(images, LARGE))
    return configured(base, args)


def _recipe(args: Namespace, images: str, before: dict | None) -> Recipe:
    if before and not args.recipe:
        base = Recipe.from_dict(before["recipe"])
    else:
        base = recipes().get(args.recipe or images, recipes()["imagenet"])
    asked = given(args, [field.name for field in fields(Recipe)])
    if "max_steps" in asked and "epochs" not in asked and not before:
        asked["epochs"] = None  # the steps asked for, also where they are more than the recipe's epochs
    if "epochs" in asked and "max_steps" not in asked and not before:
        asked["max_steps"] = None
    if asked.keys() & {"warmup_steps", "warmup_epochs"} and not before:
        asked = {"warmup_steps": 0, "warmup_epochs": 0.0, **asked}
    return replace(base, **asked)


def _begin_with(model: ViT, source: ViT) -> LoadReport:
    """Load what the two models share, positions interpolated to the new grid; what became of each tensor."""
    weights, config = source.state_dict(), source.config
    if "positions" in weights and model.config.positions == "learned":
        grid = model.config.grid
        weights["positions"] = interpolate_positions(weights["positions"], grid, config.position_offset)
    return load_shared(model, weights, source.plan.depth)


def _record(args: Namespace, found: FitResult, model: ViT, recipe: Recipe, device) -> Path:
    values = {**found.test.to_dict(), "train_seconds": found.seconds, "images_per_s": found.images_per_s}
    about = {"n": found.test.n, "seed": recipe.seed, "config": model.config.to_dict(), "recipe": recipe.to_dict()}
    return ledger.add(args.record, f"training on {model.card['data']['name']}", args.line, device, values, **about)
