"""The directions along which tokens differ most, as maps: one image's alone, or those that many images share."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..checks import as_whole


@dataclass(frozen=True)
class PCAMap:
    """Scores of patches on principal components; float64.

    Attributes:
        maps: the scores, `(batch, components, rows, columns)`.
        shares: of the variance, `(components,)`; per image `(batch, components)`.
        margins: how clear the sign is, 0 … about 2: the border's mean over the scores' deviation, without its sign; of
            the shape of `shares`. Near 0, another image or a little noise turns the map over.
        directions: unit vectors, `(components, dim)`; per image `(batch, components, dim)`.
        mean: what was subtracted, `(dim,)`; per image `(batch, dim)`.
    """

    maps: Tensor
    shares: Tensor
    margins: Tensor
    directions: Tensor
    mean: Tensor


def pca_map(patches: Tensor, components: int = 3, joint: bool = True, others: Tensor | None = None) -> PCAMap:
    """Scores of each patch on the first principal components of all patches, with a sign that is not left to chance.

    A component has no sign of its own: a library's next version, or one image more, may turn its map over. Here the
    patches on the border of the images have a mean score of 0 or less, since photographers put objects inside: high
    scores are what the border is not. Where the border's mean is 0, the largest score without its sign is positive.
    Maps of features as in DINOv2 (Oquab et al. 2024, §7.6), which states neither sign nor scale.

        >>> import torch
        >>> from dtl_lib import probes
        >>> patches = torch.zeros(1, 4, 5, 8)
        >>> patches[0, 1:3, 2:4, 0] = 1.0  # an object
        >>> found = probes.pca_map(patches, components=1)
        >>> (found.maps[0, 0] > 0).int().tolist()
        [[0, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]

    Args:
        patches: `(batch, rows, columns, dim)`, such as `features(…)["patches"]`.
        components: how many.
        joint: whether all images share mean and components, so that one colour means one thing in all of them; False
            finds them for each image alone.
        others: tokens `(batch, tokens, dim)` that count when mean and components are found, such as registers; they
            have no place, and so no score on a map.

    Raises:
        ValueError: for shapes that do not belong together, non-finite values, and more components than there are.
    """
    _check(patches, others)
    tokens = rearrange(patches, "batch rows columns dim -> batch (rows columns) dim").double()
    counted = tokens if others is None else torch.cat([tokens, others.double()], dim=1)
    if joint:
        counted = rearrange(counted, "batch tokens dim -> 1 (batch tokens) dim")
    most = min(counted.shape[1] - 1, counted.shape[2])
    if most < 1:
        raise ValueError(f"components are of two tokens or more, and there is {counted.shape[1]}")
    if (number := as_whole(components)) is None or not 1 <= number <= most:
        raise ValueError(f"components is {components}; from these tokens come 1 … {most}")
    mean = counted.mean(dim=1, keepdim=True)
    _, lengths, directions = torch.linalg.svd(counted - mean, full_matrices=False)
    shares = lengths.square() / lengths.square().sum(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    scores = rearrange(
        (tokens - mean) @ directions[:, :components].transpose(-2, -1),
        "batch (rows columns) components -> batch components rows columns",
        rows=patches.shape[1],
    )
    signs, margins = _signs(scores, joint)
    found = (
        scores * signs[..., None, None],
        shares[:, :components],
        margins,
        directions[:, :components] * signs[..., None],
    )
    maps, *rest = *found, mean.squeeze(1)
    return PCAMap(maps, *(value.squeeze(0) if joint else value for value in rest))


def _signs(scores: Tensor, joint: bool) -> tuple[Tensor, Tensor]:
    """The sign by the rule and how clear it is, `(batch or 1, components)` each."""
    border = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    border[1:-1, 1:-1] = False
    pool = "batch components patches -> 1 components (batch patches)" if joint else "b c patches -> b c patches"
    outside, whole = rearrange(scores[..., border], pool), rearrange(scores.flatten(2), pool)
    margin = outside.mean(dim=-1) / whole.std(dim=-1, correction=0).clamp(min=torch.finfo(torch.float64).tiny)
    largest = whole.gather(-1, whole.abs().argmax(dim=-1, keepdim=True)).squeeze(-1)
    undecided = margin.abs() < 1e-9
    signs = torch.where(undecided, largest, -margin).sign()
    return torch.where(signs == 0, 1.0, signs), margin.abs()


def as_colours(maps: Tensor, joint: bool = True) -> Tensor:
    """Three components as red, green and blue, each from its smallest to its largest value: uint8 `(batch, rows,
    columns, 3)`.

    Args:
        maps: `(batch, 3, rows, columns)`, such as `pca_map(…).maps`.
        joint: one scale for all images; False gives each its own.

    Raises:
        ValueError: for another number of components, and non-finite values.
    """
    if maps.ndim != 4 or maps.shape[1] != 3:
        raise ValueError(f"three components make colours, (batch, 3, rows, columns), not {tuple(maps.shape)}")
    if not maps.isfinite().all():
        raise ValueError("a map has non-finite values")
    over = (0, 2, 3) if joint else (2, 3)
    low, high = maps.amin(dim=over, keepdim=True), maps.amax(dim=over, keepdim=True)
    shades = (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)
    return rearrange(shades * 255, "batch colour rows columns -> batch rows columns colour").round().to(torch.uint8)


def _check(patches: Tensor, others: Tensor | None) -> None:
    check_patches(patches)
    batch, *_, dim = patches.shape
    if others is not None and (others.ndim != 3 or others.shape[0] != batch or others.shape[2] != dim):
        raise ValueError(f"others are ({batch}, tokens, {dim}), as the patches are, not {tuple(others.shape)}")
    if others is not None and not others.isfinite().all():
        raise ValueError("the features have non-finite values")


def check_patches(patches: Tensor) -> None:
    """A ValueError for what is not the features of the patches of one image or more, or is non-finite."""
    if not isinstance(patches, Tensor) or patches.ndim != 4 or not patches.numel():
        raise ValueError(f"patches are (batch, rows, columns, dim), not {tuple(getattr(patches, 'shape', ()))}")
    if not patches.isfinite().all():
        raise ValueError("the features have non-finite values")
