"""How long are the tokens, and do a few stand out?"""

from collections.abc import Sequence
from typing import Literal

import torch

from ..checks import check_tape
from ..tape import Tape
from ..tokens import PATCHES


def norm_quantiles(tape: Tape, block: int | Literal["input"], shares: Sequence[float] = (0.5, 0.98)) -> list[float]:
    """Quantiles of the patch tokens' lengths after a block, over all images recorded.

    Args:
        tape: from `record`.
        block: 0 … blocks − 1, or `"input"`.
        shares: which quantiles, 0 … 1.

    Raises:
        ValueError: for a share outside 0 … 1.
    """
    check_tape(tape)
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares are numbers from 0 to 1, not {list(shares)}")
    lengths = tape.norms(block)[PATCHES].flatten()
    return torch.quantile(lengths, torch.tensor(list(shares), dtype=lengths.dtype, device=lengths.device)).tolist()


def norm_ratio(tape: Tape, block: int | Literal["input"]) -> float:
    """The 98th percentile of the patch tokens' lengths over their median, after a block.

    Far above 1, a few patches have become registers in all but name (Vision Transformers Need Registers, Darcet et al.
    2024, §2.1).
    """
    check_tape(tape)
    median, high = norm_quantiles(tape, block)
    return high / median
