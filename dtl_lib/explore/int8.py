"""What int8 does to a model, and what a token that is far longer than the others has to do with it.

Dynamic quantisation, as onnxruntime does it: each matrix has a factor for each output channel, and what it multiplies
one factor for all its tokens. One value that is a hundred times the others then takes their digits away.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models import ViT
from ..probes.outliers import Outliers, find_outliers
from ..registers import NAME, find_register_neurons, test_time_registers
from ..tape import record
from ..tokens import PATCHES

LEVELS = 255


@dataclass(frozen=True)
class Change:
    """What int8 changes, over images.

    Attributes:
        logit: the largest change of a logit.
        largest: the largest logit, for comparing.
        predictions: how many of the images are classified differently.
        patches: the median, over patches that are not long, of a patch's change over its length, after the last block
            of the trunk; those that are long without registers are left out also with them.
        n: images.
    """

    logit: float
    largest: float
    predictions: int
    patches: float
    n: int

    def __str__(self) -> str:
        said = f"an ordinary patch token by {self.patches:.1%} of its length"
        if self.largest:
            logit = f"a logit by up to {self.logit:.2g} (the largest is {self.largest:.3g})"
            said = f"{logit}, {self.predictions} of {self.n} predictions, {said}"
        return said


def outliers(model: ViT, images: Tensor) -> tuple[Outliers, list[float]]:
    """The long patches, and after each block of the trunk the longest patch over the median one."""
    with torch.inference_mode(), record(model) as tape:
        model(images)
        lengths = [tape.norms(block)[PATCHES].flatten() for block in range(model.plan.depth)]
    return find_outliers(tape), [(each.max() / each.median()).item() for each in lengths]


def change(model: ViT, images: Tensor, leave_out: Tensor | None = None, own: bool = False) -> Change:
    """What int8 changes of a model, by rounding as onnxruntime's dynamic quantisation does, image by image.

    Args:
        model: a `ViT` in evaluation, on the CPU.
        images: `(batch, channels, height, width)`.
        leave_out: bool, `(batch, rows, columns)`: patches that are not counted.
        own: as in `int8`.
    """
    before = [_seen(model, image[None]) for image in images]
    with int8(model, own):
        after = [_seen(model, image[None]) for image in images]
    logits, rounded = (torch.cat([seen[0] for seen in each]) for each in (before, after))
    tokens, moved = (torch.cat([seen[1] for seen in each]) for each in (before, after))
    share = (moved - tokens).norm(dim=-1) / tokens.norm(dim=-1)
    ordinary = share.flatten() if leave_out is None else share[~leave_out.flatten(1)]
    classes = bool(model.config.classes)
    return Change(
        (rounded - logits).abs().max().item() if classes else 0.0,
        logits.abs().max().item() if classes else 0.0,
        int((rounded.argmax(dim=1) != logits.argmax(dim=1)).sum()) if classes else 0,
        ordinary.median().item(),
        len(images),
    )


def with_and_without_registers(model: ViT, images: Tensor) -> tuple[Change, Change, Change] | None:
    """What int8 changes of a model whose patches grow long; what once a test-time register does their work; and what
    where that token, besides, has a factor of its own.

    None where no patch is long, where no neuron is found that makes them so, and where the model has such registers.

    Args:
        model, images: as in `change`.
    """
    found, ratios = outliers(model, images)
    if found.start is None or model.plan.group(NAME):
        return None
    block = max((block for block, mode in enumerate(found.modes) if mode), key=lambda block: ratios[block])
    mask = found.mask(block)
    try:
        neurons = find_register_neurons(model, images, mask, block)
    except ValueError:
        return None
    plain = change(model, images, mask)
    with test_time_registers(model, neurons) as registers:
        return plain, change(registers, images, mask), change(registers, images, mask, own=True)


@contextmanager
def int8(model: ViT, own: bool = False) -> Iterator[ViT]:
    """Inside, every linear map of the model multiplies int8 by uint8; afterwards the model is what it was.

    Args:
        model: a `ViT`.
        own: whether test-time registers have a factor of their own.
    """
    maps = [part for part in model.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    before = [part.weight.data for part in maps]
    places = {part: index for index, block in enumerate(model.blocks) for part in block.modules()}

    def round_tokens(part: nn.Module, x: Tensor) -> Tensor:
        layout = model.plan.layout(places[part]) if own and part in places else {}
        whole = NAME in layout and x.shape[1] > layout[PATCHES].start  # in the last block what is read may be all
        return rounded(x, layout[NAME] if whole else None)

    with ExitStack() as stack:
        for part in maps:
            part.weight.data = rounded_rows(part.weight.data)
            before_map = part.register_forward_pre_hook(lambda part, given: (round_tokens(part, given[0]),))
            stack.callback(before_map.remove)
        for block in model.blocks:  # without gradients, queries, keys and values are computed beside the module
            after_norm = block.norm1.register_forward_hook(lambda part, given, x: round_tokens(part, x))
            stack.callback(after_norm.remove)
        try:
            yield model
        finally:
            for part, weight in zip(maps, before):
                part.weight.data = weight


def rounded_rows(weight: Tensor) -> Tensor:
    """A matrix whose rows, one an output channel, are 255 levels each: −127 … 127 times a factor."""
    rows = weight.flatten(1)
    factor = (rows.abs().amax(dim=1, keepdim=True) / 127).clamp(min=torch.finfo(weight.dtype).tiny)
    return ((rows / factor).round() * factor).reshape(weight.shape)


def rounded(x: Tensor, own: slice | None = None) -> Tensor:
    """Values in 256 levels from the smallest to the largest of all, with 0 among them.

    Args:
        x: of any shape; with `own`, `(batch, tokens, channels)`.
        own: tokens that have 256 levels of their own.
    """
    if own is not None:
        parts = (x[:, : own.start], x[:, own], x[:, own.stop :])
        others = rounded(torch.cat([parts[0], parts[2]], dim=1))
        return torch.cat([others[:, : own.start], rounded(parts[1]), others[:, own.start :]], dim=1)
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    factor = ((high - low) / LEVELS).clamp(min=torch.finfo(x.dtype).tiny)
    zero = (-low / factor).round()
    return (((x / factor).round() + zero).clamp(0, LEVELS) - zero) * factor


def _seen(model: ViT, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the patches after the last block of the trunk."""
    last = model.plan.depth - 1
    with torch.inference_mode(), record(model) as tape:
        logits = model(image)
        return logits, tape.tokens(last)[:, model.plan.layout(last)[PATCHES]]
