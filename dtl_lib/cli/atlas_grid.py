"""A grid of the user's own for `dtl atlas`: flags → grid, grid → the command in its records, and that → grid again."""

from __future__ import annotations

import argparse
import os
import shlex
from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import ledger
from ..checks import first_line, is_line
from ..config import ViTConfig, named
from ..data.sources import source
from ..paths import user_path
from ..train.recipe import Recipe, recipes
from .parser import Parser, add_field, given, positive, whole
from .shared_flags import CONFIG, add_data, check_level, check_trainable

if TYPE_CHECKING:
    from ..data import Sets
    from ..lab.atlas import Grid
    from ..ledger import Record

EXPERIMENT = "atlas_own"
AXES = ("cls", "reg", "num_reg", "seeds")
DATA = {"data": "shapes", "data_path": None, "level": 1, "samples": None}
MODEL = {"depth": 6, "dim": 64, "heads": 4, "image_size": None, "patch_size": None, "channels": None}
TRAINING = (
    "epochs", "max_steps", "batch_size", "lr", "warmup_steps", "weight_decay", "smoothing", "crop", "flip",
)  # fmt: skip
WARMUP = 7  # the warm-up is one of so many parts of a run, as in the `cpu` grid


def add_own_grid(parser: Parser) -> None:
    """The flags that describe a grid: what is varied, and what all of its runs share."""
    about = "Its records go to --records, which is needed; what is not said is as in the cpu grid."
    axes = parser.add_argument_group("a grid of your own, for dtl atlas run", about)
    where = (
        "blocks that the class token enters before: numbers, attention (after the trunk, by class attention) or none"
    )
    axes.add_argument("--cls", type=_places("attention"), metavar="0,4,none", help=f"{where} (average pooling)")
    registers = "blocks that the registers enter before, and none for no registers (default: none)"
    axes.add_argument("--reg", type=_places(), metavar="none,0", help=registers)
    axes.add_argument("--num-reg", type=positive, metavar="N", help="number of registers, where there are some")
    axes.add_argument("--seeds", type=_numbers, metavar="0,1,2", help="seeds of every cell (default: 0,1,2)")
    shared = parser.add_argument_group("what its runs share")
    add_data(shared, "data to train on (default: shapes)")
    shared.add_argument("--samples", type=positive, metavar="N", help="training images to use (default: all)")
    kinds = {field.name: field.type for field in fields(ViTConfig)}
    for name, default in MODEL.items():
        text = f"{CONFIG[name]} (default: {default or 'the data set’s model’s'})"
        add_field(shared, name, kinds[name], text, "--input-size" if name == "image_size" else None)
    for field in fields(Recipe):
        if field.name in TRAINING:
            add_field(shared, field.name, field.type, field.metadata["help"])


def own_flags(args: Namespace) -> list[str]:
    """The flags that were given and describe a grid."""
    plain = [name for name in (*AXES, *DATA) if getattr(args, name) is not None]
    return [f"--{name.replace('_', '-')}" for name in (*plain, *given(args, (*MODEL, *TRAINING)))]


def asked_grid(args: Namespace) -> tuple[Grid, Sets]:
    """The grid that the flags describe, and its images.

    Raises:
        ValueError: where flags contradict each other or the data.
    """
    from ..lab.atlas import Grid
    from ..lab.atlas.grid import NEVER

    axes, images = _axes(args), _images(args)
    usual = source(images["data"])
    model, asked = {**MODEL, **given(args, MODEL)}, given(args, TRAINING)
    sizes = {name: value for name, value in model.items() if value is not None}
    config = replace(named(usual.model), plan=None, **sizes)
    base = {"batch_size": 64, "lr": 2e-3, "flip": recipes()[usual.recipe].flip, "eval_every": NEVER, "log_every": 100}
    grid = Grid(EXPERIMENT, config=config, recipe=Recipe(**{**base, **asked}), sweep=(), **axes, **images)
    check_trainable(grid.config)
    sets = grid.sets()
    grid.recipe.steps_per_epoch(len(sets.train))  # a batch may be more than there is
    steps = grid.recipe.steps(len(sets.train))
    if asked.get("warmup_steps", 0) >= steps:
        raise ValueError(f"--warmup-steps {asked['warmup_steps']} does not end within a run's {steps} steps: lower it")
    seen = {"classes": len(sets.train.classes), "mean": tuple(sets.train.mean), "std": tuple(sets.train.std)}
    recipe = replace(grid.recipe, warmup_steps=asked.get("warmup_steps", steps // WARMUP))
    return replace(grid, config=replace(config, **seen), recipe=recipe), sets


def recorded_grid(folder: str) -> Grid | None:
    """The grid of the records in a folder, as its last run was asked for; None where there are no records.

    Raises:
        ValueError: where they are not those of a grid that flags describe.
    """
    from ..lab.atlas import Grid

    if not (records := ledger.read(EXPERIMENT, folder, missing_ok=True)):
        return None
    last = records[-1]
    try:
        args = _parsed(last)
        config = replace(ViTConfig.from_dict(last.config or {}), plan=None, pool="cls")
        recipe = replace(Recipe.from_dict(last.recipe or {}), seed=Recipe().seed)
        return Grid(EXPERIMENT, config=config, recipe=recipe, sweep=(), **_axes(args), **_images(args))
    except (ValueError, TypeError) as error:
        path = ledger.path(EXPERIMENT, folder)
        raise ValueError(
            f"{path}: the command of record {last.id} does not say which grid it is of ({first_line(error)}): "
            "dtl atlas run has not made it"
        ) from None


def check_same_data(grid: Grid, folder: str) -> None:
    """A ValueError where the records in a folder are of other images than a grid's; what differs."""
    recorded = recorded_grid(folder)
    names = dict(DATA)
    if recorded and "data" in ledger.read(EXPERIMENT, folder)[-1].values:
        names.pop("data_path")  # `atlas.run` compares the images themselves, wherever they are now
    for name in names if recorded else ():
        before, now = (getattr(one, name) for one in (recorded, grid))
        if before != now:
            flag, path = f"--{name.replace('_', '-')}", ledger.path(EXPERIMENT, folder)
            raise ValueError(
                f"{path} has runs with {flag} {_word(before)}, and this grid has {_word(now)}: keep its runs in "
                "another folder"
            )


def command_of(grid: Grid) -> str:
    """What to type for a grid's runs, with every number that decides about them.

    Raises:
        ValueError: where no record can hold it.
    """
    from ..lab.atlas import ATTENTION, POOLING

    words = {ATTENTION: "attention", POOLING: "none"}
    values = {
        "cls": ",".join(words.get(place, str(place)) for place in grid.cls),
        "reg": ",".join(map(_word, grid.reg)),
        "num_reg": None if grid.reg == (None,) else grid.num_reg,
        "seeds": ",".join(map(str, grid.seeds)),
        **{name: value for name in DATA if (value := getattr(grid, name)) != DATA[name] or name == "data"},
        **{name: getattr(grid.config, name) for name in MODEL},
        **{name: getattr(grid.recipe, name) for name in TRAINING},
    }
    line = ["dtl", "atlas", "run"]
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            line.append(flag if value else f"--no-{flag[2:]}")
        elif value is not None:
            line += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    if not is_line(text := shlex.join([*line, "--records", "DIR"])):
        raise ValueError(f"--data-path {grid.data_path!r} holds what no record can hold: give it another name")
    return text


def _axes(args: Namespace) -> dict:
    from ..lab.atlas import ATTENTION, POOLING

    if args.cls is None:
        raise ValueError("say where the class token enters in your grid: --cls 0,2,none, for example")
    depth, reg = getattr(args, "depth", MODEL["depth"]), args.reg or (None,)
    for flag, places, others in (("cls", args.cls, ", attention or none"), ("reg", reg, " or none")):
        for place in places:
            if isinstance(place, int) and place >= depth > 0:
                raise ValueError(
                    f"--{flag} {place} is not a block of a trunk of {depth}: choose from 0 to {depth - 1}{others}"
                )
    if (number := args.num_reg) is None and reg != (None,):
        raise ValueError(f"--reg {','.join(map(_word, reg))} needs --num-reg, the number of registers (4 is usual)")
    if number is not None and reg == (None,):
        raise ValueError(f"--num-reg {number} needs --reg, the blocks that registers enter before, such as none,0")
    words = {"attention": ATTENTION, None: POOLING}
    cls = tuple(words.get(place, place) for place in args.cls)
    return {"cls": cls, "reg": reg, "num_reg": number or 1, "seeds": args.seeds or (0, 1, 2)}


def _images(args: Namespace) -> dict:
    if args.data_path and not args.data:
        raise ValueError(f"say what {args.data_path} holds: --data NAME, such as cifar10 or folder")
    images = {name: default if (value := getattr(args, name)) is None else value for name, default in DATA.items()}
    check_level(args, images["data"])
    path = images["data_path"] and os.path.abspath(user_path(images["data_path"]))
    return {**images, "data_path": path}


def _parsed(record: Record) -> Namespace:
    """The flags in a record's command."""
    words = shlex.split(record.command)
    if words[:3] != ["dtl", "atlas", "run"]:
        raise ValueError(f"it is {record.command}")
    parser = Parser()
    add_own_grid(parser)
    parser.add_argument("--records")
    args, rest = parser.parse_known_args(words[3:])
    if rest:
        raise ValueError(f"it has {rest[0]}")
    return args


def _places(*names: str) -> Callable[[str], tuple]:
    """Reads blocks, `none` and names, separated by commas."""
    words = {name: name for name in names} | {"none": None}
    usual = ",".join(["0", "4", *words])

    def read(text: str) -> tuple:
        return _listed(text, lambda word: words[word] if word in words else whole(word), f"blocks, such as {usual}")

    return read


def _numbers(text: str) -> tuple:
    return _listed(text, whole, "whole numbers, such as 0,1,2")


def _listed(text: str, read: Callable[[str], object], what: str) -> tuple:
    try:
        values = [read(word.strip().lower()) for word in text.split(",")]
    except (argparse.ArgumentTypeError, ValueError):
        raise argparse.ArgumentTypeError(f"give {what}, not {text!r}") from None
    if twice := [value for at, value in enumerate(values) if value in values[:at]]:
        raise argparse.ArgumentTypeError(f"{_word(twice[0])} is there twice: give each value once")
    return tuple(values)


def _word(value) -> str:
    return "none" if value is None else str(value)


def has_own(folder: str | None) -> bool:
    """Whether a folder holds records of a grid of the user's own."""
    return bool(folder) and Path(ledger.path(EXPERIMENT, folder)).is_file()
