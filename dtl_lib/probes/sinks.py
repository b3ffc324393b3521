"""What do long tokens give to those that attend to them: nothing, the same to all, or something of their own?"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..checks import check_tape
from ..tape import Tape
from ..tokens import PATCHES

KINDS = ("no-op", "broadcast", "content", "ignored")


@dataclass(frozen=True)
class Sinks:
    """Outliers as keys in one block's attention; `n` of them, in the order of their mask.

    Attributes:
        attention: the share of the other tokens' attention that each gets, mean over them and the heads, `(n,)`.
        even: the share that every token would get if all got the same.
        output: how long the vector is that each adds per unit of attention, over a normal patch's median, `(n,)`.
        alike: the squared length of the mean of those vectors' directions: 1 where all add the same vector.
        kinds: the type of each. `no-op`: what it adds is less than half as long as what a normal patch adds, so that
            attending to it does little. `broadcast`: it is longer, and more than half of the energy of all is in one
            vector, whatever the image. `content`: longer, and each its own. `ignored`: it gets no more than an even
            share, and is no sink.
    """

    attention: Tensor
    even: float
    output: Tensor
    alike: float
    kinds: tuple[str, ...]

    def attention_on(self, kind: str) -> float:
        """The attention that the sinks of one kind get, added up; see `KINDS`."""
        return sum(float(share) for share, this in zip(self.attention, self.kinds) if this == kind)


def find_sinks(tape: Tape, block: int, mask: Tensor) -> Sinks:
    """What the patches of a mask give in a block's attention (no-op and broadcast sinks: arXiv 2606.08105).

    A head's output for a token is the sum of values, each times its attention, mapped by `project`. So what a key adds
    per unit of attention is its value, mapped; heads count by how much attention they pay it, and alike where none pays
    any.

    Args:
        tape: from `record(model)`.
        block: of the trunk.
        mask: bool, `(batch, rows, columns)`, one patch at least: those that enter the block as outliers.

    Raises:
        ValueError: for an empty mask, one of another type or shape, and a block of class attention.
    """
    check_tape(tape)
    if tape.plan.check_block(block) >= tape.plan.depth:
        raise ValueError(f"block {block} is class attention, where no patch attends: give one of the trunk")
    wanted = (len(tape.keys(block)), *tape.grid)
    if mask.dtype != torch.bool or tuple(mask.shape) != wanted or not mask.any():
        raise ValueError(f"give a mask of patches, bool {wanted}, with one patch at least")
    attention, where = tape.attention(block), tape.plan.layout(block)[PATCHES]
    outlier = mask.flatten(1).to(attention.device)
    asks = torch.ones(attention.shape[0], attention.shape[2], dtype=torch.bool, device=attention.device)
    asks[:, where] = ~outlier
    received = torch.einsum("b h q k, b q -> b h k", attention, asks.float()) / asks.sum(1)[:, None, None]
    return sinks_of(tape, block, outlier, received[..., where])


def sinks_of(tape: Tape, block: int, outlier: Tensor, received: Tensor) -> Sinks:
    """`find_sinks` where the attention is known already.

    Args:
        tape, block: as there.
        outlier: bool, `(batch, patches)`.
        received: the attention that each patch gets of the tokens that are no outliers, a mean, `(batch, heads,
            patches)`.
    """
    adds = _added(tape, block, received)
    lengths = adds.norm(dim=-1)
    output = lengths[outlier] / lengths[~outlier].median()
    alike = float(F.normalize(adds[outlier], dim=-1).mean(dim=0).square().sum())
    share, even = received.mean(dim=1)[outlier], 1 / tape.keys(block).shape[2]
    kinds = tuple(_kind(*pair, even, alike) for pair in zip(share.tolist(), output.tolist()))
    return Sinks(share.cpu(), even, output.cpu(), alike, kinds)


def _kind(share: float, output: float, even: float, alike: float) -> str:
    if share <= even:
        return "ignored"
    if output < 0.5:
        return "no-op"
    return "broadcast" if alike > 0.5 else "content"


def _added(tape: Tape, block: int, received: Tensor) -> Tensor:
    """What each patch adds per unit of attention, `(batch, patches, dim)`, float32."""
    part = tape._model.blocks[block]
    qkv = part.attention.qkv
    entering = tape.tokens("input" if block == 0 else block - 1)
    patches = tape.plan.layout(0 if block == 0 else block - 1)[PATCHES]
    with torch.no_grad():
        bias = None if qkv.bias is None else qkv.bias.chunk(3)[2]
        values = F.linear(part.norm1(entering[:, patches]), qkv.weight.chunk(3)[2], bias)
        values = rearrange(values, "batch patches (heads dim) -> batch patches heads dim", heads=received.shape[1])
        whole = received.sum(dim=1, keepdim=True)
        paid = torch.where(whole != 0, received / whole, 1 / received.shape[1])  # softmax may underflow to 0 everywhere
        weights = rearrange(paid, "b heads patches -> b patches heads 1")
        mixed = rearrange(values.float() * weights, "batch patches heads dim -> batch patches (heads dim)")
        return part.scale1(F.linear(mixed, part.attention.project.weight.float())).float()
