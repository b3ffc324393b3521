"""Parts 3 to 7: CIFAR-10 in about a minute, as far as it goes, the larger atlas, the chapters' studies, the atlas."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch

from dtl_lib import ledger
from dtl_lib.cli.train_output import ACCURACY_MARKS
from dtl_lib.config import ViTConfig
from dtl_lib.host import device_name
from dtl_lib.lab import atlas, bench
from dtl_lib.lab.atlas import Grid, followup
from dtl_lib.models import ViT
from dtl_lib.train import FitResult, Recipe, fit

from .. import atlas_followup, one_gpu
from ..peaks import of_sheet
from ..study import carry_out, line
from . import beside
from .schedule import Deadline, NotNow, Task
from .sizes import Sizes

EXPERIMENT = "cifar10_gpu"
FIRST = 100.0  # seconds that a run is taken to last where none has been measured
MARGIN, START = 1.15, 15.0  # of a measured time; seconds to begin with
WARM_UP = 10  # one epoch in so many is warm-up in a shortened recipe, and no more than in the whole one
SHARED = 1.5  # a step of the atlas over one that has the GPU for itself
WORTH_BEGINNING = 45.0  # seconds, for runs that go beside each other: a few of them end
TRAINING_IMAGES = 45_000
TRAINING = 3  # a step counts as three forward passes


def tasks(sizes: Sizes, folder: Callable, is_there: bool, options: Namespace, deadline: Deadline) -> list[Task]:
    """Every seed of parts 3 and 4, the larger atlas, the chapters' studies, then the stages of the whole atlas."""
    if not (is_there or sizes.is_toy):
        return []
    sets = cache(lambda: sizes.sets(folder))
    made = []
    for part, (name, config, recipe), label in ((3, sizes.fast, "cifar10_fast"), (4, sizes.full, "cifar10_full")):
        for seed in sizes.seeds:
            its = replace(recipe, seed=seed)
            job = Job(f"{name} by {label}", config, its, part == 4, sizes, sets, options, deadline)
            made.append(Task(part, f"{job.title}, seed {seed}", job.seconds, job.done, job.run))
    large = Large(sizes, folder, options)
    made.append(beside_task(sizes, options))
    made.append(Task(5, "the larger atlas: where the class token enters", large.seconds, large.done, large.run))
    its = Together(sizes, folder, options)
    title = f"the chapters' studies: {sum(len(study.runs) for study in sizes.studies)} runs"
    made.append(Task(6, title, its.seconds, its.done, its.run))
    for number, grid in enumerate(sizes.grids, 1):
        stage = Stage(grid, sizes, folder, options, deadline)
        title = f"the atlas, stage {number} of {len(sizes.grids)}: {len(grid.cells())} cells, {len(grid.seeds)} seeds"
        made.append(Task(7, title, stage.seconds, stage.done, stage.run))
    return made


class Job:
    """One training run.

    Args:
        title: model and recipe.
        config, recipe: of the run.
        shorten: whether to train for as many of the recipe's epochs as there is time for.
        sizes, options, deadline: of the command.
        sets: gives the images.
    """

    def __init__(self, title, config: ViTConfig, recipe: Recipe, shorten: bool, sizes, sets, options, deadline):
        self.title, self.config, self.recipe, self.shorten = title, config, recipe, shorten
        self.sizes, self.sets, self.options, self.deadline = sizes, sets, options, deadline

    def records(self) -> list[ledger.Record]:
        """Of this device and title, any seed, the oldest first."""
        name = device_name(self.options.device)
        runs = ledger.read(EXPERIMENT, self.options.folder, missing_ok=True)
        return [run for run in runs if run.device == name and run.what.startswith(self.title)]

    def done(self) -> bool:
        """Whether this seed has its record."""
        return any(run.seed == self.recipe.seed for run in self.records())

    def seconds(self) -> float:
        """What the first run took, or a guess."""
        if self.sizes.is_toy:
            return 1.0
        before = self.records()
        return MARGIN * before[0].get("train_seconds") + START if before else FIRST

    def run(self) -> None:
        """Train and record; a shortened recipe is the one that the first seed had."""
        recipe, before = self.recipe, self.records()
        if self.shorten:
            first = before and Recipe.from_dict(before[0].recipe)
            recipe = replace(first, seed=recipe.seed) if first else shortened(self)
        found = train(self, recipe)
        whole = recipe.epochs == self.recipe.epochs
        what = self.title + f", shortened to {recipe.epochs:g} of its {self.recipe.epochs:g} epochs" * (not whole)
        values = measured(found, recipe, self)
        about = {"config": self.config.to_dict(), "recipe": recipe.to_dict(), "folder": self.options.folder}
        about |= {"n": found.test.n, "seed": recipe.seed}
        ledger.add(EXPERIMENT, what, self.options.command, self.options.device, values, **about)
        print(f"{what}, seed {recipe.seed}: {found}", flush=True)


def train(job: Job, recipe: Recipe) -> FitResult:
    """One run from the seed's own weights."""
    torch.manual_seed(recipe.seed)
    model = ViT(job.config)
    return fit(model, job.sets(), recipe, device=job.options.device, compiled=job.sizes.compiled, progress=False)


def shortened(job: Job) -> Recipe:
    """The recipe with as many epochs as fit, from the rate of a few steps, which also compile what the run needs."""
    recipe, steps, images = job.recipe, job.sizes.trial, len(job.sets().train)
    trial = replace(recipe, epochs=None, max_steps=steps, warmup_epochs=0, eval_every=steps, log_every=steps)
    found = train(job, trial)
    evaluations = recipe.steps_per_epoch(images) / (recipe.eval_every or recipe.steps_per_epoch(images))
    epoch = images / found.images_per_s + evaluations * found.test.seconds
    fit_in = int((job.deadline.left() - found.test.seconds - START) / (MARGIN * epoch))
    if (epochs := min(recipe.epochs, fit_in)) < job.sizes.shortest:
        raise NotNow(f"{max(0, fit_in)} epochs fit, and {job.sizes.shortest:g} are wanted")
    warmup = min(recipe.warmup_epochs, epochs / WARM_UP)
    return replace(recipe, epochs=epochs, warmup_epochs=warmup) if epochs < recipe.epochs else recipe


def measured(found: FitResult, recipe: Recipe, job: Job) -> dict:
    """What a record of a run holds: accuracy, times, and the share of the GPU's products that the model's come to."""
    timed = {f"seconds_to_{mark}": found.seconds_to(mark / 100) for mark in ACCURACY_MARKS}
    rows = [row for row in found.history if "accuracy" in row]
    flops = 2 * TRAINING * job.config.cost().total * found.images_per_s
    how = bench.BenchConfig(recipe.batch_size, amp=recipe.amp, device=job.options.device)
    rate = one_gpu.matmul_rate(how.device, how.dtype, job.options.sizes)
    sheet = of_sheet(device_name(how.device), how.dtype)
    values = {
        **found.test.to_dict(), "held_out": found.best["accuracy"], "train_seconds": found.seconds,
        "images_per_s": found.images_per_s, "epochs": recipe.epochs, "recipe_epochs": job.recipe.epochs,
        "curve": [row["accuracy"] for row in rows], "curve_seconds": [row["seconds"] for row in rows],
        "flops": flops, "matmul_flops": rate.flops, "utilisation": flops / rate.flops,
    }  # fmt: skip
    values |= {"sheet_flops": sheet, "of_sheet": flops / sheet} if sheet else {}
    return values | {name: seconds for name, seconds in timed.items() if seconds is not None}


def beside_task(sizes: Sizes, options: Namespace) -> Task:
    """How many runs go beside each other: measured once, unless it is given."""
    name, config, batch = sizes.cifar
    title = beside.what(name, batch)

    def done() -> bool:
        return bool(options.jobs) or title in ledger.measured(beside.EXPERIMENT, options.device, options.folder)

    def run() -> None:
        beside.measure(name, config, batch, options, sizes.beside, sizes.steps)

    return Task(5, title, lambda: beside.SECONDS, done, run)


class Together:
    """The chapters' studies: as many of their runs as there is time for, several beside each other.

    Args:
        sizes, folder, options: of the command.
    """

    def __init__(self, sizes: Sizes, folder: Callable, options: Namespace):
        self.sizes, self.folder, self.options = sizes, folder, options

    def done(self) -> bool:
        """Whether every run has its record."""
        return not any(study.left(self.options.folder, self.options.device) for study in self.sizes.studies)

    def seconds(self) -> float:
        """What is worth beginning: its runs are recorded as they end."""
        return 1.0 if self.sizes.is_toy else WORTH_BEGINNING

    def run(self) -> None:
        """Run what is missing until the time is up."""
        if not self.sizes.is_toy:
            self.folder()
        jobs = beside.best(self.options, self.sizes.jobs)
        for record in carry_out(self.sizes.studies, self.options.folder, jobs, self.options.device):
            print(f"{record.experiment}: {record.what}, seed {record.seed}: {line(record)}", flush=True)


class Large(Together):
    """The atlas's larger model."""

    def done(self) -> bool:
        """Whether every place has all of its seeds at one of the rates."""
        by_rate = self.sizes.large()
        records = [atlas.read(grid, self.options.folder) for grid in by_rate.values()]
        grid = next(iter(by_rate.values()))
        if any(atlas.missing(grid.cells(), followup.CHOOSING, found) for found in records):
            return False  # a rate is chosen between both
        return all(any(all((cell, seed) in found for seed in grid.seeds) for found in records) for cell in grid.cells())

    def run(self) -> None:
        """Run what is missing until the time is up."""
        if not self.sizes.is_toy:
            self.folder()
        jobs = beside.best(self.options, self.sizes.jobs)
        runner = atlas_followup.Runner(self.options.command, jobs, self.options.folder, self.options.device)
        for record in atlas_followup.at_two_rates(runner, self.sizes.large()):
            print(f"{record.what}, {record.experiment}, seed {record.seed}: {line(record)}", flush=True)


class Stage:
    """A part of the atlas: as many of its runs as there is time for.

    Args:
        grid: which runs.
        sizes, folder, options, deadline: of the command.
    """

    def __init__(self, grid: Grid, sizes: Sizes, folder: Callable, options: Namespace, deadline: Deadline):
        self.grid, self.sizes, self.folder, self.options, self.deadline = grid, sizes, folder, options, deadline

    def done(self) -> bool:
        """Whether every run has its record."""
        return not atlas.runs_left(self.grid, atlas.read(self.grid, self.options.folder))

    def seconds(self) -> float:
        """A guess at one run; `run` looks closer."""
        return 1.0 if self.sizes.is_toy else FIRST

    def run(self) -> None:
        """Run what is missing until the time is up: what is recorded by then stays."""
        if not self.sizes.is_toy:
            self.folder()
            self._see_whether_one_fits()
        jobs = beside.best(self.options, self.sizes.jobs)
        runs = atlas.run(
            self.grid, self.options.folder, command=self.options.command, jobs=jobs, device=self.options.device,
            progress=False,
        )  # fmt: skip
        for record in runs:
            print(f"{record.what}, seed {record.seed}: {record.get('accuracy'):.1%}", flush=True)

    def _see_whether_one_fits(self) -> None:
        recipe, config = self.grid.recipe, self.grid.cells()[0].config(self.grid.config)
        step = bench.step_time(config, recipe.batch_size, steps=self.sizes.steps, device=self.options.device)
        needed = START + SHARED * step.median * recipe.steps(TRAINING_IMAGES)
        if needed > self.deadline.left():
            raise NotNow(f"one run takes about {needed:.0f} s")
