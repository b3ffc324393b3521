"""What timm's blocks are made of, looked at part by part: what a `ViT` here has too, and what it does not."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .variants import ACTIVATIONS

ABSENT = (nn.Identity, type(None))
RMS = ("RmsNorm", "RMSNorm")  # timm's, PyTorch's


def present(module: nn.Module, name: str) -> bool:
    """Whether a module has a part of that name which does something."""
    return not isinstance(getattr(module, name, None), ABSENT)


def norm_kind(norm: Any) -> str | None:
    """A norm's kind as a configuration calls it, "layer" or "rms"; None for anything else."""
    return "layer" if isinstance(norm, nn.LayerNorm) else "rms" if type(norm).__name__ in RMS else None


def norms_of(norms: Mapping[str, Any], reference: Any) -> Iterator[str]:
    """What is unlike the reference in norms, those that are not there left out."""
    for norm in (norm for norm in norms.values() if not isinstance(norm, ABSENT)):
        kind = norm_kind(norm)
        if kind is None:
            yield f"a norm that is neither LayerNorm nor RMSNorm ({type(norm).__name__})"
        elif kind != norm_kind(reference):
            yield f"a norm of another kind ({type(norm).__name__}) than the others ({type(reference).__name__})"
        elif norm.weight is None or (kind == "layer" and norm.bias is None):
            yield f"a {type(norm).__name__} without weight or bias"
        elif norm.eps != reference.eps:
            yield f"a norm with eps {norm.eps}, where the others have {reference.eps},"


def activation_of(part: Any) -> str | None:
    """The activation that a module computes, whatever its class is called: a name in `ACTIVATIONS`, "silu", or None."""
    x = torch.linspace(-5, 5, 41, device="cpu", dtype=torch.float32)
    known = {name: function for name, function in ACTIVATIONS.items() if name != "swiglu"} | {"silu": F.silu}
    try:
        with torch.no_grad():
            y = part.forward(x.clone())
            return next((name for name, f in known.items() if torch.allclose(y, f(x), rtol=0, atol=1e-6)), None)
    except Exception:  # whatever somebody's class raises, it is none of those
        return None


def mlp_kind(mlp: Any) -> str | None:
    """An MLP's activation as a configuration calls it; None where a `ViT` here has none like it."""
    name = activation_of(mlp.act)
    if hasattr(mlp, "fc1_g") or hasattr(mlp, "gate_last"):
        return "swiglu" if name == "silu" and not getattr(mlp, "gate_last", False) else None
    return name if name in ACTIVATIONS else None


def first_linear(mlp: Any) -> dict[str, Any]:
    """The linear maps at an MLP's beginning, by timm's name: one, or SwiGLU's gate and value."""
    return {name: getattr(mlp, name) for name in ("fc1_g", "fc1_x", "fc1") if hasattr(mlp, name)}


def linears(block: Any) -> dict[str, Any]:
    """A block's linear maps besides those that make queries, keys and values, by timm's name."""
    return {"proj": block.attn.proj, **first_linear(block.mlp), "fc2": block.mlp.fc2}


def has_linear_bias(block: Any) -> bool:
    """Whether those have a bias."""
    return any(getattr(part, "bias", None) is not None for part in linears(block).values())


def qkv_linear(attn: Any) -> dict[str, Any]:
    """The linear maps that make queries, keys and values, by timm's name: one, or three."""
    names = ("qkv", "q", "k", "v", "q_proj", "k_proj", "v_proj")
    return {name: part for name in names if (part := getattr(attn, name, None)) is not None}


def has_bias(attn: Any) -> bool:
    """Whether queries have a bias: in their linear map, or beside it, as EVA keeps them."""
    first = next(iter(qkv_linear(attn).values()))
    return getattr(first, "bias", None) is not None or getattr(attn, "q_bias", None) is not None


def keys_lack_bias(attn: Any) -> bool:
    """Whether queries have a bias and keys have none (EVA)."""
    return getattr(attn, "q_bias", None) is not None or (
        has_bias(attn) and any(part.bias is None for part in qkv_linear(attn).values())
    )


def scales(block: Any) -> list[Any]:
    """A block's LayerScales, each as a tensor; None where there is none."""
    if hasattr(block, "gamma_1"):
        return [block.gamma_1, block.gamma_2]
    return [getattr(getattr(block, name, None), "gamma", None) for name in ("ls1", "ls2")]


def about_block(block: Any) -> dict[str, str]:
    """What all blocks of a `ViT` have in common."""
    attn, mlp = block.attn, block.mlp
    units = mlp.fc2.in_features if hasattr(mlp.fc2, "in_features") else "?"
    return {
        "heads": f"{attn.num_heads} heads",
        "hidden": f"{units} hidden units in the MLP",
        "activation": f"{mlp_kind(mlp)} in the MLP",
        "bias": f"{'a' if has_bias(attn) else 'no'} bias of queries and keys",
        "scales": f"{2 - scales(block).count(None)} LayerScales",
        "linear_bias": f"{'a' if has_linear_bias(block) else 'no'} bias of projections",
        "qk_norm": f"{'a' if present(attn, 'q_norm') else 'no'} norm of queries and keys",
        "attention_norm": f"{'a' if present(attn, 'norm') else 'no'} norm inside attention",
        "mlp_norm": f"{'a' if present(mlp, 'norm') else 'no'} norm inside the MLP",
    }


def unknown_in_block(block: Any, dim: int, reference: Any) -> Iterator[str]:
    """What a `ViT` here does not have, in a block."""
    attn, mlp = block.attn, block.mlp
    linear = qkv_linear(attn)
    for name in ("proj", "proj_l", "proj_w"):
        linear |= {name: getattr(attn, name)} if hasattr(attn, name) else {}
    linear |= first_linear(mlp) | {"fc2": mlp.fc2}
    for name, part in linear.items():
        if not isinstance(part, nn.Linear):
            yield f"a {type(part).__name__} where {name} is a Linear (merge or replace it first)"
        elif part.bias is None and name in ("proj_l", "proj_w"):
            yield f"a projection without bias ({name})"
    after = [part.bias is None for part in linears(block).values() if isinstance(part, nn.Linear)]
    norms = {name: getattr(block, name) for name in ("norm1", "norm2")}
    inside = {"q": "q_norm", "k": "k_norm", "attention": "norm"}
    norms |= {name: getattr(attn, part, None) for name, part in inside.items()} | {"mlp": getattr(mlp, "norm", None)}
    parts = {
        "no norm before a branch": not (present(block, "norm1") and present(block, "norm2")),
        "a norm of queries or of keys alone": present(attn, "q_norm") != present(attn, "k_norm"),
        "a gate in attention": present(attn, "gate"),
        "queries in groups that share keys": getattr(attn, "num_kv_groups", 1) != 1,
        "a LayerScale of the MLP alone": scales(block)[0] is None and scales(block)[1] is not None,
        "a bias in some of its projections": any(after) and not all(after),
        "an activation that is not GELU, QuickGELU or SwiGLU": mlp_kind(mlp) is None,
    }
    yield from (name for name, differs in parts.items() if differs)
    yield from norms_of(norms, reference)
    if (width := getattr(getattr(attn, "proj", None), "in_features", dim)) != dim:
        yield f"heads of {width} channels together, where a token has {dim},"


def unknown_in_pool(model: Any) -> Iterator[str]:
    """What a `ViT` here does not have, in attention pooling."""
    pool = model.attn_pool
    if not present(model, "attn_pool"):
        yield "'map' pooling without attention pooling"
        return
    linear = [getattr(pool, name, None) for name in ("q", "kv", "proj")]
    linear += [getattr(pool.mlp, name, None) for name in ("fc1", "fc2")]
    first = mlp_kind(model.blocks[0].mlp)
    parts = {
        "a projection without bias": any(getattr(part, "bias", None) is None for part in linear),
        "several queries": tuple(pool.latent.shape) != (1, 1, model.embed_dim),
        "positions": pool.pos_embed is not None,
        "a norm of queries or keys": present(pool, "q_norm") or present(pool, "k_norm"),
        "a norm inside the MLP": pool.mlp is not None and present(pool.mlp, "norm"),
        "no norm": not present(pool, "norm"),
        "no MLP": pool.mlp is None,
        "another activation than the blocks": pool.mlp is not None
        and mlp_kind(pool.mlp) != ("gelu" if first == "swiglu" else first),
    }
    yield from (f"{name} in attention pooling" for name, differs in parts.items() if differs)
    yield from (f"{what} in attention pooling" for what in norms_of({"pool": pool.norm}, model.blocks[0].norm1))


ROTARY = {"RotaryEmbeddingCat": "axial", "RotaryEmbeddingMixed": "mixed", "RotaryEmbeddingDinoV3": "centred"}


def unknown_in_rotary(rope: Any) -> Iterator[str]:
    """What a `ViT` here does not have, in rotary positions."""
    kind = type(rope).__name__
    if kind not in ROTARY:
        yield f"rotary positions of another kind ({kind})"
    elif getattr(rope, "in_pixels", False) or getattr(rope, "grid_type", "index") != "index":
        yield "rotary positions that count pixels"
    elif getattr(rope, "normalize_coords", "separate") != "separate" and ROTARY[kind] == "centred":
        yield f"rotary positions normalised by {rope.normalize_coords}"
    elif getattr(rope, "min_period", None) is not None:
        yield "rotary positions with a least and a largest period"
