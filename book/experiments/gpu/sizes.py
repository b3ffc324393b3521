"""What is run at which size: for a GPU, and a toy that goes the same way in seconds on a CPU."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from dtl_lib import data
from dtl_lib.config import ViTConfig, named
from dtl_lib.data.images import InMemory, Sets
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import Grid, followup
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe, recipes

from .. import atlas_followup, cait, deep, distillation, one_gpu
from ..study import Study

STUDIES = (cait.study, deep.study, distillation.study)  # of the chapters: each gives its study at a scale


@dataclass(frozen=True)
class Sizes:
    """The models, batches and recipes of every part.

    Attributes:
        cifar, deit, looked: name, model, and images a step.
        plans: of `deit`; the others are compared with the first.
        batches: images a step, for the time against them.
        fast, full: name, model and recipe of parts 3 and 4.
        shortest: epochs of `full`; fewer are not worth a run.
        trial: steps of `full` from which it is known how many epochs fit.
        seeds: of parts 3 and 4.
        grids: of the atlas, each a part of the next, so that contrasts can be tested early.
        beside: processes to try beside each other, for `beside.measure`, with the model and batch of `cifar`.
        jobs: runs beside each other where that has not been measured.
        large: gives the grids of the atlas's larger model by learning rate.
        studies: of the chapters.
        rounds, steps: that are timed.
        products: rows and columns of the matrices whose product is timed.
        compiler: as in `BenchConfig`.
        compiled: whether training is compiled.
        sets: gives the images, from what gives their folder.
    """

    cifar: tuple[str, ViTConfig, int]
    deit: tuple[str, ViTConfig, int]
    looked: tuple[str, ViTConfig, int]
    plans: Mapping[str, TokenPlan]
    batches: tuple[int, ...]
    fast: tuple[str, ViTConfig, Recipe]
    full: tuple[str, ViTConfig, Recipe]
    shortest: float
    trial: int
    seeds: tuple[int, ...]
    grids: tuple[Grid, ...]
    beside: tuple[int, ...]
    jobs: int
    large: Callable[[], dict[float, Grid]]
    studies: tuple[Study, ...]
    rounds: int
    steps: int
    products: tuple[int, ...]
    compiler: bool | str
    compiled: bool
    sets: Callable[[Callable], Sets]

    @property
    def is_toy(self) -> bool:
        """Whether it is the toy, whose times say nothing."""
        return not self.compiled


def full() -> Sizes:
    """For a GPU."""
    recipe = recipes()
    small, large, plain = (f"vit_cifar_{name}_32" for name in ("small_patch4", "patch2", "patch4"))
    deit, tiny = "deit_small_patch16_224", "vit_tiny_patch16_224"
    return Sizes(
        cifar=(plain, named(plain), 512), deit=(deit, named(deit), 256), looked=(tiny, named(tiny), 256),
        plans=one_gpu.DEIT, batches=(16, 64, 256, 1024, 4096), fast=(small, named(small), recipe["cifar10_fast"]),
        full=(large, named(large), recipe["cifar10_full"]), shortest=15, trial=60, seeds=(0, 1, 2),
        grids=atlas.stages(atlas.grids()["gpu"]), beside=(1, 4, 8, 12), jobs=4,
        large=followup.large, studies=(*atlas_followup.on_a_gpu(), *(made("gpu") for made in STUDIES)), rounds=20,
        steps=20, products=(4096, 8192), compiler=True, compiled=True,
        sets=lambda folder: data.load("cifar10", folder()),
    )  # fmt: skip


def toy() -> Sizes:
    """The same way in seconds; the names say that it is a toy, so its records do not stand for real ones."""
    config = ViTConfig(16, 8, dim=24, depth=2, heads=3, classes=5)
    plans = {one_gpu.STANDARD: TokenPlan.of(2), "class token from 1": TokenPlan.of(2, 1)}
    fast, long = (
        replace(recipes()[name], epochs=epochs, batch_size=16, warmup_epochs=0, eval_every=4)
        for name, epochs in (("cifar10_fast", 2), ("cifar10_full", 4))
    )
    recipe = Recipe(max_steps=2, batch_size=16, eval_every=2, log_every=1)
    grid = ToyGrid("atlas_toy", "noise", config, recipe, (0,), (None,), sweep=(), seeds=(0,))
    return Sizes(
        cifar=("toy", config, 4), deit=("toy deit", config, 2), looked=("toy", config, 2), plans=plans, batches=(2, 4),
        fast=("toy", config, fast), full=("toy", config, long), shortest=1, trial=2, seeds=(0, 1),
        grids=(grid,), beside=(1, 2), jobs=1, large=lambda: two_rates(grid),
        studies=tuple(made("toy") for made in STUDIES), rounds=2, steps=2, products=(32,), compiler="eager",
        compiled=False, sets=lambda folder: noise(),
    )  # fmt: skip


def two_rates(grid: Grid) -> dict[float, Grid]:
    """As `followup.large`, of a toy."""
    made = {}
    for rate in followup.LARGE_RATES:
        recipe, name = replace(grid.recipe, lr=rate), f"atlas_toy_{1e4 * rate:.0f}"
        made[rate] = replace(grid, experiment=name, recipe=recipe, seeds=followup.CHOOSING)
    return made


class ToyGrid(Grid):
    """A grid that is trained on noise."""

    def sets(self) -> Sets:
        """Few images of nothing."""
        return noise()


def noise(images: int = 64) -> Sets:
    """Images without content, of 16 × 16 pixels and five classes."""
    draw = torch.Generator().manual_seed(0)

    def part(name: str) -> InMemory:
        pixels = torch.randint(256, (images, 3, 16, 16), dtype=torch.uint8, generator=draw)
        labels = torch.randint(5, (images,), generator=draw)
        return InMemory(f"noise {name}", tuple("abcde"), (0.5,) * 3, (0.25,) * 3, pixels, labels)

    return Sets(part("train"), part("held_out"), part("test"))
