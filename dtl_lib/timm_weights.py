"""Tensors that go by the names in a timm model, by the names in a `ViT`."""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .timm_parts import classifiers


def state_of(model: Any, cait: bool, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that go by the model's names, by ours: its weights, or something about each of them."""
    weights = {name: value for name, value in tensors.items() if not name.startswith(("head.", "head_dist."))}
    state = _positions(model, weights)
    if "rope.freqs" in weights:
        frequencies = weights.pop("rope.freqs")  # (2, depth, heads, pairs), of the column and the row, or the other way
        frequencies = frequencies.flip(0) if model.rope.grid_indexing == "xy" else frequencies
        for block, value in enumerate(frequencies.unbind(1)):
            state[f"blocks.{block}.attention.angles.frequencies"] = value
    _fuse_qkv(weights)
    _fuse_gate(weights)
    for name, value in weights.items():
        state[_rename(name, len(model.blocks))] = value
    if "pool.query" in state:
        state["pool.query"] = state["pool.query"][0]
    return state | _heads(model, tensors)


def _positions(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Positions and learned tokens, taken out of the weights; a token's position is folded into it."""
    rows, columns = model.patch_embed.grid_size
    tokens = {key: weights.pop(key)[0] for key in ("cls_token", "dist_token", "reg_token") if key in weights}
    state, prefix = {}, []
    if "pos_embed" in weights:
        positions = weights.pop("pos_embed")[0]
        prefix, positions = positions[: -rows * columns], positions[-rows * columns :]
        if len(positions) != rows * columns or len(prefix) not in (0, sum(map(len, tokens.values()))):
            raise ValueError(
                f"pos_embed has {len(prefix) + len(positions)} positions, and the model {rows}×{columns} patches and "
                f"{sum(map(len, tokens.values()))} tokens beside them"
            )
        state["positions"] = rearrange(positions, "(rows columns) dim -> rows columns dim", rows=rows)
    for key, token in tokens.items():
        if len(prefix):
            token, prefix = token + prefix[: len(token)], prefix[len(token) :]
        state[f"tokens.{key.removesuffix('_token')}"] = token
    return state


def _heads(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The classifiers' tensors; a bias of zero where there is none."""
    names, state = {id(part): name for name, part in model.named_modules()}, {}
    for token, linear in classifiers(model).items():
        if linear is not None:
            weight = tensors[f"{names[id(linear)]}.weight"]
            zero = weight.new_zeros(len(weight)) if linear.bias is None else tensors[f"{names[id(linear)]}.bias"]
            state |= {f"classifiers.{token}.weight": weight, f"classifiers.{token}.bias": zero}
    return state


def _fuse_qkv(weights: dict[str, Tensor]) -> None:
    """Queries, keys and values as one linear map, also where each has its own, or keys have no bias."""
    for name in [name for name in weights if name.endswith((".attn.q.weight", ".attn.q_proj.weight"))]:
        place, end = name.removesuffix(".weight").rsplit(".", 1)
        weights[f"{place}.qkv.weight"] = torch.cat(
            [weights.pop(f"{place}.{end.replace('q', p)}.weight") for p in "qkv"]
        )
    for name in [name for name in weights if name.endswith((".attn.q.bias", ".attn.q_proj.bias", ".attn.q_bias"))]:
        place, end = name.split(".attn.")
        biases = {part: weights.pop(f"{place}.attn.{end.replace('q', part, 1)}", None) for part in "qkv"}
        zero = torch.zeros_like(biases["q"])
        weights[f"{place}.attn.qkv.bias"] = torch.cat([zero if bias is None else bias for bias in biases.values()])


def _fuse_gate(weights: dict[str, Tensor]) -> None:
    """SwiGLU's gate and value as one linear map."""
    for name in [name for name in weights if ".mlp.fc1_g." in name]:
        parts = weights.pop(name), weights.pop(name.replace(".fc1_g.", ".fc1_x."))
        weights[name.replace(".fc1_g.", ".fc1.")] = torch.cat(parts)


_NAMES = (
    ("patch_embed.proj.", "patch_embed.project."),
    (".attn.proj_l.", ".attention.core.before."),
    (".attn.proj_w.", ".attention.core.after."),
    (".attn.proj.", ".attention.project."),
    (".attn.qkv.", ".attention.qkv."),
    (".mlp.fc1.", ".mlp.expand."),
    (".mlp.fc2.", ".mlp.contract."),
    (".ls1.gamma", ".scale1.factor"),
    (".ls2.gamma", ".scale2.factor"),
    (".gamma_1", ".scale1.factor"),
    (".gamma_2", ".scale2.factor"),
    ("fc_norm.", "norm."),
    ("norm_pre.", "norm_before."),
    ("patch_embed.norm.", "norm_patches."),
    (".attn.q_norm.", ".attention.norm_q."),
    (".attn.k_norm.", ".attention.norm_k."),
    (".attn.norm.", ".attention.project.norm."),
    (".mlp.norm.", ".mlp.contract.norm."),
    ("attn_pool.latent", "pool.query"),
    ("attn_pool.q.", "pool.ask."),
    ("attn_pool.kv.", "pool.answer."),
    ("attn_pool.proj.", "pool.project."),
    ("attn_pool.", "pool."),
)


def _rename(name: str, depth: int) -> str:
    if name.startswith("blocks_token_only."):
        _, index, rest = name.split(".", 2)
        name = f"blocks.{depth + int(index)}.{rest}"
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name
