"""A live timm model as a `ViT`: its configuration read off its parts, its weights under our names."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .config import ViTConfig
from .models import ViT
from .tokens import Group, TokenPlan


def from_timm(model: nn.Module) -> ViT:
    """The same function as a live timm model, as a `ViT`.

    Plain ViT (class token, average pooling, registers), DeiT, distilled DeiT, DeiT-III, DINO, DINOv2 with and without
    registers, CaiT. Positions that the checkpoint adds to its prefix tokens are folded into those tokens.

    Raises:
        ValueError: for a model with a part that a `ViT` does not have, naming it.
    """
    cait = hasattr(model, "blocks_token_only")
    _refuse_unknown(model, cait)
    theirs: Any = model  # timm's classes have no types of their own
    ours = ViT(_config(theirs, cait))
    ours.load_state_dict(_state(theirs, cait))
    return ours.train(theirs.training).to(theirs.pos_embed.device, theirs.pos_embed.dtype)


def _config(model: Any, cait: bool) -> ViTConfig:
    first, depth = model.blocks[0], len(model.blocks)
    rates = [getattr(block.drop_path if cait else block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    scale = first.gamma_1 if cait else getattr(first.ls1, "gamma", None)
    average = model.global_pool == "avg"
    after = not cait and isinstance(model.fc_norm, nn.LayerNorm)
    given = getattr(model, "pretrained_cfg", None) or {}  # a model made without create_model has none
    return ViTConfig(
        image_size=model.patch_embed.img_size,
        patch_size=model.patch_embed.patch_size[0],
        channels=model.patch_embed.proj.in_channels,
        dim=model.embed_dim,
        depth=depth,
        heads=first.attn.num_heads,
        mlp_ratio=first.mlp.fc1.out_features / model.embed_dim,
        plan=_plan(model, cait, depth),
        classes=model.num_classes,
        pool="patches" if average else "cls",
        norm_after_pool=average and after,
        qkv_bias=first.attn.qkv.bias is not None,
        norm_eps=(model.fc_norm if after else model.norm).eps,
        layer_scale=None if scale is None else float(scale.detach().flatten()[0]),
        drop_path=max(rates),
        drop_path_schedule="uniform" if cait else "linear",
        talking_heads=cait,
        mean=given.get("mean", ViTConfig.mean),
        std=given.get("std", ViTConfig.std),
        crop=given.get("crop_pct", ViTConfig.crop),
        interpolation=given.get("interpolation", ViTConfig.interpolation),
    )


def _plan(model: Any, cait: bool, depth: int) -> TokenPlan:
    if cait:
        return TokenPlan.of(depth, cls_pos=depth, class_blocks=len(model.blocks_token_only))
    parameters = {"cls": model.cls_token, "dist": getattr(model, "dist_token", None), "reg": model.reg_token}
    return TokenPlan(depth, tuple(Group(name, p.shape[1]) for name, p in parameters.items() if p is not None))


def _state(model: Any, cait: bool) -> dict[str, Tensor]:
    weights = dict(model.state_dict())
    rows, columns = model.patch_embed.grid_size
    positions = weights.pop("pos_embed")[0]
    prefix, positions = positions[: -rows * columns], positions[-rows * columns :]
    state = {"positions": rearrange(positions, "(rows columns) dim -> rows columns dim", rows=rows)}
    for key in ("cls_token", "dist_token", "reg_token"):
        if key in weights:
            token = weights.pop(key)[0]
            if len(prefix):
                token, prefix = token + prefix[: len(token)], prefix[len(token) :]
            state[f"tokens.{key.removesuffix('_token')}"] = token
    if cait:
        _fuse_class_attention(weights)
    for name, value in weights.items():
        state[_rename(name, len(model.blocks), model.global_pool == "avg")] = value
    return state


def _fuse_class_attention(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if ".attn.q." in name]:
        parts = [weights.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        weights[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)


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
)


def _rename(name: str, depth: int, average: bool) -> str:
    if name.startswith("blocks_token_only."):
        _, index, rest = name.split(".", 2)
        name = f"blocks.{depth + int(index)}.{rest}"
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    if name.startswith("head."):
        return name.replace("head.", "classifiers.patches." if average else "classifiers.cls.")
    return name.replace("head_dist.", "classifiers.dist.") if name.startswith("head_dist.") else name


_KNOWN = {"PatchEmbed", "Block", "LayerScaleBlock", "Attention", "TalkingHeadAttn", "Mlp", "NoneType"}


def _refuse_unknown(model: Any, cait: bool) -> None:
    """A ValueError that names the first part of a timm model that a `ViT` does not have."""
    from timm.models.cait import Cait
    from timm.models.vision_transformer import VisionTransformer

    kind = type(model).__name__
    if not issubclass(type(model), VisionTransformer | Cait) or model.pos_embed is None:
        raise ValueError(f"from_timm takes timm's ViT, DeiT, DINO, DINOv2 and CaiT models, not a {kind}")
    inside = [getattr(block, part, None) for block in model.blocks for part in ("attn", "mlp")]
    if strange := sorted({type(part).__name__ for part in (model.patch_embed, *model.blocks, *inside)} - _KNOWN):
        raise ValueError(f"this {kind} is made with {' and '.join(strange)}, which a ViT here does not have")
    first, absent = model.blocks[0], (nn.Identity, type(None))
    parts = {
        "a norm before the blocks": getattr(model, "norm_pre", None),
        "a norm of patches": model.patch_embed.norm,
        "a norm of queries or keys": getattr(first.attn, "q_norm", None),
        "a norm inside attention": getattr(first.attn, "norm", None),
        "a gate in attention": getattr(first.attn, "gate", None),
        "a norm inside the MLP": getattr(first.mlp, "norm", None),
        "attention pooling": getattr(model, "attn_pool", None),
    }
    last = [norm for norm in (model.norm, getattr(model, "fc_norm", None)) if not isinstance(norm, absent)]
    differs = {name: not isinstance(part, absent) for name, part in parts.items()} | {
        "norms that are not LayerNorm": not all(isinstance(norm, nn.LayerNorm) for norm in (first.norm1, *last)),
        "no norm at the end": not last,
        "an activation that is not GELU": getattr(first.mlp.act, "approximate", None) != "none",
        f"{model.global_pool!r} pooling": model.global_pool not in ("token", "avg")[: 2 - cait],
        "pooling over prefix tokens": getattr(model, "pool_include_prefix", False),
        "a projection without bias": None in (model.patch_embed.proj.bias, first.attn.proj.bias),
    }
    if unknown := [name for name, differ in differs.items() if differ]:
        raise ValueError(f"this {kind} has {' and '.join(unknown)}, which a ViT here does not have")
