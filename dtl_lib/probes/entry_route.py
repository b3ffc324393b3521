"""A model's forward pass, cut open before a block, with a group of tokens taken out and put in again."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..layers import ALL
from ..models import ViT, enter_and_leave
from ..tokens import PATCHES, READ_BY_HEAD, TokenNotThere, TokenPlan


class Route:
    """The blocks of a `ViT` for a group of its tokens that moves; dist moves with cls.

    Args:
        model: in evaluation mode when it is used.
        group: its name in the plan.

    Attributes:
        first, stop: the group is in the blocks from the one to before the other.
        read_by_head: whether the classifier reads the group.
    """

    def __init__(self, model: ViT, group: str):
        if not isinstance(model, ViT):
            raise ValueError(f"the model is a ViT (from_timm makes one of a timm model), not a {type(model).__name__}")
        self.model, self.plan, self.group = model, model.plan, group
        if (found := self.plan.group(group)) is None:
            raise TokenNotThere(f"{self.plan.where(group)}: name a group of tokens beside the patches")
        together = READ_BY_HEAD if group in READ_BY_HEAD else (group,)
        self.moved = tuple(g.name for g in self.plan.groups if g.name in together)
        self.first, self.stop = found.enter, found.leave or self.plan.blocks
        self.read_by_head = group in READ_BY_HEAD and model.config.pool == "cls"
        # class attention without a class token is no plan: as a trunk of as many blocks the rest is one
        self.rest = TokenPlan(self.plan.blocks, tuple(g for g in self.plan.groups if g.name not in self.moved))
        self.last, self.grid = self.plan.blocks - 1, model.config.grid  # of the images that went through last

    def sequences(self, images: Tensor, absent: bool = False) -> Iterator[Tensor]:
        """What each block works on, `(batch, tokens, dim)`, as the plan lays it out; `absent`: without the group.

        Class attention without its class token changes nothing.
        """
        x, self.grid = self.model.embed(images)
        plan, layout = self.rest if absent else self.plan, {PATCHES: ALL}
        for index, block in enumerate(self.model.blocks):
            x, layout = self._change(x, layout, plan.layout(index))
            yield x
            if index < self.last and not (absent and self.read_by_head and index >= self.plan.depth):
                x = block(x, ALL, *self.model.places(self.grid))

    def state(self, x: Tensor, block: int) -> Tensor:
        """The group's tokens in the sequence of a block, `(batch, moved, dim)`."""
        return x[:, self._where(block)]

    def others(self, x: Tensor, block: int) -> Tensor:
        """The other tokens in the sequence of a block."""
        where = self._where(block)
        return torch.cat([x[:, : where.start], x[:, where.stop :]], dim=1)

    def insert(self, others: Tensor, state: Tensor, block: int) -> Tensor:
        """The sequence of a block from the other tokens and the group's."""
        start = self._where(block).start
        return torch.cat([others[:, :start], state.to(others.dtype), others[:, start:]], dim=1)

    def learned(self) -> Tensor:
        """The group's learned tokens as they enter, `(moved, dim)`."""
        learned = self.model.learned()
        return torch.cat([learned[name] for name in self.moved])

    def finish(self, x: Tensor, block: int, without: bool = False) -> Tensor:
        """What the classifiers read, `(batch, heads, dim)`, from the sequence of a block on.

        Args:
            x: the block's sequence.
            block: its number.
            without: whether the group is not in it, and does not come.
        """
        plan, reads = self.rest if without else self.plan, self.model.head_tokens
        layout = plan.layout(block)
        for index in range(block, self.plan.blocks):
            x, layout = self._change(x, layout, plan.layout(index))
            queries = reads if reads is not None and index == self.last else ALL
            x = self.model.blocks[index](x, queries, *self.model.places(self.grid))
        if reads is not None:
            return self.model.norm(x[:, reads])
        return self.model.pool_patches(x, layout)[:, None]

    def logits(self, read: Tensor) -> Tensor:
        """`(batch, classes)`, the mean of the heads; the tokens themselves of a model without classes."""
        pairs = zip(self.model.head_names, read.unbind(dim=1))
        return torch.stack([self.model.classify(name, token) for name, token in pairs]).mean(dim=0)

    def relative_cost(self, size: tuple[int, int], block: int, leave: bool = False) -> float:
        """Multiply–adds where the group enters before a block, or leaves before it, over those of the model.

        Args:
            size: height and width of an image, in pixels.
            block: which.
            leave: a head that reads the group then needs no block after it.
        """
        config, depth = replace(self.model.config, image_size=size), self.plan.depth
        full = config.cost()
        if leave and self.read_by_head:
            if block <= depth:
                groups = [replace(g, leave=_within(g.leave, block)) for g in self.plan.groups if g.enter < block]
                return config.with_plan(TokenPlan(block, tuple(groups))).cost().total / full.total
            outside = full.multiply_adds["patches"] + full.multiply_adds["head"]
            return (outside + sum(full.blocks[:block])) / full.total
        rest = self.rest if self.read_by_head else TokenPlan(depth, self.rest.groups, self.plan.class_blocks)
        bare = config.with_plan(rest).cost().blocks
        without = range(block, self.stop) if leave else range(self.first, block)
        saved = (full.blocks[b] - (0 if self.read_by_head and b >= depth else bare[b]) for b in without)
        return 1 - sum(saved) / full.total

    def _where(self, block: int) -> slice:
        layout = self.plan.layout(block)
        return slice(layout[self.moved[0]].start, layout[self.moved[-1]].stop)  # cls and dist stand side by side

    def _change(self, x: Tensor, layout: dict, next_layout: dict) -> tuple[Tensor, dict]:
        if list(layout) != list(next_layout):
            x = enter_and_leave(x, layout, next_layout, self.model.learned())
        return x, next_layout


def _within(leave: int | None, blocks: int) -> int | None:
    """When a group leaves a model cut after so many blocks; None where it stays to its end."""
    return leave if leave is not None and leave < blocks else None
