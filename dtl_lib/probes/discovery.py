"""One object an image, found without labels: LOST."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..checks import typed, whole
from .pca import check_patches

PATCHES_EXPANDED = 100


@dataclass(frozen=True)
class Discovery:
    """What LOST finds in each image.

    Attributes:
        boxes: `(batch, 4)`: top, left, bottom, right in patches, the last two outside the box; times the patch size,
            pixels.
        seeds: row and column of the patch it begins with, `(batch, 2)`.
        masks: the patches of the object, bool `(batch, rows, columns)`.
        degrees: how many patches of the image each patch is similar to, itself among them, `(batch, rows, columns)`.
    """

    boxes: Tensor
    seeds: Tensor
    masks: Tensor
    degrees: Tensor


def lost(patches: Tensor, k: int = PATCHES_EXPANDED, offset: float = 0.0) -> Discovery:
    """One box an image, from how its patches' features correlate (LOST, Siméoni et al. 2021, §3).

    Two patches are similar where the product of their features is 0 or more. The seed is the patch with the fewest
    similar ones: an object is smaller than its background. Of the `k` patches with the fewest, those similar to the
    seed join it; the object is every patch whose products with all of them have a sum of 0 or more, as far as it is
    connected with the seed (by sides, not by corners). Where several patches have equally few, the first in reading
    order is taken, so that the result is the same everywhere. The seed is always in its object.

        >>> import torch
        >>> from dtl_lib import probes
        >>> patches = torch.ones(1, 4, 6, 2)
        >>> patches[0, 1:3, 2:5] = -1.0  # an object
        >>> probes.lost(patches).boxes
        tensor([[1, 2, 3, 5]])

    Args:
        patches: `(batch, rows, columns, dim)`, such as `features(…)["patches"]`.
        k: how many patches may join the seed, as the paper has it; all where an image has fewer.
        offset: added to every product of two features; negative ones make fewer patches similar. In units of the
            products, so it does not carry over to other features; `bias="centre"` of `features` has no unit.

    Raises:
        ValueError: for another shape, k below 1, an offset that is no number, and non-finite values.
    """
    check_patches(patches)
    k, offset = whole("k", k, 1), typed("offset", offset, float)
    shape = patches.shape[1:3]
    f = rearrange(patches, "batch rows columns dim -> batch (rows columns) dim").double()
    products = f @ f.transpose(1, 2) + offset
    similar = products >= 0
    degrees = similar.sum(dim=2)
    fewest = degrees.argsort(dim=1, stable=True)[:, :k]
    seed = fewest[:, :1]
    of_seed = similar.gather(1, seed[..., None].expand(-1, 1, f.shape[1])).squeeze(1)
    joins = torch.zeros_like(of_seed).scatter(1, fewest, True) & of_seed
    joins.scatter_(1, seed, True)
    together = (products * joins[:, None]).sum(dim=2) >= 0
    together.scatter_(1, seed, True)
    masks = _connected(together.unflatten(1, shape), seed.squeeze(1))
    row, column = seed.squeeze(1) // shape[1], seed.squeeze(1) % shape[1]
    return Discovery(boxes_of(masks), torch.stack([row, column], dim=1), masks, degrees.unflatten(1, shape))


def _connected(masks: Tensor, seeds: Tensor) -> Tensor:
    """Of each mask `(batch, rows, columns)` the part that the seed's patch is in."""
    from scipy.ndimage import label

    parts = torch.stack([torch.from_numpy(label(mask)[0]) for mask in masks.cpu().numpy()]).to(masks.device)
    here = parts.flatten(1).gather(1, seeds[:, None])
    return parts == here[..., None]


def boxes_of(masks: Tensor) -> Tensor:
    """The smallest box around each mask: `(batch, 4)`, top, left, bottom, right, the last two outside the box.

    Args:
        masks: bool `(batch, height, width)`.

    Raises:
        ValueError: for masks of another type or shape, and an empty one.
    """
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(f"masks are bool (batch, height, width), not {masks.dtype} {tuple(masks.shape)}")
    sides = []
    for axis in (2, 1):
        there = masks.any(dim=axis).int()
        if not there.any(dim=1).all():
            raise ValueError("a mask is empty: there is no box around nothing")
        sides.append((there.argmax(dim=1), there.shape[1] - there.flip(1).argmax(dim=1)))
    (top, bottom), (left, right) = sides
    return torch.stack([top, left, bottom, right], dim=1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes, pair by pair: `(…)` of two `(…, 4)`, as `boxes_of` gives them."""
    if boxes.shape[-1:] != (4,) or others.shape[-1:] != (4,):
        raise ValueError(f"boxes are (…, 4), not {tuple(boxes.shape)} and {tuple(others.shape)}")
    area = lambda box: (box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1)  # noqa: E731
    first, last = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    both = area(torch.cat([first, last], dim=-1))
    return both.double() / (area(boxes) + area(others) - both)


def corloc(boxes: Tensor, true: Tensor, least: float = 0.5) -> Tensor:
    """Whether each image's one box is right, bool `(batch,)`: its intersection over union with a true one exceeds 0.5.

    CorLoc (Deselaers et al. 2010, as in LOST, §4.2) is the mean, the share of images.

    Args:
        boxes: one an image, `(batch, 4)`, in the units of the true ones.
        true: `(batch, 4)`, or `(batch, objects, 4)`: with any of an image's objects.
        least: what has to be exceeded.
    """
    true = true[:, None] if true.ndim == 2 else true
    if boxes.ndim != 2 or true.ndim != 3 or len(boxes) != len(true):
        raise ValueError(f"boxes are (batch, 4), true ones (batch, objects, 4), not {tuple(boxes.shape)}")
    return (box_iou(boxes[:, None], true) > least).any(dim=1)
