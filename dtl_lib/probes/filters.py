"""What does the first layer look for? The filters that map a patch to a token, as small images."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..models import ViT


@dataclass(frozen=True)
class Components:
    """The principal components of a model's filters, the largest first.

    Attributes:
        filters: `(components, channels, patch, patch)`, each of length 1, its largest value positive.
        shares: of the filters' variance that each explains, `(components,)`; they sum to 1.
    """

    filters: Tensor
    shares: Tensor


def embedding_filters(model: ViT) -> Tensor:
    """The filters of the patch embedding, one for each dimension of a token: `(dim, channels, patch, patch)`.

    A filter acts on pixels with the model's mean and standard deviation taken out, float32 or float64.
    """
    weight = model.patch_embed.project.weight.detach()
    return weight.clone() if weight.dtype == torch.float64 else weight.float().clone()


def principal_filters(model: ViT) -> Components:
    """The principal components of the filters, as in ViT's figure 7, left (Dosovitskiy et al. 2021).

    The filters are `dim` points of channels · patch · patch dimensions, and their mean is taken out. The dimensions
    of a token have no order, so filters have none either; components do.

        >>> from dtl_lib import ViT, probes
        >>> components = probes.principal_filters(ViT.build("vit_shapes_patch8_32"))
        >>> tuple(components.filters.shape), round(components.shares.sum().item(), 4)
        ((63, 3, 8, 8), 1.0)

    Raises:
        ValueError: for weights that are non-finite or all alike.
    """
    weight = embedding_filters(model)
    points = rearrange(weight.double(), "dim channels height width -> dim (channels height width)")
    if not points.isfinite().all():
        raise ValueError("the filters hold non-finite values: the weights are damaged")
    points = points - points.mean(dim=0)
    _, lengths, axes = torch.linalg.svd(points, full_matrices=False)
    kept = min(len(points) - 1, points.shape[1])  # with the mean taken out a direction is lost
    if not kept or not lengths[0]:
        raise ValueError("the filters are all alike: they have no components")
    lengths, axes = lengths[:kept], axes[:kept]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    shares, axes = lengths.square() / lengths.square().sum(), axes * largest.sign()
    return Components(axes.reshape(kept, *weight.shape[1:]).to(weight), shares.to(weight))


def as_pictures(filters: Tensor) -> Tensor:
    """Filters as pictures to look at: 0 is mid-grey, and the largest value of each, positive or negative, an end.

    Args:
        filters: `(filters, channels, height, width)` of 3 channels, or of 1.

    Returns:
        float `(filters, height, width, channels)` from 0 to 1.

    Raises:
        ValueError: for another number of channels, which no picture has.
    """
    if filters.ndim != 4 or filters.shape[1] not in (1, 3):
        raise ValueError(f"filters are (filters, 3 or 1 channels, height, width), not {tuple(filters.shape)}")
    largest = filters.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(filters.dtype).tiny)
    return rearrange(0.5 + 0.5 * filters / largest, "filters channels height width -> filters height width channels")
