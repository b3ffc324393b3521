"""What a block makes of each token: its query, its key, its value, or the token itself, by group of tokens."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call

from ..checks import check_tape
from ..layers import ALL, Attention
from ..models import ViT, enter_and_leave
from ..tape import Tape
from ..tokens import PATCHES, TokenNotThere

KINDS = ("q", "k", "v", "token")
BIASES = ("keep", "drop", "centre")


def features(model: ViT, tape: Tape, block: int, of: str = "k", bias: str = "keep") -> dict[str, Tensor]:
    """Queries, keys or values of a block, its heads side by side, or the tokens after it; by group of tokens.

    LOST takes the keys of the last block (Siméoni et al. 2021, §4.1, *Localizing Objects with Self-Supervised
    Transformers and no Labels*). The bias of the keys is a free choice of whoever trained the model: softmax gives the
    same attention with any other one, so what is made of keys should be asked for with and without it.

        >>> import torch
        >>> from dtl_lib import data, load_pretrained, probes, record
        >>> model = load_pretrained("zoo/shapes_depth6_reg4")
        >>> images, _ = data.load("shapes").test.batch(range(2))
        >>> with torch.no_grad(), record(model) as tape:
        ...     _ = model(images)
        >>> {name: tuple(value.shape) for name, value in probes.features(model, tape, 5, "v").items()}
        {'cls': (2, 1, 64), 'reg': (2, 4, 64), 'patches': (2, 8, 8, 64)}

    Args:
        model: the model that was recorded, with the weights it was recorded with.
        tape: from `record(model)`.
        block: 0 … blocks − 1.
        of: `"q"`, `"k"` or `"v"` as attention gets them, after norms and rotary positions where the model has these; or
            `"token"`, the residual stream after the block, as the model's last norm leaves it.
        bias: `"keep"` as learned; `"drop"` without the bias of the projection to q, k and v (of a token nothing is
            dropped); `"centre"` with the mean of the image's patches subtracted.

    Returns:
        Each group's `(batch, tokens, dim)`, the patches' `(batch, rows, columns, dim)`; float32 (float64 of such a
        model), on the model's device.

    Raises:
        ValueError: for another `of` or `bias`, and a model that is not the tape's.
        TokenNotThere: for queries of class attention, where patches do not ask.
    """
    check_tape(tape)
    if not isinstance(model, ViT) or model.plan != tape.plan:
        raise ValueError("give the model that was recorded: the tape is of another plan")
    for name, value, allowed in (("of", of, KINDS), ("bias", bias, BIASES)):
        if value not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
    block = tape.plan.check_block(block)
    if of == "q" and block >= model.plan.depth:
        raise TokenNotThere(f"block {block} is class attention: no patch asks there, so patches have no queries")
    with torch.no_grad():
        if of == "token":
            found = model.norm(tape.tokens(block))
        else:
            found = _projected(model, _before(model, tape, block), block, tape.grid, bias == "drop")[of]
    found = found if found.dtype == torch.float64 else found.float()
    layout = tape.plan.layout(block)
    if bias == "centre":
        found = found - found[:, layout[PATCHES]].mean(dim=1, keepdim=True)
    groups = {name: found[:, where] for name, where in layout.items()}
    shape = "batch (rows columns) dim -> batch rows columns dim"
    return groups | {PATCHES: rearrange(groups[PATCHES], shape, rows=tape.grid[0])}


def _before(model: ViT, tape: Tape, block: int) -> Tensor:
    """What a block was given, `(batch, tokens, dim)`: groups that enter before it have entered."""
    x = tape.tokens(block - 1 if block else "input")
    change = model.changes[block] if block else None
    return enter_and_leave(x, *change, model.learned()) if change else x


class _Projection(nn.Module):
    """A block's projection as a module of its own, so that it can be called with another bias."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, *places: Tensor) -> tuple[Tensor, ...]:
        return self.attention.project_qkv(x, ALL, *places)


def _projected(model: ViT, x: Tensor, block: int, grid: tuple[int, int], bare: bool) -> dict[str, Tensor]:
    """q, k and v of every token, `(batch, tokens, dim)` each."""
    module = model.blocks[block]
    linear = module.attention.qkv
    other = {"attention.qkv.bias": torch.zeros_like(linear.bias)} if bare and linear.bias is not None else {}
    given = module.norm1(x), *model.places(grid)
    return dict(zip("qkv", functional_call(_Projection(module.attention), other, given)))
