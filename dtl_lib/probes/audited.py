"""What an audit finds, as numbers, and what may be said of them in a sentence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from torch import Tensor

from ..config import ViTConfig
from ..tokens import TokenPlan
from .sinks import KINDS


@dataclass(frozen=True)
class Norms:
    """Lengths of a group's tokens after a block, over all images: median, 98th percentile, and the largest."""

    median: float
    p98: float
    largest: float


@dataclass(frozen=True)
class Found:
    """The outliers after a block.

    Attributes:
        n: over all images.
        images: how many images have one.
        share: of all patches.
        cut: the length that divides them from the others.
        ratio: their median length over that of the others.
        alike: 0 … 1, the share of their energy that one common vector holds.
        channels: the fewest channels that hold half of their energy.
        places: the share of images in which a patch is one, `(rows, columns)`.
    """

    n: int
    images: int
    share: float
    cut: float
    ratio: float
    alike: float
    channels: tuple[int, ...]
    places: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Given:
    """What the outliers that enter a block do there as sinks.

    Attributes:
        share: of the other tokens' attention, what the outliers of an image get together: the mean over images.
        low, high: its 95 % interval (Student's); NaN for one image.
        even: what they would get if every token got the same.
        output: how long the vector is that a sink adds per unit of attention, over a normal patch's: the median.
        kinds: how many sinks are of each type; see `Sinks`.
        attention: what the sinks of each type get, added up over images.
    """

    share: float
    low: float
    high: float
    even: float
    output: float
    kinds: Mapping[str, int]
    attention: Mapping[str, float]


@dataclass(frozen=True)
class Column:
    """A token that takes more of a block's attention than its even share: how many times as much, over all images."""

    token: str
    times: float


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        norms: of each group of tokens after it.
        counts: how many patches have a length in each bin of `Audit.edges`, `(bins,)`; None in class attention.
        outliers: the patches after it that are; None where there are none, and in class attention.
        left_out: the ratio of long patches that the third rule of `find_outliers` leaves out; None without such.
        sinks: what those do that enter it; None where none do.
        received: the share of all attention that each group gets.
        columns: the tokens that get most, the first few.
        half: how many tokens, at least, take half of the attention together.
        even: how many that would be if all got the same.
        rank: the effective rank of the patches of all images; None in class attention.
        rank_without: the same without outliers.
    """

    norms: Mapping[str, Norms]
    counts: np.ndarray | None = field(repr=False)
    outliers: Found | None
    left_out: float | None
    sinks: Given | None
    received: Mapping[str, float]
    columns: tuple[Column, ...]
    half: int
    even: int
    rank: float | None
    rank_without: float | None


@dataclass(frozen=True)
class RegisterCost:
    """What more registers would cost, from block 0 on.

    Attributes:
        registers: how many more.
        multiply_adds: of an image, more, as a share of what it takes now.
        parameters: more.
        activation_bytes: of an image in training, more, as a share of what it takes now.
    """

    registers: int
    multiply_adds: float
    parameters: int
    activation_bytes: float


@dataclass(frozen=True)
class Picture:
    """One image.

    Attributes:
        image: as the model got it, `(channels, height, width)`.
        lengths: of its patches after each block of the trunk, `(depth, rows, columns)`.
        long: which of them are outliers, bool, of the same shape.
        look: what `Audit.reader` attends to in the last block, mean over heads, `(rows, columns)`.
    """

    image: Tensor = field(repr=False)
    lengths: np.ndarray = field(repr=False)
    long: np.ndarray = field(repr=False)
    look: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Audit:
    """What `audit` finds.

    Attributes:
        config: the model's, at the size of the images.
        n: images that it stands on.
        blocks: those of the trunk, and then those of class attention.
        edges: lower end of the first bin of `Block.counts` and upper end of the last; bins are equally wide in the
            logarithm.
        costs: of more registers.
        pictures: the first few images.
        reader: whose map a picture has: `cls`, `pool` (attention pooling), or `patches` (the mean of all).
    """

    config: ViTConfig
    n: int
    blocks: tuple[Block, ...]
    edges: tuple[float, float]
    costs: tuple[RegisterCost, ...]
    pictures: tuple[Picture, ...] = field(repr=False)
    reader: str

    @property
    def plan(self) -> TokenPlan:
        return self.config.plan

    @property
    def start(self) -> int | None:
        """The first block after which there are outliers; None where there are none."""
        return next((number for number, block in enumerate(self.blocks) if block.outliers), None)

    @property
    def last(self) -> int | None:
        """The last block after which there are outliers."""
        return max((number for number, block in enumerate(self.blocks) if block.outliers), default=None)

    @property
    def shown(self) -> int:
        """The block after which there are most outliers; the last of the trunk where there are none."""
        found = [(block.outliers.n, -number) for number, block in enumerate(self.blocks) if block.outliers]
        return -max(found)[1] if found else self.plan.depth - 1

    @property
    def kind(self) -> str | None:
        """What the outliers are as sinks, the type that gets most of their attention; None without any."""
        sinks = [block.sinks for block in self.blocks if block.sinks]
        return max(KINDS, key=lambda kind: sum(one.attention[kind] for one in sinks)) if sinks else None

    @property
    def strongest(self) -> int | None:
        """The block in which outliers get the largest share of attention; None without any."""
        found = [(block.sinks.share, number) for number, block in enumerate(self.blocks) if block.sinks]
        return max(found)[1] if found else None

    @property
    def left_out(self) -> str | None:
        """After which blocks long patches are left out by the third rule, in a sentence or two; None without such."""
        times = {number: block.left_out for number, block in enumerate(self.blocks) if block.left_out}
        if not times:
            return None
        first, last = min(times), max(times)
        every = f"{first} to {last}" if last - first + 1 == len(times) else ", ".join(map(str, times))
        after = f"blocks {every}" if len(times) > 1 else f"block {first}"
        return (
            f"Left out: after {after} some patches are long, typically up to {max(times.values()):.3g} times as long "
            "as the others, but the most similar patch at the input is long as well, so they are taken for what the "
            "images show. That can be wrong where images resemble each other."
        )

    @property
    def registers(self) -> int:
        """How many the model has."""
        return sum(group.tokens for group in self.plan.groups if group.name not in ("cls", "dist"))

    @property
    def missed(self) -> float:
        """The share of images that could still have some where none were found, at most, with 95 % confidence."""
        return 1 - 0.05 ** (1 / self.n)

    @property
    def verdict(self) -> str:
        """What was found, and what registers would cost, in a sentence or two."""
        return _verdict(self)

    def to_dict(self) -> dict:
        """All but the pictures, as plain values for JSON; what is unknown is None."""
        about = {"verdict": self.verdict, "images": self.n, "image_size": self.config.size, "grid": self.config.grid}
        found = {"start": self.start, "last": self.last, "kind": self.kind, "registers": self.registers}
        blocks = [{"block": number} | asdict(block) for number, block in enumerate(self.blocks)]
        costs = [asdict(cost) for cost in self.costs]
        return _plain(
            about | found | {"edges": self.edges, "blocks": blocks, "costs": costs, "config": self.config.to_dict()}
        )


def _verdict(audit: Audit) -> str:
    images = f"{audit.n:,} image{'s' * (audit.n > 1)}"
    cost = min(audit.costs, key=lambda one: abs(one.registers - 4), default=None)
    costs = _cost(cost, " more" if audit.registers else "") if cost else ""
    has = f" with {audit.registers} register{'s' * (audit.registers > 1)}" if audit.registers else ""
    left_out = f" {audit.left_out}" if audit.left_out else ""
    if audit.start is None:
        rare = f"Outliers in fewer than {audit.missed:.1%} of images could have been missed."
        there = f": {costs}{', and there is nothing for them to take over' * (not left_out)}" if costs else ""
        none = "With" + has.removeprefix(" with") + ", no" if has else "No"
        return f"{none} patch is an outlier in {images}{there}. {rare}{left_out}"
    found = audit.blocks[audit.shown].outliers
    assert found is not None  # of the block with most of them
    when = f"After block {audit.start}" if audit.start == audit.last else f"From block {audit.start} to {audit.last}"
    when = f"From block {audit.start} on" if audit.start < audit.last == audit.plan.depth - 1 else when
    many, patches = f"{found.n / audit.n:.2g} of {audit.config.grid[0] * audit.config.grid[1]}", "patches of an image"
    times = f"{found.ratio:.2g} times as long"  # after the block with most of them, and not after every one
    others = f"the others{', even' * bool(has)}{has}"
    said = f"{when}, {many} {patches} are {times} as {others}"
    if audit.start < audit.last:
        said = f"{when}, some {patches} are longer than {others}: {many} after block {audit.shown}, {times}"
    said += f" ({found.images:,} of {images} have some)"
    if audit.strongest is not None:
        said += f"; {SINKS[audit.kind]} {audit.blocks[audit.strongest].sinks.share:.0%} of the attention"
    advice = "whether they would take over was not measured, and test_time_registers tries it without training"
    last = f"{costs}; {advice}" if costs else advice
    return f"{said}. {last[0].upper()}{last[1:]}.{left_out}"


def _cost(cost: RegisterCost, more: str) -> str:
    number = {1: "one", 4: "four", 8: "eight"}.get(cost.registers, str(cost.registers))
    registers = f"register{'s' * (cost.registers > 1)}"
    return f"{number}{more} {registers} would cost {cost.multiply_adds:.1%} more multiply–adds"


SINKS = {
    "no-op": "as no-op sinks they get up to",
    "broadcast": "as sinks that broadcast one vector they get up to",
    "content": "as sinks that give each its own vector they get up to",
    "ignored": "they are no sinks: they get no more than their even share,",
}


def _plain(value):
    """Mappings, lists, numbers and words alone."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and not np.isfinite(value) else value
