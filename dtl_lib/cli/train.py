"""`dtl train`: from flags to a trained ViT, evaluated and saved."""

from __future__ import annotations

import argparse
import os
import shlex
import textwrap
from argparse import Namespace
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import data, ledger, train
from ..config import ViTConfig, named
from ..data.saved import saved_images
from ..data.sources import SOURCES, source
from ..host import find_device, keep_memory
from ..paths import user_path
from ..train.distributed.signals import Stopped
from ..train.recipe import Recipe, recipes
from . import evaluate
from .parser import Parser, add_field, given, positive
from .run_folder import launch_name, new_folder, resume_point
from .shared_flags import (
    CONFIG,
    PLAN,
    add_data,
    add_machine,
    add_model,
    add_processes,
    add_record,
    add_weights,
    check_level,
    check_trainable,
    configured,
)
from .train_output import announcement, record, report

if TYPE_CHECKING:
    from ..models import ViT
    from ..train.distributed.processes import Processes

SUMMARY = "Train a ViT, and evaluate it on the test images."
ALIASES = {  # what DeiT's and timm's scripts call a recipe's field
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
SHORTHANDS = {"--repeated-aug": ("repeats", 3), "--bce-loss": ("loss", "bce"), "--model-ema": ("ema", 0.99996)}
NEEDED = {"distill_weight": "distill_from", "distill_temperature": "distill_from", "scale": "crop"}
PREPROCESSING = ("mean", "std", "crop", "interpolation")  # fields of a configuration that weights bring with them
ENOUGH = 0.5  # share of the model, classifiers aside, that --finetune's weights have to hold
RUNTIME_FLAGS = (  # flags that say how a run is carried out, not what it is: its state does not hold them
    "checkpoint_every", "compile", "device", "max_corrupt", "quiet", "record", "shard", "tensorboard", "timeout",
    "workers",
)  # fmt: skip
PER_PROCESS_FLAGS = "data_path", "device", "line", "quiet", "workers"  # these may differ between processes


def flags(parser: Parser) -> None:
    """Which model, which data, where it is saved, on what machine, and the recipe."""
    add_model(parser, "the data set's")
    add_data(parser, "data to train on (default: shapes)")
    parser.add_argument("--samples", type=positive, metavar="N", help="training images to use (default: all)")
    run = parser.add_argument_group("the run")
    run.add_argument("--output-dir", metavar="DIR", help="where to save (default: a new folder in runs/)")
    run.add_argument(
        "--resume", nargs="?", const=True, metavar="DIR", help="resume the run saved in DIR, or in --output-dir"
    )
    run.add_argument("--finetune", metavar="WEIGHTS", help="start from these weights: a timm name, zoo/… or a path")
    add_weights(run, "--finetune")
    partial = "accept --finetune's weights even if they hold less than half of the model"
    run.add_argument("--allow-partial", action="store_true", help=partial)
    only = "only evaluate the weights of --resume or --finetune, as dtl evaluate does"
    run.add_argument("--eval", action="store_true", help=only)
    every = "steps between checkpoints (default: one at each evaluation)"
    run.add_argument("--checkpoint-every", type=positive, metavar="STEPS", help=every)
    run.add_argument("--tensorboard", action="store_true", help="also write TensorBoard logs")
    add_record(run)
    run.add_argument("--compile", action="store_true", help="compile the training step with torch.compile")
    add_machine(run)
    several = add_processes(parser)
    sharded = "shard the model over the processes (FSDP) instead of replicating it (DDP)"
    several.add_argument("--shard", action="store_true", help=sharded)
    _add_recipe(parser)


def _add_recipe(parser: Parser) -> None:
    group = parser.add_argument_group("recipe", "Without these flags, the recipe decides.")
    group.add_argument("--recipe", choices=recipes(), help="one of those below (default: the data set's)")
    for field in fields(Recipe):
        add_field(group, field.name, field.type, field.metadata["help"], ALIASES.get(field.name))
    for flag, (name, value) in SHORTHANDS.items():
        what = f"the same as --{name} {value}"
        group.add_argument(flag, action="store_const", const=value, dest=name, default=argparse.SUPPRESS, help=what)
    lines = (f"{name}: {_differences(recipe)}" for name, recipe in recipes().items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(["recipes:", *(textwrap.fill(line, 79, **_INDENT) for line in lines)])


_INDENT = {"initial_indent": "  ", "subsequent_indent": "    ", "break_on_hyphens": False}


def _differences(recipe: Recipe) -> str:
    """The fields in which a recipe differs from the default."""
    default = Recipe().to_dict()
    changed = {name: value for name, value in recipe.to_dict().items() if value != default[name]}
    if recipe.epochs is None:
        del changed["epochs"]
    return ", ".join(f"{name} {'none' if value is None else value}" for name, value in changed.items())


def main(args: Namespace) -> None:
    """Train; print accuracy with its interval and n, time, images/s, and where things were saved."""
    from ..train.distributed.environment import local_device
    from ..train.distributed.processes import joined

    if args.resume and args.finetune:
        raise ValueError("--resume continues with a run's own weights, --finetune starts from others: give one of them")
    if (args.allow_partial or args.weights) and not args.finetune:
        raise ValueError("--allow-partial is about the weights of --finetune, --weights a file of them: give it too")
    if args.eval:
        return evaluate.main(_evaluation(args))
    device = find_device(local_device(args.device))
    if device.type == "cpu":
        keep_memory()
    with joined(device, args.timeout) as processes:
        try:
            train_model(args, device, processes)
        except Stopped as stopped:
            raise stopped.repeating(_flags_to_repeat(args), processes.world_size) from None


def train_model(args: Namespace, device, processes: Processes) -> None:
    """The whole way: flags → configuration, recipe, data → model → `fit` → report."""
    from ..data.keyed import keyed_generators
    from ..models import ViT
    from ..pretrained import load_pretrained
    from ..train.distributed.agreement import check_ranks_agree
    from ..train.evaluation import normalised

    shared = {f"--{name}": value for name, value in vars(args).items() if name not in PER_PROCESS_FLAGS}
    check_ranks_agree(processes, shared)
    folder, saved_card = resume_point(args, processes)
    with processes.first_on_each_host():  # what has to be downloaded is downloaded once
        pretrained = load_pretrained(args.finetune, weights=args.weights) if args.finetune and not saved_card else None
        images = _images(args, saved_card)
        recipe = _recipe(args, images["name"], saved_card)
        config = _config(args, images["name"], pretrained, saved_card)
        download = saved_card is None or bool(args.data)
        sets = data.load(**images, image_size=config.image_size, config=config, download=download)
    config = replace(config, classes=len(sets.train.classes))
    if pretrained is None and not saved_card:
        config = replace(config, mean=sets.train.mean, std=sets.train.std)
    else:  # weights have learnt from images that were normalised in one way
        sets = normalised(sets, config)
    check_trainable(config)
    with keyed_generators(device, recipe.seed):
        model = ViT(config)
    loaded = "" if pretrained is None else f"\n{_load_shared(model, pretrained, args)}"
    if processes.is_main and saved_card and images["path"] and not args.data_path:
        print(f"{images['name']} is read from {images['path']}, the path in the saved state")
    if processes.is_main:  # flushed, so that a log file says at once what is trained
        print(announcement(config, sets, recipe, device, processes) + loaded, flush=True)

    folder = folder or Path(processes.broadcast_object(new_folder))
    result = train.fit(
        model, sets, recipe, folder, resume=saved_card is not None, device=str(device), workers=args.workers,
        progress=processes.is_main and not args.quiet, checkpoint_every=args.checkpoint_every,
        tensorboard=args.tensorboard, compiled=args.compile, max_corrupt=args.max_corrupt, processes=processes,
        shard=args.shard, card={"command": args.line, "run": {"data": _absolute(images), "launch": launch_name()}},
    )  # fmt: skip
    if processes.is_main:
        report(result, device)
        if args.record:
            record(args, result, model, recipe, device)
            print(f"recorded in {ledger.path(args.record)}")


def _images(args: Namespace, saved_card: dict | None) -> dict:
    """The arguments of `data.load` that say which images."""
    saved = saved_images(saved_card or {}, args.data, args.data_path)
    if args.data_path and not (args.data or saved):
        names = ", ".join(name for name, row in SOURCES.items() if row.in_files)
        raise ValueError(f"say what {args.data_path} holds: --data NAME, such as {names}")
    defaults = {"name": "shapes", "path": None, "level": 1, "samples": None}
    check_level(args, args.data or saved.get("name", "shapes"))
    asked = {"name": args.data, "path": args.data_path, "level": args.level, "samples": args.samples}
    return {name: saved.get(name, defaults[name]) if value is None else value for name, value in asked.items()}


def _absolute(images: dict) -> dict:
    """The same, found from any working directory."""
    path = images["path"] and os.path.abspath(user_path(images["path"]))
    return {**images, "path": path}


def _recipe(args: Namespace, images: str, saved_card: dict | None) -> Recipe:
    from ..pretrained import is_here

    if saved_card and not args.recipe:
        base = Recipe.from_dict(saved_card["recipe"])
    else:
        base = recipes()[args.recipe or source(images).recipe]
    changed = given(args, [field.name for field in fields(Recipe)])
    if "max_steps" in changed and "epochs" not in changed:
        changed["epochs"] = None  # the steps asked for, also where they are more than the recipe's epochs
    if "epochs" in changed and "max_steps" not in changed:
        changed["max_steps"] = None
    if changed.keys() & {"warmup_steps", "warmup_epochs"} and not saved_card:
        changed = {"warmup_steps": 0, "warmup_epochs": 0.0, **changed}
    recipe = replace(base, **changed)
    for name, other in NEEDED.items():
        if name in changed and not getattr(recipe, other):
            name, other = (word.replace("_", "-") for word in (name, other))
            raise ValueError(f"--{name} does nothing without --{other}: give that too, or leave it out")
    if saved_card and recipe.distill_from and "distill_from" not in changed and not is_here(recipe.distill_from):
        raise ValueError(
            f"the saved state names the teacher {recipe.distill_from}, which would be downloaded: if you want that, "
            f"give --distill-from {recipe.distill_from} yourself"
        )
    return recipe


def _config(args: Namespace, images: str, pretrained: ViT | None, saved_card: dict | None) -> ViTConfig:
    if args.model and pretrained is not None:
        base = replace(named(args.model), **{name: getattr(pretrained.config, name) for name in PREPROCESSING})
    elif args.model:
        base = named(args.model)
    elif saved_card:
        base = ViTConfig.from_dict(saved_card["config"])
    else:
        base = pretrained.config if pretrained is not None else named(source(images).model)
    return configured(base, args)


def _load_shared(model: ViT, pretrained: ViT, args: Namespace) -> str:
    """Load what the two models share, positions interpolated to the new grid; what became of each tensor.

    Raises:
        ValueError: where that is less than `ENOUGH` of the model, and not asked for.
    """
    from ..layers import interpolate_positions
    from ..pretrained import load_shared

    weights, config = pretrained.state_dict(), pretrained.config
    if "positions" in weights and model.config.positions == "learned":
        grid = model.config.grid
        weights["positions"] = interpolate_positions(weights["positions"], grid, config.position_offset)
    report = load_shared(model, weights, pretrained.plan.depth)
    sizes = {name: value.numel() for name, value in model.state_dict().items() if not name.startswith("classifiers.")}
    share = sum(sizes.get(name, 0) for name in report.shared) / sum(sizes.values())
    if share < ENOUGH and not args.allow_partial:
        raise ValueError(
            f"{args.finetune} has {share:.0%} of the weights that this model needs: leave out the flags that make it "
            "another model (--model, --dim, --depth, …), or train the rest from scratch with --allow-partial"
        )
    means = ", ".join(f"{name} {' '.join(f'{x:g}' for x in getattr(model.config, name))}" for name in ("mean", "std"))
    return f"{args.finetune}: {report}\nimages are normalised as these weights expect: {means}"


def _evaluation(args: Namespace) -> Namespace:
    """`dtl evaluate`'s flags for `--eval`: the best weights of --resume, or those of --finetune."""
    from ..checkpoint import BEST, SUFFIX

    if changed := given(args, [*PLAN, *CONFIG]):
        unwanted = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ValueError(f"--eval evaluates weights as they are: leave {unwanted} out")
    folder = args.output_dir if args.resume is True else args.resume
    if folder is None and not args.finetune:
        raise ValueError("--eval evaluates weights: give --resume DIR, or --finetune with a timm name, zoo/… or a path")
    path = folder and (folder if Path(folder).suffix == SUFFIX else str(Path(folder) / BEST))
    model = {"model_path": path, "model": None if path else args.finetune, "pretrained": not (path or args.weights)}
    return Namespace(**{**_defaults(evaluate.flags), **vars(args), **model})


def _flags_to_repeat(args: Namespace) -> str:
    """The flags to give again where the run goes on."""
    defaults, repeated = _defaults(flags), []
    others = () if args.data in (None, *SOURCES) else ("data", "data_path")  # a card may not name them
    for name in (*RUNTIME_FLAGS, *others):
        if (value := getattr(args, name)) != defaults[name]:
            repeated += [f"--{name.replace('_', '-')}"] + [str(value)] * (value is not True)
    return shlex.join(repeated)


def _defaults(command_flags) -> dict:
    """The values of a command's flags where none is given."""
    parser = Parser()
    command_flags(parser)
    return vars(parser.parse_args([]))
