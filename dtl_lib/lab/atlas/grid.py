"""The runs of an atlas: cells, seeds, and the model and recipe that all of them share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...checks import shortened, whole
from ...config import CIFAR_MEAN, CIFAR_STD, ViTConfig
from ...tokens import TokenPlan
from ...train.recipe import Recipe

ATTENTION, POOLING = "class attention", "average pooling"
NEVER = 10**6  # steps between evaluations: the only one is at the end
CLASS_BLOCKS = 1  # a class token that enters after the trunk is read by as many class-attention blocks


@dataclass(frozen=True)
class Cell:
    """One choice of where the tokens enter.

    Args:
        cls: the block the class token enters before; "class attention" where it enters after the trunk, "average
            pooling" where there is none.
        reg: the block the registers enter before; None for no registers.
        num_reg: how many registers; 0 where `reg` is None.
    """

    cls: int | str
    reg: int | None = None
    num_reg: int = 0

    def __post_init__(self):
        if isinstance(self.cls, str) and self.cls not in (ATTENTION, POOLING):
            raise ValueError(f'cls is a block, "{ATTENTION}" or "{POOLING}", not {self.cls!r}')
        if (self.reg is None) != (self.num_reg == 0):
            raise ValueError(f"reg={self.reg} and num_reg={self.num_reg} contradict each other: give both or neither")

    def plan(self, depth: int) -> TokenPlan:
        """The token plan of a trunk of `depth` blocks."""
        where = {ATTENTION: depth, POOLING: None}.get(self.cls, self.cls)
        blocks = CLASS_BLOCKS if self.cls == ATTENTION else 0
        return TokenPlan.of(depth, where, self.reg, self.num_reg, class_blocks=blocks)

    def config(self, base: ViTConfig) -> ViTConfig:
        """`base` with this cell's tokens."""
        return replace(base, plan=self.plan(base.depth), pool="patches" if self.cls == POOLING else "cls")

    @classmethod
    def from_config(cls, config: ViTConfig | Mapping) -> "Cell":
        """The cell that a configuration belongs to."""
        config = config if isinstance(config, ViTConfig) else ViTConfig.from_dict(config)
        token, registers = config.plan.group("cls"), config.plan.group("reg")
        where = POOLING if token is None else ATTENTION if token.enter == config.depth else token.enter
        return cls(where, *((registers.enter, registers.tokens) if registers else ()))

    def __str__(self) -> str:
        token = f"class token at {self.cls}" if isinstance(self.cls, int) else self.cls
        if self.reg is None:
            return f"{token}, no registers"
        return f"{token}, {self.num_reg} register{'s' * (self.num_reg > 1)} at {self.reg}"


Job = tuple[Cell, int]  # a run: its cell and its seed


def weights_name(cell: Cell | str, seed: int) -> str:
    """The file that a run's weights are kept in; "*" stands for any cell."""
    return f"{cell}_seed{seed}.safetensors".replace(",", "").replace(" ", "_")


@dataclass(frozen=True)
class Grid:
    """The runs to make: `cls` × `reg` at `num_reg` registers, then the other numbers of registers at its best cell.

    Args:
        experiment: the ledger's file for its records.
        data: a data set's name.
        config: the model; its tokens are each cell's own.
        recipe: of every run; the seed is each run's own.
        cls, reg: the surface's two axes, as `Cell` takes them.
        num_reg: registers of every cell that has some.
        sweep: numbers of registers to try at the best cell.
        seeds: of the runs of every cell.
        data_path, level, samples: as in `data.load`.

    Raises:
        ValueError: where a place is not in this trunk, or one of the axes is empty or holds a value twice.
    """

    experiment: str
    data: str
    config: ViTConfig
    recipe: Recipe
    cls: tuple[int | str, ...]
    reg: tuple[int | None, ...]
    num_reg: int = 4
    sweep: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    seeds: tuple[int, ...] = (0, 1, 2)
    data_path: str | None = None
    level: int = 1
    samples: int | None = None

    def __post_init__(self):
        for name in ("cls", "reg", "sweep", "seeds"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or not (values or name == "sweep"):
                raise ValueError(f"{name} is a tuple of one value or more, not {shortened(values)}")
            if twice := [value for at, value in enumerate(values) if value in values[:at]]:
                raise ValueError(f"{name} holds {twice[0]} twice: give each value once")
            object.__setattr__(self, name, tuple(values))
        object.__setattr__(self, "seeds", tuple(whole("a seed", seed, 0) for seed in self.seeds))
        for cell in self.cells():
            cell.config(self.config)  # the plan says which places there are

    def cells(self) -> list[Cell]:
        """The surface, row by row of `cls`."""
        return [Cell(cls, reg, 0 if reg is None else self.num_reg) for cls in self.cls for reg in self.reg]

    def sweep_cells(self, best: Cell) -> list[Cell]:
        """The same place for the class token, with every number of registers of the sweep where `best` has them."""
        return [Cell(best.cls, best.reg if number else None, number) for number in self.sweep]

    def sets(self):
        """The data set's parts, a `data.Sets`."""
        from ...data import load

        config = self.config
        return load(self.data, self.data_path, config.image_size, level=self.level, samples=self.samples, config=config)


def grids() -> dict[str, Grid]:
    """The grids that have a name: `cpu` takes two cores an afternoon, `gpu` is the full study."""
    cifar = ViTConfig(32, 4, classes=10, crop=1.0, mean=CIFAR_MEAN, std=CIFAR_STD)
    small = replace(cifar, dim=64, depth=6, heads=4, plan=None)
    quick = Recipe(max_steps=700, batch_size=64, lr=2e-3, warmup_steps=100, flip=True, eval_every=700, log_every=100)
    # Width 192 is vit_cifar_patch4_32's: 5.4 M parameters. This grid has not been run yet; its width,
    # and augmentation against memorising in a hundred passes, should bring the standard plan above 88 %.
    large = replace(cifar, dim=192, depth=12, heads=3, plan=None, drop_path=0.05)
    long = Recipe(
        epochs=100, batch_size=256, lr=1e-3, warmup_epochs=5, crop=4, flip=True, trivial=True, smoothing=0.1,
        eval_every=NEVER, log_every=500,
    )  # fmt: skip
    places = (ATTENTION, POOLING)
    return {
        "cpu": Grid("atlas_cpu", "cifar10", small, quick, (0, 2, 4, 5, *places), (None, 0, 2, 4)),
        "gpu": Grid("atlas_gpu", "cifar10", large, long, (0, 3, 6, 9, 11, *places), (None, 0, 3, 6, 9)),
    }
