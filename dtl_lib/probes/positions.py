"""What does the model know of where a patch is? How alike the positions are."""

import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from ..layers import interpolate_positions
from ..models import ViT


def position_similarity(model: ViT, grid: tuple[int, int] | None = None) -> Tensor:
    """Cosine between the positions of every two patches, as a grid of grids: `(rows, columns, rows, columns)`.

    Of positions that are added to the patches, learned or sin–cos (ViT, Dosovitskiy et al. 2021, figure 7, centre).

        >>> from dtl_lib import load_pretrained, probes
        >>> similarity = probes.position_similarity(load_pretrained("zoo/shapes_depth6"))
        >>> similarity.shape, round(similarity[2, 3, 2, 3].item(), 4)  # a position and itself
        (torch.Size([8, 8, 8, 8]), 1.0)

    Args:
        model: a `ViT`.
        grid: rows and columns of other images than the model was made for: the positions are interpolated as it does.

    Raises:
        ValueError: for a grid without rows or columns, and a model that adds no positions to its patches.
    """
    if grid is not None and not (len(grid) == 2 and min(grid) > 0):
        raise ValueError(f"a grid is rows and columns, 1 or more each, not {tuple(grid)}")
    if model.config.positions == "none":
        raise ValueError('this model adds no positions to its patches (positions="none"): there are none to compare')
    positions = model.positions.detach()
    if grid is not None:
        positions = interpolate_positions(positions, grid, model.config.position_offset)
    return cosines(positions if positions.dtype.itemsize > 4 else positions.float())


def cosines(positions: Tensor) -> Tensor:
    """`(rows, columns, dim)` → `(rows, columns, rows, columns)`; 0 where a position is 0."""
    unit = F.normalize(positions, dim=-1)
    return einsum(unit, unit, "row column dim, row2 column2 dim -> row column row2 column2")
