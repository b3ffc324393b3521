"""Attention and the residual stream worked out again, in float64 and in plain loops, for tests of probes."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dtl_lib.models import ViT
from dtl_lib.tokens import Group, TokenPlan
from tests.unit.small import SMALL, block_inputs

TINY = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
DATA = Path(os.environ.get("DTL_DATA") or "nowhere")
needs_tiny = pytest.mark.skipif(
    not (DATA / "weights" / f"{TINY}.safetensors").is_file(), reason=f"needs DTL_DATA with weights/{TINY}.safetensors"
)
CAIT = TokenPlan(2, (Group("cls", 1, 2), Group("reg", 2, 1)), class_blocks=2)
PLANS = {  # grids of 2 × 3, so that rows and columns cannot be taken for each other
    "class token": SMALL,
    "registers that enter and leave": replace(
        SMALL, plan=TokenPlan(3, (Group("cls", 1, 1), Group("reg", 4, 0, 2), Group("late", 2, 1)))
    ),
    "distillation token": replace(SMALL, plan=TokenPlan.of(3, dist=True, reg_pos=2, num_reg=3)),
    "no class token": replace(SMALL, plan=TokenPlan.of(3, None, 1, 2), pool="patches"),
    "norm after pooling": replace(SMALL, plan=TokenPlan.of(3, None, 0, 1), pool="patches", norm_after_pool=True),
    "class attention": replace(SMALL, depth=2, plan=CAIT, talking_heads=True, layer_scale=0.3),
}


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def streams(model: ViT, images: torch.Tensor) -> list[np.ndarray]:
    """What each block of a float64 model works on, `(batch, tokens, dim)`."""
    with torch.no_grad(), block_inputs(model) as seen:
        model.features(images)
    return [numbers(x) for x in seen]


def attention(model: ViT, block: int, x: np.ndarray) -> np.ndarray:
    """The softmax of a block, `(batch, heads, query, key)`, head by head and image by image; every token asks."""
    module = model.blocks[block]
    weight, bias = numbers(module.norm1.weight), numbers(module.norm1.bias)
    deviation = np.sqrt(x.var(axis=-1, keepdims=True) + model.config.norm_eps)
    x = (x - x.mean(axis=-1, keepdims=True)) / deviation * weight + bias
    qkv = x @ numbers(module.attention.qkv.weight).T + numbers(module.attention.qkv.bias)
    dim, heads = model.config.dim, model.config.heads
    each, (batch, tokens) = dim // heads, x.shape[:2]
    scores = np.empty((batch, heads, tokens, tokens))
    for image in range(batch):
        for head in range(heads):
            q = qkv[image, :, head * each : (head + 1) * each]
            k = qkv[image, :, dim + head * each : dim + (head + 1) * each]
            scores[image, head] = q @ k.T / math.sqrt(each)
    if model.config.talking_heads and block < model.plan.depth:
        mix = module.attention.core.before
        mixed = np.zeros_like(scores)
        for head in range(heads):
            for other in range(heads):
                mixed[:, head] += numbers(mix.weight)[head, other] * scores[:, other]
            mixed[:, head] += numbers(mix.bias)[head]
        scores = mixed
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def prefix(model: ViT, block: int) -> int:
    """How many tokens stand before the patches, counted by hand."""
    return sum(
        g.tokens for g in model.plan.groups if g.enter <= block and (g.leave is None or block < g.leave)
    )  # fmt: skip


def real(size: tuple[int, int] = (224, 224), batch: int = 2) -> tuple[ViT, torch.Tensor]:
    """The real ViT-Ti/16 in float64, and bundled photos."""
    from dtl_lib import data, load_pretrained

    model = load_pretrained(TINY)
    photos = [data.prepare(data.photo(name), size, config=model.config) for name in ("chelsea", "coffee")[:batch]]
    return model.double(), torch.cat(photos).double()
