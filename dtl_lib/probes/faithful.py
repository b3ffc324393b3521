"""Does a map name the patches that an answer rests on? Take them away in the map's order, or give them back.

A picture cannot say. Deletion replaces the patches that come first in the map, more and more of them: under a true map
the class's probability falls early. Insertion begins with all of them replaced and gives back those that come first: it
rises early. What stands in a patch's place changes both curves, so there are four ways (`replace`).
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..checks import check_finite, whole
from ..hooks import evaluating
from ..models import ViT
from .replacing import replace


@dataclass(frozen=True)
class Curves:
    """The class's probability as patches go, and as they come back.

    Attributes:
        shares: of the patches that are gone, or back, `(steps + 1,)`, from 0 to 1.
        deletion, insertion: `(…, batch, steps + 1)`.
    """

    shares: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """Area under each curve of deletion, `(…, batch)`, which is the mean probability; small under a true map."""
        return torch.trapezoid(self.deletion, self.shares)

    @property
    def insertion_area(self) -> Tensor:
        """Area under each curve of insertion, `(…, batch)`; large under a true map."""
        return torch.trapezoid(self.insertion, self.shares)

    @property
    def gap(self) -> Tensor:
        """Insertion less deletion, `(…, batch)`, which is 0 on average over random rankings, whatever replaces patches.

        Reversed, a ranking gives back first what it took first, and the two curves change places: the gap is −1 times
        what it was. So a random ranking's gap is as likely to be above 0 as below.
        """
        return self.insertion_area - self.deletion_area


def insertion_deletion(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    ranking: Tensor,
    target: Tensor | None = None,
    by: str = "zero",
    reference: Tensor | None = None,
    steps: int = 10,
    seed: int = 0,
) -> Curves:
    """The probability of a class while patches of the image are replaced in a map's order, and while they come back.

    (RISE, Petsiuk et al. 2018, §4.1, takes pixels away and gives them back, with one replacement for each; here it is
    patches, and the same replacement in both.)

        >>> import torch
        >>> from dtl_lib import ViT, probes
        >>> model, images = ViT.build("vit_shapes_patch8_32").eval(), torch.randn(2, 3, 32, 32)
        >>> curves = probes.insertion_deletion(model, images, torch.rand(2, 4, 4), steps=4)
        >>> curves.deletion.shape, curves.gap.shape
        (torch.Size([2, 5]), torch.Size([2]))

    Args:
        model: images → logits `(batch, classes)`; a `ViT`, timm's, any other, or a function.
        images: `(batch, channels, height, width)`, normalised as the model expects.
        ranking: a map, `(batch, rows, columns)`: the largest value goes first, and comes back first. Equal values are
            in random order. Several maps of the same images, `(maps, batch, rows, columns)`, share what they can.
        target: the class of each image, whole numbers `(batch,)`; the model's own where None.
        by: one of `REPLACEMENTS`; `zero` is 0 in what the model reads, after normalisation.
        reference: other images, `(images, channels, height, width)`; `zero` needs none.
        steps: into which the patches are divided.
        seed: of what is drawn: for image i of the batch with `seed + i`.

    Raises:
        ValueError: for maps that do not belong to the images or are non-finite, fewer patches than steps, a model
            without classes, targets that are none of its classes, logits that are non-finite, and as in `replace`.
    """
    ranking = torch.as_tensor(ranking, device=images.device)
    maps = ranking if ranking.ndim == 4 else ranking[None]
    _check(images, maps, ranking)
    rows, columns = maps.shape[-2:]
    steps = whole("steps", steps, 1, rows * columns)
    everything = torch.ones(maps.shape[1:], dtype=torch.bool, device=images.device)
    replaced = replace_patches(images, everything, by, reference, seed)
    intact = _probabilities(model, images)
    target = intact.argmax(dim=1) if target is None else _classes(target, intact)

    def probability(gone: Tensor) -> Tensor:
        changed = torch.where(_pixels(gone.unflatten(1, (rows, columns)), images), replaced, images)
        return _probabilities(model, changed).gather(1, target[:, None])[:, 0]

    whole_image = intact.gather(1, target[:, None])[:, 0]
    nothing = probability(everything.flatten(1))
    counts = [round(rows * columns * step / steps) for step in range(1, steps)]
    deletion, insertion = [], []
    for one in maps:
        place = order(one, seed)
        deletion.append([whole_image, *(probability(place < count) for count in counts), nothing])
        insertion.append([nothing, *(probability(place >= count) for count in counts), whole_image])
    stacked = [torch.stack([torch.stack(one, dim=-1) for one in each]) for each in (deletion, insertion)]
    shares = torch.tensor([0, *counts, rows * columns], device=images.device) / (rows * columns)
    return Curves(shares, *(each if ranking.ndim == 4 else each[0] for each in stacked))


def replace_patches(images: Tensor, which: Tensor, by: str, reference: Tensor | None = None, seed: int = 0) -> Tensor:
    """Images some of whose patches are replaced, as `replace` does it with pixels: `(batch, channels, height, width)`.

    Args:
        images: of that shape.
        which: bool `(batch, rows, columns)`.
        by, seed: as in `replace`; `zero` is 0 in what the model reads, after normalisation.
        reference: other images, `(images, channels, height, width)`; `zero` needs none.

    Raises:
        ValueError: for patches that do not make the image, and as in `replace`.
    """
    _check(images, which[None], which)
    rows, columns = which.shape[-2:]
    cut = lambda x: rearrange(x, "b c (r h) (k w) -> b (r k) (c h w)", r=rows, k=columns)  # noqa: E731
    others = None if reference is None else cut(reference)
    changed = replace(cut(images), which.flatten(1), by, others, seed)
    sizes = {"r": rows, "k": columns, "c": images.shape[1], "h": images.shape[2] // rows}
    return rearrange(changed, "b (r k) (c h w) -> b c (r h) (k w)", **sizes)


def order(ranking: Tensor, seed: int = 0) -> Tensor:
    """Each patch's place in a map's order, from 0, the largest value: `(batch, rows, columns)` → `(batch, patches)`.

    Args:
        ranking: maps.
        seed: of the order among equal values: for image i with `seed + i`.
    """
    places = []
    for number, one in enumerate(ranking.flatten(1)):
        drawn = torch.Generator().manual_seed(seed + number)
        mixed = torch.randperm(len(one), generator=drawn).to(one.device)
        first_to_last = mixed[one[mixed].argsort(descending=True, stable=True)]
        places.append(first_to_last.argsort())
    return torch.stack(places)


def _classes(target: Tensor, logits: Tensor) -> Tensor:
    """Targets as indices into logits, `(batch, classes)`."""
    target, (batch, classes) = torch.as_tensor(target, device=logits.device), logits.shape
    is_whole = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    if not is_whole or tuple(target.shape) != (batch,) or not ((target >= 0) & (target < classes)).all():
        raise ValueError(f"target is a class of each image, ({batch},) whole numbers from 0 to {classes - 1}")
    return target.long()


def _check(images: Tensor, maps: Tensor, ranking: Tensor) -> None:
    if images.ndim != 4 or maps.ndim != 4 or maps.shape[1] != len(images) or not len(images):
        raise ValueError(
            "images are (batch, channels, height, width), and a ranking (batch, rows, columns) or (maps, batch, rows, "
            f"columns) of the same images, not {tuple(images.shape)} and {tuple(ranking.shape)}"
        )
    (height, width), (rows, columns) = images.shape[-2:], maps.shape[-2:]
    if height % rows or width % columns or height // rows != width // columns:
        raise ValueError(f"{rows} × {columns} square patches do not make an image of {height} × {width} pixels")
    if not maps.isfinite().all():
        raise ValueError("a ranking has non-finite values")


def _pixels(patches: Tensor, images: Tensor) -> Tensor:
    """A mask of patches as one of pixels, `(batch, 1, height, width)`."""
    size = images.shape[2] // patches.shape[1]
    return repeat(patches, "b r k -> b 1 (r h) (k w)", h=size, w=size)


def _probabilities(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Without gradients, in evaluation mode; a function has none."""
    with evaluating(model) if isinstance(model, nn.Module) else nullcontext(), torch.no_grad():
        logits = model(images)
    if logits.ndim != 2 or (isinstance(model, ViT) and not model.config.classes):
        raise ValueError("a probability is of a class: give a model whose output is logits, (batch, classes)")
    check_finite(logits)
    return logits.softmax(dim=-1)
