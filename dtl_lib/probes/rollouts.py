"""What reaches a token through all blocks: rollout, gradient rollout, and gradient relevance.

All three follow a token's row back through the blocks, `(batch, tokens)` times one block's matrix at a time, so that no
product of matrices is made and no block's matrix is kept. They share these rules:

- They begin at a token's last block and end at the block that it enters before; `first` ends them elsewhere.
- Where a group enters, the way back ends for its share: it is learned and comes from nothing in the image. Where one
  leaves, the sequence is longer before than after. So a row's columns are the tokens of the block it ends at.
- In class attention cls and dist alone are updated; every other token's row is that of the identity.
- The map is the row's part on the patches, as it is: what the class token and the registers have is left out, and the
  rest is not scaled up.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from einops import rearrange
from torch import Tensor

from ..checks import check_tape
from ..hooks import full_precision
from ..layers import ALL
from ..tape import Tape, Token
from ..tokens import PATCH, PATCHES, READ_BY_HEAD, TokenNotThere

Shares = Callable[[int, slice], tuple[Tensor | float, Tensor]]
FUSED = {"mean": Tensor.mean, "max": Tensor.amax, "min": Tensor.amin}


def rollout(
    tape: Tape,
    of: Token = "cls",
    fuse: str = "mean",
    discard: float = 0.0,
    residual: float = 0.5,
    first: int | None = None,
) -> Tensor:
    """How much of each patch reaches a token through attention and skip connections, `(batch, rows, columns)`.

    The token's row of the product, over blocks, of `residual · I + (1 − residual) · A` with rows scaled to sum to 1
    (Quantifying attention flow in transformers, Abnar & Zuidema 2020, §3, where both have a half). The values say
    nothing of what a value vector holds, nor of a class.

    Talking heads mix the softmax with weights of either sign, and shares cannot be negative: A is then the softmax
    before it is mixed.

        >>> import torch
        >>> from dtl_lib import ViT, probes, record
        >>> model = ViT.build("vit_shapes_patch8_32").eval()
        >>> with torch.no_grad(), record(model) as tape:
        ...     logits = model(torch.zeros(2, 3, 32, 32))
        >>> probes.rollout(tape).shape
        torch.Size([2, 4, 4])

    Args:
        tape: from `record`.
        of: as in `Tape.maps`: a register group by name gives `(batch, tokens, rows, columns)`. `"patches"` is the mean
            over all patches, which a model without class token may read.
        fuse: how the heads become one: `"mean"`, `"max"` or `"min"`, of each element.
        discard: share of the patches, from 0 to below 1, whose weights are set to 0: in every row the smallest, before
            the skip connection is added. Of equal ones all are kept. Class token and registers are never discarded.
        residual: weight of the skip connection, 0 to 1.
        first: the first block of the product; the one that the token enters before by default. 0 follows a late class
            token on to the patches of the image, through the blocks that it was not in.

    Raises:
        TokenNotThere: where the token is never a query.
        ValueError: for arguments outside their range, with what would be right.
    """
    check_tape(tape)
    _check(fuse, discard, residual)
    return _map(tape, of, first, lambda block, queries: rollout_shares(tape, block, queries, fuse, discard, residual))


def gradient_rollout(
    tape: Tape,
    of: Token = "cls",
    fuse: str = "mean",
    discard: float = 0.0,
    residual: float = 0.5,
    first: int | None = None,
) -> Tensor:
    """Rollout of attention times its gradient, which asks about a class, `(batch, rows, columns)`.

    In place of A stands, head by head, the positive part of ∇A ⊙ A, then fused: a head that speaks against the class
    counts as 0 and takes nothing from the others. ∇A is the gradient of what `backward` was called on. It has that
    value's scale, so a loss ten times as large gives another map: the rows of `residual · I + (1 − residual) · (∇A ⊙
    A)⁺`, not those of the gradient, are scaled to sum to 1. A row with no weight at all keeps its own token. The mix of
    rollout and of gradients comes from public code, without a paper; there, heads are averaged before the positive part
    is taken.

        >>> import torch
        >>> from dtl_lib import ViT, probes, record
        >>> model = ViT.build("vit_shapes_patch8_32").eval()
        >>> with record(model, grad=True) as tape:
        ...     model(torch.zeros(2, 3, 32, 32))[:, 7].sum().backward()
        >>> probes.gradient_rollout(tape).shape
        torch.Size([2, 4, 4])

    Args:
        tape: from `record(model, grad=True)`, after `backward`. Images do not see one another, so one `backward` of the
            sum of the chosen logits gives each its own gradient; a mean divides all of them by the batch.
        of, fuse, discard, residual, first: as in `rollout`. With talking heads A is what multiplies v, of either sign.

    Raises:
        TokenNotThere: as in `rollout`.
        ValueError: as in `rollout`, and for a tape that has no gradients.
    """
    check_tape(tape)
    _check(fuse, discard, residual)

    def shares(block: int, queries: slice) -> tuple[Tensor, Tensor]:
        fused = FUSED[fuse](_positive(tape, block, queries), 1)
        return _scaled(fused, tape.plan.layout(block)[PATCHES], discard, residual)

    return _map(tape, of, first, shares)


def relevance(tape: Tape, of: Token = "cls", first: int | None = None) -> Tensor:
    """How relevant each patch is to a token's part in what was differentiated, `(batch, rows, columns)`.

    R starts as the identity, and each block adds `mean over heads of (∇A ⊙ A)⁺` times R; nothing is scaled (Generic
    Attention-model Explainability, Chefer et al. 2021, §3, eq. 5 and 6). The map scales with the gradients as long as
    they are small.

        >>> import torch
        >>> from dtl_lib import ViT, probes, record
        >>> model = ViT.build("vit_shapes_patch8_32").eval()
        >>> with record(model, grad=True) as tape:
        ...     model(torch.zeros(2, 3, 32, 32)).amax(dim=-1).sum().backward()
        >>> probes.relevance(tape).shape
        torch.Size([2, 4, 4])

    Args:
        tape: as in `gradient_rollout`.
        of, first: as in `rollout`.

    Raises:
        TokenNotThere: as in `rollout`.
        ValueError: as in `gradient_rollout`.
    """
    check_tape(tape)
    return _map(tape, of, first, lambda block, queries: relevance_shares(tape, block, queries))


def follow(tape: Tape, of: Token, shares: Shares, first: int | None = None, last: int | None = None) -> Tensor:
    """A token's row, from its last block back to `first`, times each block's matrix: `(batch, 1 or tokens, key)`.

    Args:
        tape, of: as in `rollout`.
        shares: of a block and some of its queries, what those keep of themselves, `(batch, query)` or a number, and
            take from every token, `(batch, query, key)`.
        first: the block it ends at, whose tokens the keys are; the one that the token enters before by default.
        last: the block it begins at; the last in which the token asks by default.

    Raises:
        TokenNotThere: where the token is never a query, or not in `last`.
        ValueError: where `first` comes after `last`.
    """
    plan, pooled = tape.plan, of == PATCHES
    enter, end = life(tape, of)
    last = end if last is None else plan.check_block(last)
    where = plan.layout(last)[PATCHES] if pooled else tape.queries_of(last, of)
    first = enter if first is None else plan.check_block(first)
    if first > last:
        raise ValueError(f"first is at most {last}, the last block in which {of!r} asks, not {first}")
    keys = tape.keys(last)
    with torch.no_grad(), full_precision(keys.device):
        row = torch.eye(keys.shape[2], device=keys.device)[where]
        row = (row.mean(dim=0, keepdim=True) if pooled else row).expand(len(keys), -1, -1)
        queries = ALL if pooled else where  # one token's row needs no other query of its last block
        for block in range(last, first - 1, -1):
            row = _times(row, *shares(block, queries), queries.start or 0)
            queries = ALL
            if block > first:
                row = _as_before(row, plan.layout(block), plan.layout(block - 1))
    return row


def _map(tape: Tape, of: Token, first: int | None, shares: Shares) -> Tensor:
    """The part of a token's row that is on the patches."""
    row = follow(tape, of, shares, first)
    layout = tape.plan.layout(life(tape, of)[0] if first is None else first)
    maps = rearrange(row[..., layout[PATCHES]], "... (rows columns) -> ... rows columns", rows=tape.grid[0])
    return maps if isinstance(of, str) and of not in (*READ_BY_HEAD, PATCHES) else maps.squeeze(1)


def life(tape: Tape, of: Token) -> tuple[int, int]:
    """The first and the last block in which a token is updated."""
    plan, name = tape.plan, of[0] if isinstance(of, tuple | list) and of else of
    if name in (PATCHES, PATCH):
        return 0, plan.depth - 1
    if not isinstance(name, str):
        tape.queries_of(0, of)  # says what `of` can be
    if (group := plan.group(cast(str, name))) is None:
        hint = f': of="{PATCHES}" is the mean over all patches' if name in READ_BY_HEAD else ""
        raise TokenNotThere(plan.where(name) + hint)
    if name in READ_BY_HEAD:
        return group.enter, plan.blocks - 1
    if group.enter >= plan.depth:
        tape.queries_of(group.enter, of)  # says that in class attention it is a key only
    return group.enter, min(plan.depth, plan.blocks if group.leave is None else group.leave) - 1


def _times(row: Tensor, kept: Tensor | float, matrix: Tensor, start: int) -> Tensor:
    """A row `(batch, tokens, key)` times a block's matrix, whose rows from `start` on are given and the others the
    identity's."""
    asking = slice(start, start + matrix.shape[1])
    own, row = row[..., asking], row.clone()
    row[..., asking] *= kept[:, None] if isinstance(kept, Tensor) else kept
    return row + own @ matrix


def _as_before(row: Tensor, layout: dict[str, slice], before: dict[str, slice]) -> Tensor:
    """The row over the tokens of the block before: without those that enter now, with 0 for those that have left."""
    if list(layout) == list(before):
        return row
    absent = (
        (name, row.new_zeros(*row.shape[:-1], where.stop - where.start))
        for name, where in before.items()
        if name not in layout
    )
    parts = {name: row[..., where] for name, where in layout.items()} | dict(absent)
    return torch.cat([parts[name] for name in before], dim=-1)


def _scaled(fused: Tensor, patches: slice, discard: float, residual: float) -> tuple[Tensor, Tensor]:
    """What each query keeps and takes, once the smallest weights are gone and each row sums to 1."""
    if lost := math.floor(discard * (count := fused[..., patches].shape[-1]) + 1e-9):
        weights = fused[..., patches]
        least = weights.kthvalue(min(lost, count - 1) + 1, dim=-1, keepdim=True).values
        weights[weights < least] = 0
    total = residual + (1 - residual) * fused.sum(dim=-1)
    kept = torch.where(total == 0, 1.0, residual / total)
    return kept, fused * torch.where(total == 0, 0.0, (1 - residual) / total).unsqueeze(-1)


def _positive(tape: Tape, block: int, queries: slice) -> Tensor:
    """The positive part of attention times its gradient, `(batch, heads, query, key)`."""
    return tape.attention(block, queries=queries).mul_(tape.attention_gradient(block, queries)).clamp_min_(0)


def rollout_shares(
    tape: Tape, block: int, queries: slice, fuse: str = "mean", discard: float = 0.0, residual: float = 0.5
) -> tuple[Tensor, Tensor]:
    """What each query of a block keeps of itself and takes from every token in `rollout`; arguments as there."""
    fused = FUSED[fuse](tape.attention(block, "softmax", queries), 1)
    return _scaled(fused, tape.plan.layout(block)[PATCHES], discard, residual)


def relevance_shares(tape: Tape, block: int, queries: slice) -> tuple[float, Tensor]:
    """The same in `relevance`, where a token keeps all of itself."""
    return 1.0, _positive(tape, block, queries).mean(dim=1)


def _check(fuse: str, discard: float, residual: float) -> None:
    if fuse not in FUSED:
        raise ValueError(f"fuse is one of {', '.join(FUSED)}, not {fuse!r}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard is a share of the patches, from 0 to below 1, not {discard}")
    if not 0 <= residual <= 1:
        raise ValueError(f"residual is the weight of the skip connection, 0 to 1, not {residual}")
