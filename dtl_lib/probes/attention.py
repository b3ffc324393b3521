"""Where does the class token look: at how many tokens, at which group?"""

from torch import Tensor

from ..tape import Tape
from ..tokens import TokenNotThere


def attention_row(tape: Tape, block: int, of: str = "cls") -> Tensor:
    """What a token attends to over everything that is there, `(batch, heads, key)`; each row sums to 1.

    Raises:
        TokenNotThere: where the token is not in that block.
    """
    layout = tape.plan.layout(block)
    if of not in layout:
        raise TokenNotThere(f"{tape.plan.where(of)}; in block {block} there are {', '.join(layout)}")
    return tape.attention(block)[:, :, layout[of].start]


def entropy(row: Tensor) -> Tensor:
    """Entropy of each distribution over keys, nats: `(…, key)` → `(…)`; log(keys) where all get the same."""
    return -(row * row.clamp_min(1e-30).log()).sum(dim=-1)


def share(tape: Tape, block: int, on: str, of: str = "cls") -> Tensor:
    """The share of a token's attention that a group of tokens gets, `(batch, heads)`."""
    row, layout = attention_row(tape, block, of), tape.plan.layout(block)
    if on not in layout:
        raise TokenNotThere(f"{tape.plan.where(on)}; in block {block} there are {', '.join(layout)}")
    return row[..., layout[on]].sum(dim=-1)
