"""Weights in: from a live timm model, from DTL_DATA, from the hub, from a checkpoint of ours, from the zoo."""

import contextlib
import logging
import os
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from .config import ViTConfig
from .models import ViT
from .tokens import Group, TokenPlan

log = logging.getLogger("dtl_lib")

ZOO = Path(__file__).parent / "zoo"


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor when weights met a model.

    Attributes:
        shared: loaded.
        initialised: in the model and not in the weights; fresh.
        left: in the weights and not in the model.
    """

    shared: tuple[str, ...]
    initialised: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.shared)} tensors loaded"]
        lines += [f"initialised: {', '.join(self.initialised)}"] if self.initialised else []
        lines += [f"left out: {', '.join(self.left)}"] if self.left else []
        return "; ".join(lines)


def data_folder() -> Path:
    """Where data and weights are looked for: the environment's DTL_DATA, or ~/.cache/dtl."""
    return Path(os.environ.get("DTL_DATA") or "~/.cache/dtl").expanduser()


def load_pretrained(name: str, plan: TokenPlan | None = None, classes: int | None = None) -> ViT:
    """A model with trained weights.

    Args:
        name: a timm name (`vit_tiny_patch16_224.augreg_in21k_ft_in1k`), read from
            `DTL_DATA/weights/<name>.safetensors`, otherwise from the hub; or the path of a checkpoint of ours;
            or `zoo/…`.
        plan: another plan than the weights were trained with. Shared tensors load, new groups are initialised;
            `model.loaded`, a `LoadReport`, lists both.
        classes: another number of classes: the head is then fresh.

    Raises:
        ValueError: where there are no such weights, with what to do.
    """
    name = str(name)
    model = _checkpoint(name) if name.startswith("zoo/") or name.endswith(".safetensors") else _timm(name)
    config = model.config if plan is None else model.config.with_plan(plan)
    if classes is not None:
        config = replace(config, classes=classes)
    if config == model.config:
        model.loaded = LoadReport(tuple(model.state_dict()), (), ())
        return model
    fresh = ViT(config)
    fresh.loaded = load_shared(fresh, model.state_dict())
    log.warning("%s: %s", name, fresh.loaded)
    return fresh.eval()


def load_shared(model: nn.Module, weights: dict[str, Tensor]) -> LoadReport:
    """Load the tensors that have the same name and shape, and say what became of all of them."""
    own = model.state_dict()
    shared = [name for name, value in own.items() if name in weights and weights[name].shape == value.shape]
    model.load_state_dict({name: weights[name] for name in shared}, strict=False)
    rest = set(own) | set(weights)
    return LoadReport(
        tuple(shared),
        tuple(sorted(name for name in rest - set(shared) if name in own)),
        tuple(sorted(name for name in rest - set(shared) if name in weights)),
    )


def from_timm(model: nn.Module) -> ViT:
    """The same function as a live timm model, as a `ViT`.

    Plain ViT (class token, average pooling, registers), DeiT, distilled DeiT, DeiT-III, DINO, DINOv2 with and without
    registers, CaiT. Positions that the checkpoint adds to its prefix tokens are folded into those tokens.

    Raises:
        ValueError: for a model with a part that a `ViT` does not have, naming it.
    """
    cait = hasattr(model, "blocks_token_only")
    _refuse_unknown(model, cait)
    ours = ViT(_config(model, cait))
    ours.load_state_dict(_state(model, cait))
    return ours.train(model.training).to(model.pos_embed.device, model.pos_embed.dtype)


def _config(model: nn.Module, cait: bool) -> ViTConfig:
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


def _plan(model: nn.Module, cait: bool, depth: int) -> TokenPlan:
    if cait:
        return TokenPlan.of(depth, cls_pos=depth, class_blocks=len(model.blocks_token_only))
    parameters = {"cls": model.cls_token, "dist": getattr(model, "dist_token", None), "reg": model.reg_token}
    return TokenPlan(depth, tuple(Group(name, p.shape[1]) for name, p in parameters.items() if p is not None))


def _state(model: nn.Module, cait: bool) -> dict[str, Tensor]:
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


def _refuse_unknown(model: nn.Module, cait: bool) -> None:
    """A ValueError that names the first part of a timm model that a `ViT` does not have."""
    from timm.models.cait import Cait
    from timm.models.vision_transformer import VisionTransformer

    kind = type(model).__name__
    if not isinstance(model, VisionTransformer | Cait) or model.pos_embed is None:
        raise ValueError(f"from_timm takes timm's ViT, DeiT, DINO, DINOv2 and CaiT models, not a {kind}")
    inside = [getattr(block, part, None) for block in model.blocks for part in ("attn", "mlp")]
    if strange := sorted({type(part).__name__ for part in (model.patch_embed, *model.blocks, *inside)} - _KNOWN):
        raise ValueError(f"this {kind} is made with {' and '.join(strange)}, which a ViT here has not")
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
    if found := [name for name, so in differs.items() if so]:
        raise ValueError(f"this {kind} has {' and '.join(found)}, which a ViT here has not")


def _checkpoint(name: str) -> ViT:
    from .checkpoint import load_model

    if not name.startswith("zoo/"):
        return load_model(name)
    path = ZOO / f"{name.removeprefix('zoo/').removesuffix('.safetensors')}.safetensors"
    if not path.is_file():
        have = ", ".join(sorted(f"zoo/{file.stem}" for file in ZOO.glob("*.safetensors"))) or "nothing yet"
        raise ValueError(f"the zoo has no {name!r}; it has {have}")
    return load_model(path)


def _timm(name: str) -> ViT:
    import timm
    from safetensors import SafetensorError

    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"{name!r} is no timm model, no zoo/… and no path to a .safetensors file")
    if name != (base := name.split(".")[0]) and name not in timm.list_pretrained(f"{base}.*"):
        raise ValueError(
            f"timm has no weights {name!r}; it has {', '.join(timm.list_pretrained(f'{base}.*')) or 'none'}"
        )
    given = timm.get_pretrained_cfg(name)
    tagged = f"{given.architecture}.{given.tag}" if given is not None and given.tag else name
    files = [data_folder() / "weights" / f"{known}.safetensors" for known in dict.fromkeys((name, tagged))]
    file = next((file for file in files if file.is_file()), None) or _cached(tagged)
    if file is None:
        return from_timm(_download(name, files[-1])).eval()
    try:  # through timm's loader, which knows the older names some checkpoints use
        overlay = {"file": str(file), "custom_load": False}
        model = timm.create_model(tagged, pretrained=True, pretrained_cfg_overlay=overlay)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{file} does not hold the weights of {name} ({_short(error)}): fetch it again") from None
    return from_timm(model).eval()


def _cached(name: str) -> Path | None:
    """The weights, where the hub's client has fetched them before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(f"timm/{name}", "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def _download(name: str, file: Path) -> nn.Module:
    import timm

    try:
        _reach_hub()
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the hub's client raises, the reader needs one thing: where to put the file
        raise ValueError(
            f"no weights for {name}: put them at {file}, or connect to the hub ({_short(error)})"
        ) from None


def _reach_hub() -> None:
    """An OSError at once where there is no network: the hub's client would try again for most of a minute."""
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    with contextlib.suppress(urllib.error.HTTPError):  # it answers
        urllib.request.urlopen(request, timeout=5).close()


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[:2])[:160].strip()
