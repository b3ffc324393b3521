"""How long are the tokens, and do a few stand out?"""

from collections.abc import Sequence

import torch

from ..tape import Tape
from ..tokens import PATCHES


def norm_quantiles(tape: Tape, block: int, shares: Sequence[float] = (0.5, 0.98)) -> list[float]:
    """Quantiles of the patch tokens' lengths after a block, over all images recorded.

    A 98th percentile far above the median means that a few tokens are of another kind (Vision Transformers Need
    Registers, §2.1).

    Args:
        tape: what `record` gave.
        block: 0 … blocks − 1.
        shares: which quantiles, 0 … 1.
    """
    lengths = tape.norms(block)[PATCHES].flatten()
    return torch.quantile(lengths.float(), torch.tensor(list(shares), device=lengths.device)).tolist()
