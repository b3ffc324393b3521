"""A live timm model as a `ViT`: its configuration read off its parts, its weights under our names."""

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from .config import ViTConfig
from .models import ViT
from .timm_layers import ROTARY, has_bias, has_linear_bias, keys_lack_bias, mlp_kind, norm_kind, present, scales
from .timm_parts import (
    POOLS,
    classifiers,
    dropout_rates,
    final_norm,
    hooks,
    is_cait,
    reference_norm,
    refuse_another_function,
    refuse_unknown,
)
from .timm_weights import state_of
from .tokens import PATCHES, Group, TokenPlan

log = logging.getLogger("dtl_lib")


def from_timm(model: nn.Module, check: bool = True) -> ViT:
    """The same function as a live timm model, as a `ViT`, with each weight's dtype, device and `requires_grad`.

    Every pre-norm ViT: with a class token, registers, average or attention pooling, prefix tokens or not (DeiT,
    distilled DeiT, DeiT-III, DINO, DINOv2, SigLIP); with a norm before the blocks and QuickGELU (CLIP); with SwiGLU,
    packed or not, RMSNorm, normalised queries and keys; with rotary positions, axial, centred or mixed (EVA-02, DINOv3,
    Perception Encoder, RoPE-ViT); and CaiT. Also with a head of your own, if that is one Linear. Positions that the
    checkpoint adds to its prefix tokens are folded into those tokens. A `ViT` has no dropout: where the model has some,
    a warning says so.

    Args:
        model: timm's, which stays as it is.
        check: compare the two on a random image: a class with its own `forward` may compute something else than the
            parts it is made of say.

    Raises:
        ValueError: for a model with a part that a `ViT` does not have, naming it, or one that computes something else.
    """
    cait = is_cait(model)
    refuse_unknown(model, cait)
    if meta := next((name for name, value in model.named_parameters() if value.is_meta), None):
        raise ValueError(f"{meta} is on the meta device, which holds no weights: give the model its weights first")
    ours = _convert(model)
    if check:
        refuse_another_function(model, _convert)
    for what in _left_out(model, ours, cait):
        log.warning("from_timm: %s", what)
    ours.trained = True
    return ours.train(model.training)


def _convert(model: Any) -> ViT:
    cait = is_cait(model)
    with torch.device("meta"):  # draws no random numbers; every tensor is put in its place below
        ours = ViT(_config(model, cait))
    state = state_of(model, cait, model.state_dict())
    expected = ours.state_dict()
    for name in sorted(set(state) ^ set(expected)):
        what = f"has {name}, which a ViT here does not" if name in state else f"has no {name}, which a ViT here needs"
        raise ValueError(f"this {type(model).__name__} {what}")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            wanted = tuple(expected[name].shape)
            raise ValueError(f"{name} has shape {tuple(value.shape)} in this {type(model).__name__}, and not {wanted}")
    copies = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    ours.load_state_dict(copies, assign=True)
    learns = _learning(model, cait)
    for name, parameter in ours.named_parameters():
        parameter.requires_grad_(bool(learns[name].max() > 0))
    return ours


def _learning(model: Any, cait: bool) -> dict[str, Tensor]:
    """By our names, whether each tensor, or each part of it, learns: 1 or 0."""
    flags = {name: float(value.requires_grad) for name, value in model.named_parameters()}
    every = {name: torch.tensor(flags.get(name, 1.0)).expand(v.shape) for name, v in model.state_dict().items()}
    return state_of(model, cait, every)


def _left_out(model: Any, ours: ViT, cait: bool) -> list[str]:
    """What a `ViT` does not carry over: one sentence each."""
    said = []
    if rates := dropout_rates(model):
        listed = ", ".join(f"{rate:g} at {name}" for name, rate in sorted(rates.items()))
        said.append(f"dropout is left out, a ViT here has none ({listed})")
    scheduled = ours.config.drop_path_rates() + [0.0] * ours.plan.class_blocks
    if any(abs(a - b) > 1e-6 for rates in _drop_paths(model, cait) for a, b in zip(rates, scheduled)):
        said.append(f"stochastic depth becomes {ours.config.drop_path_schedule}, up to {ours.config.drop_path:g}")
    lacking = keys_lack_bias(model.blocks[0].attn)
    mixed = [name for name, flag in _learning(model, cait).items() if 0 == flag.min() < flag.max()]
    mixed = [name for name in mixed if not (lacking and name.endswith("qkv.bias"))]
    if mixed:
        said.append(f"{', '.join(mixed)} learn whole, where the model has frozen a part of them")
    if any(getattr(getattr(model, "rope", None), f"{what}_coords", None) for what in ("shift", "jitter", "rescale")):
        said.append("places are not moved at random in training")
    if hooked := [name or "the model" for name, part in model.named_modules() if hooks(part)]:
        said.append(f"the hooks of {', '.join(hooked)} are left out, with whatever they change")
    if any(part is not None and part.bias is None for part in classifiers(model).values()):
        said.append("the head gets a bias, zero")
    if lacking:
        said.append("keys get a bias, zero, as queries and values have one")
    return said


def _drop_paths(model: Any, cait: bool) -> list[list[float]]:
    """Stochastic depth of the first and of the second branch, block by block."""
    blocks = [*model.blocks, *(model.blocks_token_only if cait else ())]
    names = ("drop_path",) if cait else ("drop_path1", "drop_path2")
    return [[getattr(getattr(block, name), "drop_prob", None) or 0.0 for block in blocks] for name in names]


def _config(model: Any, cait: bool) -> ViTConfig:
    first, depth = model.blocks[0], len(model.blocks)
    scale = scales(first)[0]
    pool, norm = POOLS[model.global_pool], reference_norm(model)
    linear = next(iter(classifiers(model).values()))
    given = getattr(model, "pretrained_cfg", None) or {}  # a model made without create_model has none
    return ViTConfig(
        image_size=model.patch_embed.img_size,
        patch_size=model.patch_embed.patch_size[0],
        channels=model.patch_embed.proj.in_channels,
        dim=model.embed_dim,
        depth=depth,
        heads=first.attn.num_heads,
        mlp_ratio=_ratio(first.mlp.fc2.in_features, model.embed_dim),
        plan=_plan(model, cait, depth),
        classes=0 if linear is None else linear.out_features,
        pool=pool,
        norm_after_pool=pool == PATCHES and final_norm(model) is not None and norm is getattr(model, "fc_norm", None),
        qkv_bias=has_bias(first.attn),
        norm_eps=norm.eps,
        layer_scale=None if scale is None else float(scale.detach().flatten()[0]),
        drop_path=max(rate for rates in _drop_paths(model, cait) for rate in rates),
        drop_path_schedule="uniform" if cait else "linear",
        talking_heads=cait,
        positions="none" if model.pos_embed is None else "learned",
        mean=given.get("mean", ViTConfig.mean),
        std=given.get("std", ViTConfig.std),
        crop=given.get("crop_pct", ViTConfig.crop),
        interpolation=given.get("interpolation", ViTConfig.interpolation),
        **_variant(model, first, pool),
        **_rotary(getattr(model, "rope", None), first.attn),
    )


def _variant(model: Any, first: Any, pool: str) -> dict[str, Any]:
    """What a plain ViT does not have, positions aside."""
    fields: dict[str, Any] = {
        "patch_bias": model.patch_embed.proj.bias is not None,
        "patch_norm": present(model.patch_embed, "norm"),
        "linear_bias": has_linear_bias(first),
        "mlp_scale": scales(first)[0] is None or scales(first)[1] is not None,
        "norm_before": present(model, "norm_pre"),
        "final_norm": final_norm(model) is not None,
        "norm": norm_kind(reference_norm(model)),
        "qk_norm": present(first.attn, "q_norm"),
        "attention_norm": present(first.attn, "norm"),
        "mlp_norm": present(first.mlp, "norm"),
        "mlp": mlp_kind(first.mlp),
    }
    if pool != "cls":  # EVA's attention pooling reads every token, whatever its mean does
        every = getattr(model, "pool_include_prefix", pool == "attention")
        fields["pool_prefix"] = bool(every) and model.num_prefix_tokens > 0
    if pool == "attention":
        heads, units = model.attn_pool.num_heads, model.attn_pool.mlp.fc1.out_features
        fields["pool_heads"] = None if heads == first.attn.num_heads else heads
        fields["pool_mlp_ratio"] = None if units == first.mlp.fc2.in_features else _ratio(units, model.embed_dim)
    return fields


def _rotary(rope: Any, attn: Any) -> dict[str, Any]:
    """Positions that turn queries and keys."""
    if rope is None:
        return {}
    kind = ROTARY[type(rope).__name__]
    fields = {"rotary": kind, "rotary_temperature": float(rope.temperature)}
    if kind == "mixed":
        return fields
    reference = getattr(rope, "ref_feat_shape", None)
    return fields | {
        "rotary_reference": None if reference is None else tuple(reference),
        "rotary_offset": float(rope.grid_offset),
        "rotary_columns_first": rope.grid_indexing == "xy",
        "rotary_halves": bool(getattr(attn, "rotate_half", False)),
    }


def _ratio(hidden: int, dim: int) -> float:
    """A ratio that gives the MLP this many hidden units again: `int` of it times dim, which may round down."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _plan(model: Any, cait: bool, depth: int) -> TokenPlan:
    if cait:
        return TokenPlan.of(depth, cls_pos=depth, class_blocks=len(model.blocks_token_only))
    parameters = {"cls": model.cls_token, "dist": getattr(model, "dist_token", None), "reg": model.reg_token}
    return TokenPlan(depth, tuple(Group(name, p.shape[1]) for name, p in parameters.items() if p is not None))
