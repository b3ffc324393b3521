"""`dtl train`: from flags to a trained ViT, measured and saved."""

import os
import shlex
from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from .. import data, ledger
from ..checkpoint import BEST
from ..config import ViTConfig, named
from ..data.keyed import keyed_generators
from ..host import device_name, find_device, keep_memory
from ..layers import interpolate_positions
from ..models import ViT
from ..pretrained import LoadReport, load_pretrained, load_shared
from ..train import FitResult, Recipe, Stopped, fit, recipes, state
from ..train.distributed.heartbeat import SilentExit
from ..train.distributed.processes import Processes, joined, local_device
from . import evaluate, flags
from .configure import configured
from .flags import CONFIG, PLAN, given
from .lock import held

MODELS = {"shapes": "vit_shapes_patch8_32", "cifar10": "vit_cifar_patch4_32", "cifar100": "vit_cifar_patch4_32"}
MARKS = 50, 90, 94, 95  # per cent of the held-out images right: a record says how long each took
LARGE = "vit_tiny_patch16_224"
UNSAVED = (  # flags that say how a run is carried out, not what it is: its state does not hold them
    "checkpoint_every", "compile", "device", "max_corrupt", "quiet", "record", "shard", "tensorboard", "timeout",
    "workers",
)  # fmt: skip


def main(args: Namespace) -> None:
    """Train; print accuracy with its interval and n, time, images/s, and where things were saved."""
    if args.resume and args.finetune:
        raise ValueError("--resume goes on with a run's own weights, --finetune begins with others: give one of them")
    if args.eval:
        return evaluate.main(_only_measured(args))
    device = find_device(local_device(args.device))
    if device.type == "cpu":
        keep_memory()
    with joined(device, args.timeout) as processes:
        if not processes.first:
            args.quiet = True
        tell = partial(print, flush=True) if processes.first else _nothing  # also where it goes to a file
        try:
            _train(args, device, processes, tell)
        except Stopped as stopped:
            raise stopped.repeating(_unsaved(args), processes.world) from None


def _train(args: Namespace, device, processes: Processes, tell: Callable) -> None:
    folder, before = _resumed(args, processes, tell)
    with processes.first_on_each_host():  # what has to be fetched is fetched once
        source = load_pretrained(args.finetune) if args.finetune and not before else None
        images = _images(args, before)
        config, recipe = _config(args, images["name"], source, before), _recipe(args, images["name"], before)
        sets = data.load(**images, image_size=config.image_size, config=config)
    config = replace(config, classes=len(sets.train.classes), mean=sets.train.mean, std=sets.train.std)
    with keyed_generators(device, recipe.seed):
        model = ViT(config)
    tell(_announcement(config, sets, recipe, device, processes))
    if source is not None:
        tell(f"{args.finetune}: {_begin_with(model, source)}")
    folder = folder or Path(processes.broadcast_object(_new_folder))
    with held(folder, processes):
        found = fit(
            model, sets, recipe, folder, resume=before is not None, device=str(device), progress=not args.quiet,
            checkpoint_every=args.checkpoint_every, tensorboard=args.tensorboard, workers=args.workers,
            card={"command": args.line, "run": {"data": _anywhere(images), "launch": _launch()}}, processes=processes,
            shard=args.shard, compiled=args.compile, max_corrupt=args.max_corrupt,
        )  # fmt: skip
    if processes.first:
        _tell(found, device)
        if args.record:
            _record(args, found, model, recipe, device)
            print(f"recorded in {ledger.path(args.record)}")


def _nothing(*words) -> None:
    """What the processes print that are not the first."""


def _announcement(config: ViTConfig, sets: data.Sets, recipe: Recipe, device, processes: Processes) -> str:
    cost, steps = config.cost(), recipe.steps(len(sets.train))
    size = f"{cost.parameters / 1e6:.2f} M parameters, {cost.total / 1e6:.1f} M multiply–adds an image"
    where = device_name(device)
    if processes.world > 1:
        hosts = list(dict.fromkeys(processes.hosts))
        where = (
            f"{processes.world} processes on {', '.join(hosts)}, {recipe.batch_size // processes.world} each, {where}"
        )
    return f"{config.plan}\n\n{size}\n{sets.describe()}\n{steps:,} steps of {recipe.batch_size} images on {where}"


def _tell(found: FitResult, device) -> None:
    best = found.best
    print(f"test accuracy {found.test}")
    print(
        f"with the weights of step {best['step']:,}: {best['accuracy']:.1%} of {best['n']:,} held-out images, the best"
    )
    print(f"{found.seconds:.0f} s, {found.images_per_s:,.0f} images/s on {device_name(device)}")
    if reached := [mark for mark in MARKS if found.seconds_to(mark / 100) is not None]:
        print(f"{reached[-1]} % of the held-out images right after {found.seconds_to(reached[-1] / 100):.0f} s")
    if found.skipped:
        print(f"{found.skipped} steps left out: their gradients were non-finite")
    if found.corrupt:
        print(evaluate.unreadable(found.corrupt))
    names = ", ".join(sorted(path.name for path in found.folder.iterdir() if not path.name.startswith(".")))
    print(f"saved in {found.folder}: {names}")


def _resumed(args: Namespace, processes: Processes, tell: Callable) -> tuple[Path | None, dict | None]:
    """The run's folder where one is given, and the card of the state to go on from."""
    restarts, allowed = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    if allowed and not (args.output_dir or args.resume):
        kind = SilentExit if restarts else ValueError  # torchrun starts it again
        raise kind("a run that torchrun may restart has to find what it saved: give --output-dir DIR")
    if (
        args.resume is None
        and allowed
        and processes.broadcast_object(lambda: _of_this_launch(Path(args.output_dir), restarts))
    ):
        why = f"restart {restarts} of at most {allowed}" if restarts else "the hosts are not those of before"
        tell(f"{why}: going on with {args.output_dir}")
        args.resume = True
    if args.resume is None:
        return args.output_dir and Path(args.output_dir), None
    folder = args.output_dir if args.resume is True else args.resume
    if folder is None:
        raise ValueError("say which run to resume: --resume DIR, or --output-dir DIR --resume")
    if args.resume is not True and args.output_dir and Path(args.output_dir) != Path(args.resume):
        raise ValueError("--resume goes on in its own folder: leave --output-dir out")
    return Path(folder), processes.broadcast_object(lambda: state.read_card(folder))


def _of_this_launch(folder: Path, restarts: int) -> bool:
    """Whether a folder holds what torchrun's processes have saved before it started them again.

    It counts how often one has failed, not how often a host has joined; the launch has a name, though, if it can grow.
    """
    if not state.exists(folder):
        return False
    return bool(restarts) or state.read_card(folder).get("run", {}).get("launch") == _launch() != "none"


def _unsaved(args: Namespace) -> str:
    """The flags to give again where the run goes on."""
    usual, words = flags.Parser(), []
    flags.train(usual)
    for name in UNSAVED:
        if (value := getattr(args, name)) != usual.get_default(name):
            words += [f"--{name.replace('_', '-')}"] + [str(value)] * (value is not True)
    return shlex.join(words)


def _launch() -> str:
    return os.environ.get("TORCHELASTIC_RUN_ID", "none")


def _new_folder() -> str:
    """A folder of `runs/` named by the date, made here: a clock may go back, and two runs start in one second."""
    for number in range(1, 1000):
        folder = Path("runs", f"{datetime.now():%Y%m%d-%H%M%S}" + f"-{number}" * (number > 1))
        try:
            folder.mkdir(parents=True)
            return str(folder)
        except FileExistsError:
            continue
    raise ValueError("runs/ is full of runs that have just begun: give --output-dir")


def _only_measured(args: Namespace) -> Namespace:
    """`dtl evaluate`'s flags for `--eval`: the best weights of --resume, or those of --finetune."""
    if changed := given(args, [*PLAN, *CONFIG]):
        raise ValueError(f"--eval measures weights as they are: leave {', '.join(changed)} out")
    folder = args.output_dir if args.resume is True else args.resume
    if folder is None and not args.finetune:
        raise ValueError("--eval measures weights: give --resume DIR, or --finetune with a timm name, zoo/… or a path")
    path = folder and (folder if Path(folder).suffix else str(Path(folder) / BEST))
    named = {"model_path": path, "model": None if path else args.finetune, "pretrained": True, "part": "test"}
    return Namespace(**{"batch_size": 256, "amp": "auto", **vars(args), **named})


def _images(args: Namespace, before: dict | None) -> dict:
    """The arguments of `data.load` that say which images."""
    saved = (before or {}).get("run", {}).get("data", {})
    if args.data_path and not (args.data or saved):
        raise ValueError(f"say what lies in {args.data_path}: --data cifar10, cifar100, imagenet, folder or wds")
    asked = {"name": args.data, "path": args.data_path, "level": args.level, "samples": args.samples}
    usual = {"name": "shapes", "path": None, "level": 1, "samples": None}
    return {name: saved.get(name, usual[name]) if value is None else value for name, value in asked.items()}


def _anywhere(images: dict) -> dict:
    """The same, found from any working directory."""
    path = images["path"] and os.path.abspath(os.path.expanduser(images["path"]))
    return {**images, "path": path}


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


def _record(args: Namespace, found: FitResult, model: ViT, recipe: Recipe, device) -> ledger.Record:
    values = {**found.test.to_dict(), "train_seconds": found.seconds, "images_per_s": found.images_per_s}
    values |= {f"seconds_to_{mark}": time for mark in MARKS if (time := found.seconds_to(mark / 100)) is not None}
    about = {"n": found.test.n, "seed": recipe.seed, "config": model.config.to_dict(), "recipe": recipe.to_dict()}
    return ledger.add(args.record, f"training on {model.card['data']['name']}", args.line, device, values, **about)
