"""Registers put into a trained model, so that it changes as little as can be."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from .checks import check_finite, whole
from .hooks import evaluating
from .models import ViT
from .recordable import unwrapped
from .registers import with_tokens
from .tape import record
from .tokens import PATCHES, READ_BY_HEAD, Group, TokenPlan


def add_registers(
    model: nn.Module,
    n: int,
    at: int = 0,
    leave: int | None = None,
    name: str = "reg",
    images: Tensor | None = None,
) -> ViT:
    """A new model with registers that a trained one was never given: nothing else of it is changed.

    No value of a token hides it from attention: with any, the logits change. The registers are 0 as they enter. With
    `images` they may also be the mean patch that enters that block, where this changes what the head gives less, and
    `model.card["added"]` says what was measured. `train.train_registers` trains them afterwards.

        >>> import torch
        >>> from dtl_lib import ViT, add_registers
        >>> model = ViT.build("vit_shapes_patch8_32").eval()
        >>> wider = add_registers(model, 2, at=1, leave=3)
        >>> wider.plan.layout(1)["reg"], "reg" in wider.plan.layout(3)
        (slice(1, 3, None), False)

    Args:
        model: a `ViT`, which stays as it is; `from_timm` makes one of a timm model.
        n: registers.
        at: the block that they enter before.
        leave: the block that they leave before; None for never.
        name: of their group in the plan.
        images: `(batch, channels, height, width)`, normalised as the model expects; some dozens do.

    Returns:
        The new model. Where there are images, its `card["added"]` says which start was taken, and how much `zero` and
        `mean patch` change the logits: the mean over images of `logit_change`.

    Raises:
        ValueError: where the model has a group of that name, or it is `cls` or `dist`, for blocks that its plan does
            not have, and where there is no image or what the head gives is non-finite.
    """
    vit, _ = unwrapped(model)
    n, at = whole("n", n), whole("at", at, 0)
    if name in READ_BY_HEAD:
        raise ValueError(f"{name} is a token that the head reads: give the new registers another name")
    if vit.plan.group(name):
        raise ValueError(f"the model has a group called {name!r} already: give the new registers another name")
    groups = (*vit.plan.groups, Group(name, n, at, leave))
    wider = with_tokens(vit, replace(vit.config, plan=TokenPlan(vit.plan.depth, groups, vit.plan.class_blocks)))
    if images is not None:
        if not len(images):
            raise ValueError("there are no images to measure on")
        with torch.no_grad():
            wider.card["added"] = _start(vit, wider, name, images)
    return wider


def _start(vit: ViT, wider: ViT, name: str, images: Tensor) -> dict:
    """Give the group the start that changes the logits less, and say how much each does."""
    token, block = wider.tokens[name], wider.plan.group(name).enter
    with evaluating(vit), record(vit) as tape:
        wanted = vit(images)
        states = tape.tokens("input") if block == 0 else tape.tokens(block - 1)
    mean = states[:, vit.plan.layout(max(block - 1, 0))[PATCHES]].mean(dim=(0, 1))
    starts, changes = {"zero": torch.zeros_like(mean), "mean patch": mean}, {}
    with evaluating(wider):
        for start, value in starts.items():
            token.copy_(value.expand_as(token))
            changes[start] = float(logit_change(wider(images), wanted).mean())
    check_finite(torch.tensor([*changes.values()]))
    best = min(changes, key=changes.__getitem__)
    token.copy_(starts[best].expand_as(token))
    return {"start": best, **changes}


def logit_change(logits: Tensor, wanted: Tensor) -> Tensor:
    """How far logits are from others, by image: the length of the change over that of `wanted` less its mean."""
    spread = (wanted - wanted.mean(dim=1, keepdim=True)).norm(dim=1)
    return (logits - wanted).norm(dim=1) / spread.clamp(min=1e-12)
