"""Does a token's map cover the true object? The pointing game, and the overlap of two masks.

A map has one value a patch and a mask one a pixel. A patch stands for all pixels under it, so a map is blown up to the
pixels without smoothing, and its patches end where the model's patches end.
"""

from collections.abc import Callable

import torch
from einops import rearrange, reduce
from torch import Tensor

MASS = 0.6
SHIFTS = 8


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the largest value of each map lies on the object: 1 or 0, and the mean over patches that share it.

    The rules of the pointing game (Top-down Neural Attention by Excitation Backprop, Zhang et al. 2016): one
    point a map, a hit or a miss. Here the point is a patch, and a patch is the object's where more than half of its
    pixels are. There is no margin around the object. On an object that has no such patch nothing is a hit.

    Args:
        maps: `(batch, rows, columns)` or `(batch, heads, rows, columns)`.
        masks: which pixels are the object's, bool `(batch, height, width)`.

    Returns:
        `(batch,)` or `(batch, heads)`; `.mean(0)` is the share of images.

    Raises:
        ValueError: for maps with non-finite values, masks that are not bool or hold no object, and shapes
            that do not belong together.
    """
    maps, masks = _checked(maps, masks)
    height, width = _pixels(maps, masks)
    covered = reduce(masks.double(), "... (rows h) (columns w) -> ... rows columns", "mean", h=height, w=width)
    largest = maps == maps.amax(dim=(-2, -1), keepdim=True)
    return (largest & (covered > 0.5)).sum(dim=(-2, -1)) / largest.sum(dim=(-2, -1))


def iou(maps: Tensor, masks: Tensor, mass: float = MASS) -> Tensor:
    """Intersection over union, in pixels, of the object and the patches that hold most of each map.

    As masks are made of maps in Emerging Properties in Self-Supervised Vision Transformers (Caron et al. 2021, §4.2.2,
    figure 4): the largest values are kept until they hold 60 % of the map. A value that is as large as the smallest
    one kept is kept too, so a flat map keeps everything. Even the share of each patch that the object covers, as a map,
    scores well below 1: 60 % of it leaves the object's edge out.

    Args:
        maps, masks: as in `pointing_game`; maps without negative values.
        mass: share of the map that is kept, above 0, at most 1.

    Returns:
        `(batch,)` or `(batch, heads)`.

    Raises:
        ValueError: as in `pointing_game`, and for maps that are negative somewhere or 0 everywhere.
    """
    maps, masks = _checked(maps, masks)
    height, width = _pixels(maps, masks)
    kept = heaviest(maps, mass).repeat_interleave(height, dim=-2).repeat_interleave(width, dim=-1)
    both, either = (pixels.sum(dim=(-2, -1)) for pixels in (kept & masks, kept | masks))
    return both / either


def heaviest(maps: Tensor, mass: float = MASS) -> Tensor:
    """The patches with the largest values that hold `mass` of each map: bool, of the maps' shape."""
    if not 0 < mass <= 1:
        raise ValueError(f"mass is a share of the map, above 0 and at most 1, not {mass}")
    if (maps < 0).any():
        raise ValueError('a map with negative values has no mass: with talking heads use stage="softmax"')
    values, _ = rearrange(maps.double(), "... rows columns -> ... (rows columns)").sort(dim=-1, descending=True)
    held = values.cumsum(dim=-1)
    if (held[..., -1] == 0).any():
        raise ValueError("a map is 0 everywhere: there is no mass to keep")
    last = (held < mass * held[..., -1:]).sum(dim=-1, keepdim=True)  # the first at which enough is held
    return maps.double() >= values.gather(-1, last)[..., None]


def chance(score: Callable[[Tensor, Tensor], Tensor], maps: Tensor, masks: Tensor) -> Tensor:
    """What a flat map scores: in the pointing game as much as a patch drawn at random, in `iou` the object's share.

    Args:
        score: `pointing_game` or `iou`.
        maps, masks: as the score takes them; of the maps only the shape matters.
    """
    return score(torch.ones_like(maps), masks)


def elsewhere(score: Callable[[Tensor, Tensor], Tensor], maps: Tensor, masks: Tensor, shifts: int = SHIFTS) -> Tensor:
    """What maps score on the objects of other images: how much knowing where objects usually lie is worth.

    Where objects lie near the centre, a map of the centre alone beats `chance` by far; this is then the score to beat.

    Args:
        score: `pointing_game` or `iou`.
        maps, masks: as the score takes them; the images in no order that matters.
        shifts: each map is laid on the objects of the next 1 … `shifts` images, and the mean is taken.

    Raises:
        ValueError: where there are not more images than that.
    """
    if not 1 <= shifts < len(masks):
        raise ValueError(f"{len(masks)} images do not allow {shifts} shifts: shifts is 1 … {len(masks) - 1}")
    return torch.stack([score(maps, masks.roll(-by, dims=0)).double() for by in range(1, shifts + 1)]).mean(dim=0)


def _pixels(maps: Tensor, masks: Tensor) -> tuple[int, int]:
    """Height and width of a patch."""
    return masks.shape[-2] // maps.shape[-2], masks.shape[-1] // maps.shape[-1]


def _checked(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The two, if they belong together; where maps have heads, the masks have a head too."""
    if maps.ndim not in (3, 4) or masks.ndim != 3 or len(maps) != len(masks):
        raise ValueError(
            "maps are (batch, rows, columns) or (batch, heads, rows, columns) and masks (batch, height, width) of the "
            f"same images, not {tuple(maps.shape)} and {tuple(masks.shape)}"
        )
    if masks.dtype != torch.bool:
        raise ValueError(f"masks are bool, such as shapes.masks(indices) > 0.5, not {masks.dtype}")
    (rows, columns), (height, width) = maps.shape[-2:], masks.shape[-2:]
    if height % rows or width % columns:
        raise ValueError(f"{rows} × {columns} patches do not divide masks of {height} × {width} pixels")
    if not maps.isfinite().all():
        raise ValueError("a map has non-finite values")
    if not (has_object := masks.flatten(1).any(dim=1)).all():
        empty = (~has_object).nonzero().flatten().tolist()
        raise ValueError(f"{len(empty)} masks hold no object, such as number {empty[0]}: leave those images out")
    return maps, masks[:, None] if maps.ndim == 4 else masks
