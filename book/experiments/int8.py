"""Whole numbers of 8 bits, simulated: weights and activations are rounded, and computed with in float."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from dtl_lib.models import ViT
from dtl_lib.registers import NAME
from dtl_lib.tokens import PATCHES

SCALES = ("weights", "image", "own", "token")
STEPS = 127


def rounded(x: Tensor, largest: Tensor) -> Tensor:
    """Each value at the nearest of 255 steps from −largest to largest."""
    step = largest.clamp(min=1e-12) / STEPS
    return (x / step).round().clamp(-STEPS, STEPS) * step


def largest(x: Tensor, scale: str, own: slice | None) -> Tensor:
    """The value of the last step, `(batch, 1 or tokens, 1)`, for activations `(batch, tokens, channels)`."""
    of_token = x.abs().amax(dim=-1, keepdim=True)
    if scale == "token":
        return of_token
    if scale == "image" or own is None:
        return of_token.amax(dim=1, keepdim=True)
    rest = torch.ones(x.shape[1], dtype=torch.bool)
    rest[own] = False
    limits = of_token[:, rest].amax(dim=1, keepdim=True).expand_as(of_token).clone()
    limits[:, own] = of_token[:, own].amax(dim=1, keepdim=True)
    return limits


@contextmanager
def int8(model: ViT, scale: str) -> Iterator[None]:
    """Inside, what enters each linear map of the blocks is rounded to 8 bits, and so are its weights, row by row.

    Args:
        model: plain attention and MLPs; its classifier and embedding stay in float.
        scale: of activations: one an image, one each token, one an image and another for the tokens that test-time
            registers are ("own"); "weights" rounds weights alone.

    Raises:
        ValueError: for another scale.
    """
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}, not {scale!r}")
    with ExitStack() as stack, torch.no_grad():
        for number, block in enumerate(model.blocks):
            layout = model.plan.layout(number)

            def round_input(module, given, layout=layout):
                x = given[0]
                every = x.shape[1] > layout[PATCHES].start  # the last block goes on with the class token alone
                own = layout.get(NAME) if every else None
                return (rounded(x, largest(x, scale, own)), *given[1:])

            for layer in (block.attention.qkv, block.attention.project, block.mlp.expand, block.mlp.contract):
                before = layer.weight.clone()
                stack.callback(layer.weight.copy_, before)
                layer.weight.copy_(rounded(before, before.abs().amax(dim=1, keepdim=True)))
            if scale != "weights":
                for module in (block.attention, block.attention.project, block.mlp.expand, block.mlp.contract):
                    stack.callback(module.register_forward_pre_hook(round_input).remove)
        yield
