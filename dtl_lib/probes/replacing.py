"""What does the answer need of some tokens? What enters a block there is replaced, four ways, or by another image's.

A replacement is measured against what stands at the same place in other images, the reference: a token that every image
has, such as a register, then keeps what it has in all of them and loses what it has of this one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..checks import whole
from ..hooks import Hook, evaluating
from ..models import ViT
from ..recordable import unwrapped
from ..tokens import PATCH, PATCHES, TokenNotThere

REPLACEMENTS = ("zero", "mean", "noise", "shuffle")
LEAST = {"zero": 0, "mean": 1, "noise": 2, "shuffle": 1}  # images of the reference
Which = Tensor | str | Sequence


def replace(values: Tensor, which: Tensor, by: str, reference: Tensor | None = None, seed: int = 0) -> Tensor:
    """Values with some places replaced: by 0, or by what other images have at the same place.

    `mean` is the reference's mean, `noise` a normal draw with its mean and standard deviation in each channel, and
    `shuffle` the values of one of its images, the same for all places. What is drawn depends on the seed and the
    image's number alone, so one place gets the same value whichever others are replaced.

        >>> import torch
        >>> from dtl_lib import probes
        >>> values, others = torch.ones(1, 3, 2), torch.full((4, 3, 2), 5.0)
        >>> probes.replace(values, torch.tensor([[False, True, False]]), "mean", others)[0, :, 0]
        tensor([1., 5., 1.])

    Args:
        values: `(batch, places, dim)`: tokens, or the pixels of patches.
        which: bool `(batch, places)`.
        by: one of `REPLACEMENTS`.
        reference: the same of other images, `(images, places, dim)`; `zero` needs none.
        seed: image i of the batch is drawn for with `seed + i`.

    Raises:
        ValueError: for another `by`, a mask that is not one of these places, and a reference that is missing or of
            another shape.
    """
    shape = tuple(values.shape)
    if which.dtype != torch.bool or tuple(which.shape) != shape[:2]:
        raise ValueError(f"which is bool, {shape[:2]}, not {which.dtype}, {tuple(which.shape)}")
    _check_reference(shape, by, reference)
    if by == "zero":
        new = torch.zeros_like(values)
    elif by == "mean":
        new = reference.mean(dim=0).expand_as(values)
    else:
        drawn = [torch.Generator().manual_seed(seed + number) for number in range(len(values))]
        if by == "shuffle":
            new = reference[[int(torch.randint(len(reference), (1,), generator=one)) for one in drawn]]
        else:
            mean, spread = reference.mean(dim=0), reference.std(dim=0, correction=0)
            new = torch.stack([mean + spread * torch.randn(shape[1:], generator=one).to(mean) for one in drawn])
    return torch.where(which[..., None], new.to(values), values)


def _check_reference(shape: tuple[int, ...], by: str, reference: Tensor | None) -> None:
    if by not in REPLACEMENTS:
        raise ValueError(f"by is one of {', '.join(REPLACEMENTS)}, not {by!r}")
    if by == "zero":
        return
    if reference is None or len(reference) < LEAST[by]:
        have = "none" if reference is None else len(reference)
        raise ValueError(f"{by} needs a reference of {LEAST[by]} other images or more, and there is {have}")
    if tuple(reference.shape[1:]) != shape[1:]:
        raise ValueError(f"the reference is (images, {shape[1]}, {shape[2]}), not {tuple(reference.shape)}")


def states_at(model: nn.Module, images: Tensor, block: int) -> Tensor:
    """What enters a block: `(batch, tokens, dim)`, with the groups that enter there, laid out as `plan.layout(block)`.

    Args:
        model: a `ViT`; `from_timm` makes one of a timm model.
        images: `(batch, channels, height, width)`.
        block: 0 … blocks − 1.

    Raises:
        ValueError: for a block that the model does not have.
    """
    kept: list[Tensor] = []
    with changed_input(model, block, lambda x: kept.append(x.detach()) or x) as vit:
        _run(vit, images)
    return kept[0]


@contextmanager
def changed_input(model: nn.Module, block: int, change: Callable[[Tensor], Tensor]) -> Iterator[ViT]:
    """Inside, what enters a block is `change` of what would: `(batch, tokens, dim)` → the same shape.

    Afterwards the model is what it was, also where something inside raises. It can be recorded meanwhile.

    Args:
        model: a `ViT`, not compiled.
        block: 0 … blocks − 1.
        change: must not write into what it is given.

    Yields:
        the `ViT` itself.

    Raises:
        ValueError: for a block that the model does not have, and in the forward for another shape.
    """
    vit, _ = unwrapped(model)
    layer = vit.blocks[vit.plan.check_block(block)]

    def enter(_, given: tuple) -> tuple:
        changed = change(given[0])
        if changed.shape != given[0].shape:
            raise ValueError(f"change returns {tuple(given[0].shape)}, what it is given, not {tuple(changed.shape)}")
        return (changed, *given[1:])

    handle = layer.register_forward_pre_hook(Hook(layer, enter))
    try:
        yield vit
    finally:
        handle.remove()


def replace_tokens(
    model: nn.Module,
    images: Tensor,
    which: Which,
    block: int,
    by: str,
    reference: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """The logits of images some of whose tokens are replaced where they enter a block: `(batch, classes)`.

    Args:
        model: a `ViT`.
        images: `(batch, channels, height, width)`.
        which: a bool mask of patches, `(batch, rows, columns)`; or, for every image, `"cls"`, a group of registers by
            name, one of its tokens, `("reg", 2)`, or one patch, `("patch", row, column)`.
        block, by, seed: as in `states_at` and `replace`.
        reference: `states_at` of other images at this block; `zero` needs none.

    Raises:
        TokenNotThere: for a token that is not in the sequence at this block.
        ValueError: as in `states_at` and `replace`.
    """
    vit, _ = unwrapped(model)
    mask = places_of(vit, images, which, block)
    with changed_input(vit, block, lambda x: replace(x, mask, by, reference, seed)):
        return _run(vit, images)


def patch_state(model: nn.Module, source: Tensor, target: Tensor, token: Which, block: int) -> Tensor:
    """The logits of the target images with a token's state from the source images: `(batch, classes)`.

    The source runs first; then the target, and where the token enters `block` it has the state that it had in the
    source. Everything else is the target's. If the class follows, the state carries it.

    Args:
        model: a `ViT`.
        source, target: `(batch, channels, height, width)`, of one shape, one source for each target.
        token: as `which` in `replace_tokens`.
        block: 0 … blocks − 1.

    Raises:
        TokenNotThere: for a token that is not in the sequence at this block.
        ValueError: for images of different shapes, and as in `states_at`.
    """
    vit, _ = unwrapped(model)
    if source.shape != target.shape:
        raise ValueError(f"source and target have one shape, not {tuple(source.shape)} and {tuple(target.shape)}")
    states, mask = states_at(vit, source, block), places_of(vit, target, token, block)[..., None]
    with changed_input(vit, block, lambda x: torch.where(mask, states, x)):
        return _run(vit, target)


def places_of(model: ViT, images: Tensor, which: Which, block: int) -> Tensor:
    """Which tokens of a block's input are meant: bool `(batch, tokens)`.

    Args:
        model, images, which, block: as in `replace_tokens`.

    Raises:
        TokenNotThere: as there.
        ValueError: as there.
    """
    layout, (rows, columns) = model.plan.layout(block), model.config.grid_of(*images.shape[-2:])
    first = layout[PATCHES].start or 0
    mask = torch.zeros(len(images), first + rows * columns, dtype=torch.bool)
    if isinstance(which, Tensor):
        wanted = (len(images), rows, columns)
        if which.dtype != torch.bool or tuple(which.shape) != wanted:
            raise ValueError(f"a mask of patches is bool, {wanted}, not {which.dtype}, {tuple(which.shape)}")
        mask[:, first:] = which.flatten(1).cpu()
    else:
        mask[:, _named(model, which, block, first, (rows, columns))] = True
    return mask.to(images.device)


def _named(model: ViT, which: str | Sequence, block: int, first: int, grid: tuple[int, int]) -> slice:
    """Where a token, or a group, stands in a block's input."""
    name, *numbers = (which,) if not isinstance(which, list | tuple) else tuple(which) or ("",)
    if not isinstance(name, str):
        shape = ", ".join(map(str, grid))
        raise ValueError(
            f'tokens are a group by name, ("reg", 2), ("patch", row, column), or a bool tensor (batch, {shape})'
        )
    layout, group = model.plan.layout(block), PATCHES if name == PATCH else name
    if group not in layout:
        raise TokenNotThere(f"{model.plan.where(group)}; in block {block} there are {', '.join(layout)}")
    if len(numbers) != (2 if name == PATCH else 0 if isinstance(which, str) or group == PATCHES else 1):
        raise ValueError(f'a patch is ("patch", row, column), one of a group is ("reg", 2), not {which!r}')
    if name == PATCH:
        row, column = (whole(*about, 0, size - 1) for about, size in zip(zip(("row", "column"), numbers), grid))
        return slice(first + row * grid[1] + column, first + row * grid[1] + column + 1)
    where = slice(first, None) if group == PATCHES else layout[group]
    if not numbers:
        return where
    start = where.start + whole("the token", numbers[0], 0, where.stop - where.start - 1)
    return slice(start, start + 1)


def _run(model: ViT, images: Tensor) -> Tensor:
    """Logits without gradients, in evaluation mode."""
    with evaluating(model), torch.no_grad():
        return model(images)
