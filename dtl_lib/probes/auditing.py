"""All about a ViT's tokens, in one pass over images: norms, outliers, sinks, ranks, and what registers would cost."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..checks import check_finite, whole
from ..config import ViTConfig
from ..hooks import evaluating
from ..models import ViT
from ..recordable import unwrapped
from ..tape import Tape, record
from ..tokens import PATCHES, Group, TokenPlan
from .audited import Audit, Block, Column, Found, Given, Norms, Picture, RegisterCost
from .lengths import RunningLengths
from .outliers import patch_tokens
from .ranks import RunningScatter, effective_rank
from .running import RunningMean, images_of
from .running_outliers import AfterBlock, RunningOutliers
from .sinks import KINDS, sinks_of

COLUMNS = 3  # of each block that are named
REGISTERS = (1, 4, 8)
BINS = 60  # of the histograms of lengths


def audit(
    model: ViT, batches: Iterable, pictures: int = 4, registers: Sequence[int] = REGISTERS, columns: int = COLUMNS
) -> Audit:
    """Norms, outliers and their type, attention sinks, effective rank, and what registers would cost, by block.

    Batch by batch, in memory that does not depend on how many images there are. Outliers are those of `find_outliers`,
    each batch judged by the lengths of all images so far.

        >>> from dtl_lib import data, load_pretrained, probes
        >>> model, test = load_pretrained("zoo/shapes_depth6_reg4"), data.load("shapes").test
        >>> found = probes.audit(model, (test.batch(range(start, start + 20)) for start in (0, 20)))
        >>> found.n, found.start, found.registers, found.blocks[5].columns[0].token
        (40, None, 4, 'reg 1')

    Args:
        model: a `ViT`, on any device.
        batches: images `(batch, channels, height, width)` of one size, normalised as the model expects, or pairs of
            images and labels, which are not looked at.
        pictures: how many of the first images are kept to look at.
        registers: for which numbers of registers the cost is counted.
        columns: how many of the tokens that get most attention are named.

    Raises:
        ValueError: where there are no images, they differ in size, or a token is non-finite.
    """
    pictures, columns = whole("pictures", pictures, 0), whole("columns", columns, 0)
    model, _ = unwrapped(model)
    running, device = _Running(model, pictures, columns), next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for images in images_of(batches):
            if len(images):
                with record(model) as tape:
                    model(images.to(device))
                running.add(tape, images)
    return running.found(registers)


def register_costs(config: ViTConfig, numbers: Sequence[int] = REGISTERS) -> tuple[RegisterCost, ...]:
    """What more registers would cost that enter at block 0 and stay, counted by `ViTConfig.cost`.

    >>> from dtl_lib import named, probes
    >>> one, four, _ = probes.register_costs(named("vit_tiny_patch16_224"))
    >>> one.parameters, f"{four.multiply_adds:.1%}"
    (192, '2.2%')
    """
    now, found = config.cost(), []
    names = {group.name for group in config.plan.groups}
    name = next(name for name in ("added", *(f"added{number}" for number in range(len(names)))) if name not in names)
    for number in numbers:
        groups = (*config.plan.groups, Group(name, whole("registers", number, 1)))
        plan = TokenPlan(config.plan.depth, groups, config.plan.class_blocks)
        then = config.with_plan(plan).cost()
        more = then.total / now.total - 1, then.activation_bytes / now.activation_bytes - 1
        found.append(RegisterCost(number, more[0], then.parameters - now.parameters, more[1]))
    return tuple(found)


class _Running:
    """All blocks, over the images so far."""

    def __init__(self, model: ViT, pictures: int, columns: int):
        self.model, self.n, self.grid, self.most, self.columns = model, 0, (0, 0), pictures, columns
        self.outliers = RunningOutliers(model.plan.depth)
        self.blocks = [_Block(model, block) for block in range(model.plan.blocks)]
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []  # image, lengths, look

    def add(self, tape: Tape, images: Tensor) -> None:
        if self.n and self.grid != tape.grid:
            raise ValueError(f"images have one size: {tape.grid} patches came after {self.grid}")
        self.n, self.grid = self.n + len(images), tape.grid
        masks = self.outliers.add(tape)
        looks = []
        for number, block in enumerate(self.blocks):
            trunk = number < len(masks)
            entering = masks[number - 1] if number and trunk and masks[number - 1].any() else None
            looks = block.add(tape, entering, masks[number] if trunk else None)
        missing = self.most - len(self.kept)
        if missing > 0:
            look = tape.pool_maps().mean(dim=1).flatten(1) if self.reader == "pool" else looks
            lengths = [tape.norms(block)[PATCHES][:missing] for block in range(self.model.plan.depth)]
            self.kept += zip(images[:missing].cpu(), torch.stack(lengths, dim=1).cpu(), look[:missing].cpu())

    @property
    def reader(self) -> str:
        if self.model.plan.group("cls"):
            return "cls"
        return "pool" if self.model.config.pool == "attention" else PATCHES

    def found(self, registers: Sequence[int]) -> Audit:
        if not self.n:
            raise ValueError("there are no images to measure on")
        size = tuple(self.model.config.patch_size * side for side in self.grid)
        config = replace(self.model.config, image_size=size)
        after = self.outliers.after
        edges = min(one.lengths.smallest for one in after) * 0.999, max(one.lengths.largest for one in after) * 1.001
        blocks = tuple(
            block.found(now, before is not None and before.there, self, edges)
            for block, now, before in zip_longest(self.blocks, after, (None, *after[:-1]))
        )
        cuts = np.array([one.cut if one.there else np.inf for one in after], dtype=float)[:, None, None]
        pictures = tuple(
            Picture(image, lengths.numpy(), lengths.numpy() > cuts, look.reshape(self.grid).numpy())
            for image, lengths, look in self.kept
        )
        return Audit(config, self.n, blocks, edges, register_costs(config, registers), pictures, self.reader)


class _Block:
    """One block, over the images so far."""

    def __init__(self, model: ViT, block: int):
        self.model, self.block, self.plan = model, block, model.plan
        self.lengths = {name: RunningLengths() for name in self.plan.layout(block)}
        self.received = RunningMean()  # by column, of all that ask
        self.on_outliers, self.even = RunningMean(), RunningMean()
        self.output = RunningLengths()
        self.kinds, self.attention = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0.0)
        self.normal, self.long = (RunningScatter(model.config.dim) for _ in range(2))

    def add(self, tape: Tape, entering: Tensor | None, long: Tensor | None) -> Tensor:
        """Count a batch; what the class token attends to, or all tokens where there is none, `(batch, patches)`.

        Args:
            entering: the outliers before the block, bool, `(batch, patches)`; None in class attention, or without any.
            long: which are after this one; None in class attention.
        """
        layout, tokens = tape.plan.layout(self.block), tape.tokens(self.block)
        lengths = tokens.float().norm(dim=-1)
        for name, where in layout.items():
            if name != PATCHES or long is None:  # the trunk's are counted with the outliers
                self.lengths[name].add(lengths[:, where])
        if long is not None:
            patches = patch_tokens(tape, self.block)
            self.long.add(patches[long].double())  # few, and far from the others
            self.normal.add(patches[~long])
        return self._attend(tape, layout, entering)

    def _attend(self, tape: Tape, layout: dict[str, slice], entering: Tensor | None) -> Tensor:
        attention, where = tape.attention(self.block, stage="softmax"), layout[PATCHES]
        batch, _, queries, keys = attention.shape
        asks = torch.ones(batch, 2, queries, device=attention.device)
        if entering is not None:
            asks[:, 1, where] = (~entering).float()
        received = (asks / asks.sum(dim=-1, keepdim=True))[:, None] @ attention  # (batch, heads, 2, key)
        check_finite(received)
        self.received.add(received[:, :, 0].mean(dim=1))
        others = received[:, :, 1, where]
        outlier = torch.zeros_like(others[:, 0], dtype=torch.bool) if entering is None else entering
        self.on_outliers.add((others.mean(dim=1) * outlier).sum(dim=1))
        self.even.add(outlier.sum(dim=1) / keys)
        if entering is not None:
            self._sinks(tape, entering, asks[:, 1], others)
        row = layout["cls"] if "cls" in layout else slice(0, queries)
        return attention[:, :, row, where].mean(dim=(1, 2))

    def _sinks(self, tape: Tape, entering: Tensor, asks: Tensor, others: Tensor) -> None:
        if self.model.config.talking_heads:  # what is added is what the mixed heads say
            weights = (asks / asks.sum(dim=-1, keepdim=True))[:, None, None]
            others = (weights @ tape.attention(self.block))[:, :, 0, tape.plan.layout(self.block)[PATCHES]]
        sinks = sinks_of(tape, self.block, entering, others)
        self.output.add(sinks.output)
        for kind in KINDS:
            self.kinds[kind] += sinks.kinds.count(kind)
            self.attention[kind] += sinks.attention_on(kind)

    def found(self, after: AfterBlock | None, entered: bool, running: "_Running", edges) -> Block:
        lengths = self.lengths | ({PATCHES: after.lengths} if after else {})
        norms = {name: Norms(one.quantile(0.5), one.quantile(0.98), one.largest) for name, one in lengths.items()}
        received = self.received.estimate().mean
        groups = {name: float(received[where].sum()) for name, where in self.plan.layout(self.block).items()}
        held = received.sort(descending=True)
        columns = tuple(
            Column(self._called(place, running.grid), share * len(received))
            for place, share in zip(held.indices[: running.columns].tolist(), held.values.tolist())
        )
        half = int((held.values.cumsum(0) < 0.5).sum()) + 1
        ranks = (None, None)
        if after is not None:
            ranks = tuple(effective_rank(one.scatter) for one in (self.normal.merged(self.long), self.normal))
        outliers = _outliers(after, running) if after is not None and after.there else None
        left_out = after.left_out if after is not None else None
        sinks = self._given() if entered else None
        counts = None if after is None else after.lengths.histogram(*edges, BINS)
        return Block(norms, counts, outliers, left_out, sinks, groups, columns, half, -(-len(received) // 2), *ranks)

    def _given(self) -> Given | None:
        if not sum(self.kinds.values()):
            return None
        share, even = self.on_outliers.estimate(), float(self.even.estimate().mean)
        ends = float(share.mean), float(share.low), float(share.high)
        return Given(*ends, even, self.output.quantile(0.5), self.kinds, self.attention)

    def _called(self, place: int, grid: tuple[int, int]) -> str:
        for name, where in self.plan.layout(self.block).items():
            if name == PATCHES:
                row, column = divmod(place - where.start, grid[1])
                return f"patch ({row}, {column})"
            if place < where.stop:
                return name if where.stop - where.start == 1 else f"{name} {place - where.start}"
        raise AssertionError("patches come last")


def _outliers(after: AfterBlock, running: _Running) -> Found:
    places = cast(Tensor, after.places).reshape(running.grid).numpy() / running.n
    held = after.energy.sort(descending=True)
    channels = held.indices[: int((held.values.cumsum(0) < 0.5).sum()) + 1]
    share, cut, ratio = after.n / after.lengths.n, cast(float, after.cut), cast(float, after.ratio)
    return Found(after.n, after.images, share, cut, ratio, after.alike, tuple(channels.tolist()), places)
