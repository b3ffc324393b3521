"""Where does a token look: at how many tokens, at which group?"""

from torch import Tensor

from ..tape import Tape, Token
from ..tokens import TokenNotThere


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
    row, layout = attention_row(tape, block, of), tape.plan.layout(block)
    if on not in layout:
        raise TokenNotThere(f"{tape.plan.where(on)}; in block {block} there are {', '.join(layout)}")
    return row[..., layout[on]].sum(dim=-1)
