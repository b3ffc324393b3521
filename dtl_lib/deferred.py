"""The tokens of the last block that the head does not read: computed when a tape is asked for them.

A plain forward pass leaves them out, and reading a class token's maps needs none of them: a twelfth of the work.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from einops import rearrange
from torch import Tensor

from .layers import Block, ClassAttention


class DeferredQueries:
    """The tokens of the last block that the head does not read, as queries and after the block, when asked for.

    They are what the forward pass would have computed as long as the block is the same; a block that has changed since
    is a ValueError.

    Args:
        block: the last block, for which `can_run_again` holds.
        x: what the block was given, `(batch, tokens, dim)`.
        computed: the tokens that the forward pass computes, the first ones; all others are deferred.
        own: ids of the recorder's hooks, which change nothing.
        places: what the block is given besides tokens and queries.
    """

    def __init__(self, block: Block, x: Tensor, computed: slice, own: set[int], places: Sequence[Tensor] = ()):
        self.block, self.x, self.rest, self.own, self.places = block, x, slice(computed.stop, None), own, places
        self.parameters = list(block.parameters())  # kept, so that no other tensor gets their address
        self.state = _state(block, own)
        kind = x.device.type
        self.precision = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    @cached_property
    def queries(self) -> Tensor:
        """`(batch, heads, query, head_dim)`."""
        attention = self.block.attention
        with self._as_recorded():
            q, _, _ = attention.project_qkv(self.block.norm1(self.x), self.rest, *self.places)
        return rearrange(q, "batch tokens (heads dim) -> batch heads tokens dim", heads=attention.heads)

    @cached_property
    def tokens(self) -> Tensor:
        """The residual stream after the block, `(batch, tokens, dim)`."""
        with self._as_recorded():
            return self.block.forward(self.x, self.rest, *self.places)

    @contextmanager
    def _as_recorded(self) -> Iterator[None]:
        if _state(self.block, self.own) != self.state:
            raise ValueError(
                "the last block has changed since (weights, hooks or mode), and of its tokens only those that the head "
                "reads are kept: read the others before, or record with gradients on"
            )
        with torch.no_grad(), torch.autocast(*self.precision):
            yield


def can_run_again(block: Block, own: set[int]) -> bool:
    """Whether the block would compute the same later: no step may follow, nothing is drawn, nobody else hooked in."""
    if not torch.amp.is_autocast_available(next(block.parameters()).device.type):  # meta: there is nothing to save
        return False
    if isinstance(block, ClassAttention) or _draws(block) or torch.is_grad_enabled() or _other_hooks(block, own):
        return False
    return not any(parameter.is_inference() for parameter in block.parameters())  # those do not count their changes


def _state(block: Block, own: set[int]) -> tuple:
    parameters = [(id(part), part.data_ptr(), part._version) for part in block.parameters()]
    return _draws(block), _other_hooks(block, own), parameters


def _draws(block: Block) -> bool:
    return any(part.training for part in block.modules())  # stochastic depth


def _other_hooks(block: Block, own: set[int]) -> list[int]:
    hooks = [id for part in block.modules() for id in (*part._forward_pre_hooks, *part._forward_hooks)]
    return [id for id in hooks if id not in own]
