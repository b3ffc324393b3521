"""What does the model know of where a patch is? How alike the positions are."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from ..layers import interpolate_positions
from ..models import ViT


def position_similarity(model: ViT, grid: tuple[int, int] | None = None) -> Tensor:
    """Cosine between the positions of every two patches, as a grid of grids: `(rows, columns, rows, columns)`.

    Of positions that are added to the patches, learned or sin–cos (ViT, Dosovitskiy et al. 2021, figure 7, centre);
    rotary ones have `rotary_similarity`.

        >>> from dtl_lib import load_pretrained, probes
        >>> similarity = probes.position_similarity(load_pretrained("zoo/shapes_depth6"))
        >>> similarity.shape, round(similarity[2, 3, 2, 3].item(), 4)  # a position and itself
        (torch.Size([8, 8, 8, 8]), 1.0)

    Args:
        model: a `ViT`.
        grid: rows and columns of other images than the model was made for: the positions are interpolated as it does.

    Raises:
        ValueError: for a grid without rows or columns, and a model in which nothing is added to the patches.
    """
    _check(grid)
    if model.config.positions == "none":
        hint = ": its rotary positions have rotary_similarity" if model.config.rotary else ""
        raise ValueError(f"this model adds no positions to its patches{hint}")
    positions = model.positions.detach()
    if grid is not None:
        positions = interpolate_positions(positions, grid, model.config.position_offset)
    return cosines(positions if positions.dtype.itemsize > 4 else positions.float())


def rotary_similarity(model: ViT, block: int = 0, grid: tuple[int, int] | None = None) -> Tensor:
    """How well a query and a key match that differ by their place alone: `(rows, columns, rows, columns)`, float32.

    Rotary positions turn each pair of a query's channels by an angle, and a key's likewise (RoFormer, Su et al. 2021,
    §3.2): between two places, a pair adds the cosine of the difference of their angles to the match. This is its mean
    over pairs and heads, 1 for a place and itself; content that fills the pairs unevenly weights them.

    Args:
        model: a `ViT` with rotary positions.
        block: 0 … depth − 1; it matters where frequencies are learned (`rotary="mixed"`).
        grid: rows and columns of other images than the model was made for.

    Raises:
        ValueError: for a grid without rows or columns, a model without rotary positions, and a block without them.
    """
    _check(grid)
    if not model.config.rotary:
        raise ValueError("this model has no rotary positions: those that it adds have position_similarity")
    if model.plan.check_block(block) >= model.plan.depth:
        raise ValueError(f"class attention has no rotary positions: block is 0 … {model.plan.depth - 1}, not {block}")
    rows, columns = grid or model.config.grid
    with torch.no_grad():
        angles = model.blocks[block].attention.angles(*model.places((rows, columns))).double().flatten(1)
    turned = torch.cat([angles.cos(), angles.sin()], dim=1) / angles.shape[1] ** 0.5
    return rearrange(turned @ turned.T, "(a b) (c d) -> a b c d", a=rows, c=rows).float()


def _check(grid: tuple[int, int] | None) -> None:
    if grid is not None and not (len(grid) == 2 and min(grid) > 0):
        raise ValueError(f"a grid is rows and columns, 1 or more each, not {tuple(grid)}")


def cosines(positions: Tensor) -> Tensor:
    """`(rows, columns, dim)` → `(rows, columns, rows, columns)`; 0 where a position is 0."""
    unit = F.normalize(positions, dim=-1)
    return einsum(unit, unit, "row column dim, row2 column2 dim -> row column row2 column2")
