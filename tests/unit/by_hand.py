"""A ViT's forward pass written out with tokens by label, and each block's matrix as a tensor of its own.

Labels are ("cls", 0), ("reg", 2), ("patches", 5): no slice of the library's is used.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dtl_lib.layers import interpolate_positions
from dtl_lib.models import ViT

Label = tuple[str, int]


@dataclass(frozen=True)
class Seen:
    """Of one block: the queries and keys by label, what multiplies v, and the softmax under it."""

    queries: list[Label]
    keys: list[Label]
    attention: Tensor  # (batch, heads, query, key)
    softmax: Tensor


def forward(model: ViT, images: Tensor) -> tuple[Tensor, list[Seen]]:
    """Logits, and what was seen in every block; `attention` keeps its gradient."""
    project = model.patch_embed.project
    patches = F.conv2d(images, project.weight, project.bias, stride=project.stride)
    positions = interpolate_positions(model.positions, patches.shape[2:]).flatten(0, 1)
    patches = patches.flatten(2).mT + positions
    stream = {("patches", i): patches[:, i] for i in range(patches.shape[1])}
    seen = []
    for number, block in enumerate(model.blocks):
        now: dict[Label, Tensor] = {}
        for group in model.plan.groups:
            if group.enter <= number and (group.leave is None or number < group.leave):
                for i in range(group.tokens):
                    learned = model.tokens[group.name][i].expand(len(images), -1)
                    now[group.name, i] = stream[group.name, i] if group.enter < number else learned
        stream = now | {label: value for label, value in stream.items() if label[0] == "patches"}
        asking = [label for label in stream if number < model.plan.depth or label[0] in ("cls", "dist")]
        stream, attention, softmax = _block(model, block, stream, asking)
        seen.append(Seen(asking, list(stream), attention, softmax))
    return _head(model, stream), seen


def _block(model, block, stream: dict[Label, Tensor], asking: list[Label]):
    heads, width = model.config.heads, model.config.dim
    norm = torch.stack([_norm(block.norm1, value) for value in stream.values()], dim=1)
    qkv = block.attention.qkv
    split = lambda part: part.unflatten(-1, (heads, width // heads)).transpose(1, 2)  # noqa: E731
    q, k, v = (split(part) for part in (norm @ qkv.weight.T + (0 if qkv.bias is None else qkv.bias)).chunk(3, dim=-1))
    q = q[:, :, [list(stream).index(label) for label in asking]]
    scores, core = q @ k.mT / (width // heads) ** 0.5, block.attention.core
    if hasattr(core, "before"):
        scores = torch.einsum("gh,bhqk->bgqk", core.before.weight, scores) + core.before.bias[:, None, None]
    softmax = attention = scores.softmax(dim=-1)
    if hasattr(core, "after"):
        attention = torch.einsum("gh,bhqk->bgqk", core.after.weight, softmax) + core.after.bias[:, None, None]
    if attention.requires_grad:
        attention.retain_grad()
    new, out = dict(stream), block.attention.project((attention @ v).transpose(1, 2).flatten(2))
    for i, label in enumerate(asking):
        x = stream[label] + block.scale1(out[:, i])
        hidden = F.gelu(F.linear(_norm(block.norm2, x), block.mlp.expand.weight, block.mlp.expand.bias))
        new[label] = x + block.scale2(F.linear(hidden, block.mlp.contract.weight, block.mlp.contract.bias))
    return new, attention, softmax


def _norm(norm, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def _head(model: ViT, stream: dict[Label, Tensor]) -> Tensor:
    if model.config.pool == "patches":
        tokens = [value for label, value in stream.items() if label[0] == "patches"]
        if model.config.norm_after_pool:
            return model.classifiers["patches"](_norm(model.norm, sum(tokens) / len(tokens)))
        return model.classifiers["patches"](sum(_norm(model.norm, value) for value in tokens) / len(tokens))
    logits = [model.classifiers[name](_norm(model.norm, stream[name, 0])) for name in model.classifiers]
    return sum(logits) / len(logits)
