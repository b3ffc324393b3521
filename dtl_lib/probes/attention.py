"""Where does a token look: at how many tokens, at which group? And where does all attention go?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_tape
from ..tape import Tape, Token
from ..tokens import PATCHES, READ_BY_HEAD, TokenNotThere


def attention_row(tape: Tape, block: int, of: Token = "cls", stage: str = "softmax") -> Tensor:
    """A token's attention over every token in the block, `(batch, heads, key)`; each row sums to 1.

    Args:
        tape: from `record`.
        block: 0 … blocks − 1.
        of: as in `Tape.maps`; a register group by name gives `(batch, heads, tokens, key)`.
        stage: `"attention"` for the weights after talking heads mix the softmax, which are no distribution; without
            talking heads it is the same.

    Raises:
        TokenNotThere: where the token is not in that block, or is no query there.
    """
    check_tape(tape)
    return tape.row(block, of, stage)


def entropy(row: Tensor) -> Tensor:
    """Entropy of each distribution over keys, nats: `(…, key)` → `(…)`; log(keys) where all get the same.

    Raises:
        ValueError: for a row with negative values.
    """
    if (row < 0).any():
        raise ValueError('a row with negative values is no distribution: with talking heads use stage="softmax"')
    return -(row * row.clamp_min(1e-30).log()).sum(dim=-1)


def share(tape: Tape, block: int, on: str, of: Token = "cls") -> Tensor:
    """The share of a token's attention that a group of tokens gets, `(batch, heads)`.

    Args:
        tape, block, of: as in `attention_row`.
        on: `"reg"`, `"patches"`, `"cls"`, …

    Raises:
        TokenNotThere: where one of the two is not in that block.
    """
    check_tape(tape)
    row, layout = attention_row(tape, block, of), tape.plan.layout(block)
    if on not in layout:
        raise TokenNotThere(f"{tape.plan.where(on)}; in block {block} there are {', '.join(layout)}")
    return row[..., layout[on]].sum(dim=-1)


@dataclass(frozen=True)
class Flow:
    """Where the attention of one block goes, by group of tokens; `patches` are a group too.

    Attributes:
        block: its number.
        tokens: how many tokens each group has there.
        given: (from, to) → the share of its attention that a token of the one group gives to all tokens of the other,
            averaged over the tokens that ask, `(batch, heads)`; over all groups `to` it sums to 1.
        received: to → the share that a group gets of the attention of all tokens that ask, `(batch, heads)`; over all
            groups it sums to 1. Above the group's share of the tokens, `tokens[to] / sum(tokens.values())`, it gets
            more than it would at random.
    """

    block: int
    tokens: dict[str, int]
    given: dict[tuple[str, str], Tensor]
    received: dict[str, Tensor]


def flow(tape: Tape) -> tuple[Flow, ...]:
    """The share of attention that class token, registers and patches give and receive, block by block.

    Nothing is averaged over images or heads, and one block's matrix is made at a time. In class attention cls and dist
    alone ask. With talking heads the softmax before the second mixing counts, as in `share`.

        >>> import torch
        >>> from dtl_lib import TokenPlan, ViT, probes, record
        >>> model = ViT.build("vit_shapes_patch8_32", TokenPlan.of(4, cls_pos=2, reg_pos=1, num_reg=3)).eval()
        >>> with torch.no_grad(), record(model) as tape:
        ...     logits = model(torch.zeros(1, 3, 32, 32))
        >>> first, *_, last = probes.flow(tape)
        >>> list(first.received), list(last.received)
        (['patches'], ['cls', 'reg', 'patches'])
        >>> sum(last.given["cls", to] for to in last.received).allclose(torch.ones(1, 4))
        True

    Args:
        tape: from `record`; not with `all_queries=False`.
    """
    check_tape(tape)
    return tuple(_flow(tape, block) for block in range(tape.plan.blocks))


def _flow(tape: Tape, block: int) -> Flow:
    layout, attention = tape.plan.layout(block), tape.attention(block, stage="softmax")
    beside, keys = layout[PATCHES].start, attention.shape[-1]
    tokens = {name: where.stop - where.start for name, where in layout.items() if name != PATCHES}
    tokens[PATCHES] = keys - beside
    got = torch.stack([attention[..., where].sum(dim=-1) for where in layout.values()], dim=-1)
    asking = layout if block < tape.plan.depth else {name: layout[name] for name in READ_BY_HEAD if name in layout}
    given = {(of, on): share for of, where in asking.items() for on, share in _by_group(got[:, :, where], layout)}
    return Flow(block, tokens, given, dict(_by_group(got, layout)))


def _by_group(got: Tensor, layout: dict[str, slice]) -> zip:
    """Of `(batch, heads, query, groups)` the mean over queries, by group."""
    return zip(layout, got.mean(dim=2).unbind(dim=-1))


def mass(maps: Tensor, share: float = 0.6) -> Tensor:
    """The smallest part of each map that holds a share of it, as a mask: bool, of the maps' shape.

    The largest values are taken until they hold enough (Emerging Properties in Self-Supervised Vision Transformers,
    Caron et al. 2021, §4.2.2, figure 4, where it is 60 %). Of equal values those further up, then further left, come
    first; `heaviest` takes all of them, or none.

        >>> import torch
        >>> from dtl_lib import probes
        >>> probes.mass(torch.tensor([[0.5, 0.1], [0.1, 0.3]]), 0.7).tolist()
        [[True, False], [False, True]]

    Args:
        maps: `(…, rows, columns)`, nowhere negative.
        share: of each map's sum, above 0, at most 1.

    Raises:
        ValueError: for another share, for non-finite or negative values, and for a map that is 0 everywhere.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is of the map, above 0 and at most 1, not {share}")
    if not maps.isfinite().all():
        raise ValueError("a map has non-finite values")
    if (maps < 0).any():
        raise ValueError('a map with negative values has no mass: with talking heads use stage="softmax"')
    values, order = maps.double().flatten(-2).sort(dim=-1, descending=True, stable=True)
    held = values.cumsum(dim=-1)
    if (held[..., -1] == 0).any():
        raise ValueError("a map is 0 everywhere: there is no mass to keep")
    before = torch.nn.functional.pad(held[..., :-1], (1, 0))  # what those in front hold
    kept = (before < share * held[..., -1:]) & (values > 0)
    return torch.zeros_like(kept).scatter(-1, order, kept).unflatten(-1, maps.shape[-2:])
