"""What a live timm model is made of: a part that a `ViT` does not have is refused by its name, with its block."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import first_line

ABSENT = (nn.Identity, type(None))
POOLS = {"token": "cls", False: "cls", "avg": "patches", True: "patches"}  # MAE's own class says it with a bool
WRAPPERS = ("module", "_orig_mod", "base_model")  # where DataParallel, torch.compile and peft keep the model
TOLERANCE = 1e-4  # of the logits' norm, float32; rounding alone stays below 5e-6
SEED = 0  # of the weights and the image that two models are compared on


def refuse_unknown(model: Any, cait: bool) -> None:
    """A ValueError that names the parts of a timm model that a `ViT` does not have."""
    from timm.models.cait import Cait
    from timm.models.vision_transformer import VisionTransformer

    kind = type(model).__name__
    if not isinstance(model, VisionTransformer | Cait):
        wrapped = next((name for name in WRAPPERS if hasattr(model, name)), None)
        hint = f": give the model inside, .{wrapped} (LoRA: merge it first)" if wrapped else ""
        raise ValueError(f"from_timm takes timm's ViT, DeiT, DINO, DINOv2 and CaiT models, not a {kind}{hint}")
    if model.pos_embed is None:
        raise ValueError(f"this {kind} has no position embedding (pos_embed='none'), and a ViT here always has one")
    if strange := _strange_classes(model, cait):
        raise ValueError(f"this {kind} is made with {' and '.join(strange)}, which a ViT here does not have")
    if unknown := [*_unknown_in_model(model, cait), *_unknown_in_blocks(model, cait)]:
        raise ValueError(f"this {kind} has {' and '.join(unknown)}, which a ViT here does not have")


def is_cait(model: nn.Module) -> bool:
    """Whether a timm model has class attention after its trunk."""
    return hasattr(model, "blocks_token_only")


def all_blocks(model: Any, cait: bool) -> list[Any]:
    """The blocks of the trunk, and after them those of class attention."""
    return [*model.blocks, *(model.blocks_token_only if cait else ())]


def final_norm(model: Any) -> nn.Module | None:
    """The norm at the end, before or after pooling; None where there is none."""
    norms = (getattr(model, name, None) for name in ("fc_norm", "norm"))  # MAE's own class deletes `norm`
    return next((norm for norm in norms if not isinstance(norm, ABSENT)), None)


def classifier(head: nn.Module) -> nn.Linear | None:
    """The Linear of a head, alone or with dropout around it; None for an Identity.

    Raises:
        ValueError: for a head that is something else.
    """
    parts = [*head] if isinstance(head, nn.Sequential) else [head]
    rest = [part for part in parts if not isinstance(part, nn.Dropout | nn.Identity)]
    if not rest:
        return None
    if len(rest) > 1 or not isinstance(rest[0], nn.Linear):
        raise ValueError(
            f"the head is made of {', '.join(type(part).__name__ for part in parts)}, and a ViT's is one Linear: "
            "put nn.Identity() in its place, and apply your own head to the class token that the ViT then gives"
        )
    return rest[0]


def classifiers(model: Any) -> dict[str, nn.Linear | None]:
    """The Linear of each head, by the name of the token it reads; None in a model without classes."""
    heads = {POOLS[model.global_pool]: model.head}
    if hasattr(model, "head_dist"):
        heads["dist"] = model.head_dist
    found = {name: classifier(head) for name, head in heads.items()}
    shapes = {None if part is None else (part.out_features, part.in_features) for part in found.values()}
    if len(shapes) > 1 or not shapes <= {
        None,
        *((part.out_features, model.embed_dim) for part in found.values() if part),
    }:
        raise ValueError(
            f"the heads do not fit a width of {model.embed_dim}, or each other: "
            + ", ".join(f"{name} {part}" for name, part in found.items())
        )
    return found


def hooks(module: nn.Module) -> list[Callable]:
    """What runs before and after a module's own forward pass."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def dropout_rates(model: nn.Module) -> dict[str, float]:
    """Where dropout is at work in training, and how likely it is: by place, blocks counted as one."""
    rates = {}
    for name, part in model.named_modules():
        rate = getattr(part, "p" if isinstance(part, nn.Dropout) else "prob", 0.0)
        if isinstance(rate, float | int) and rate > 0 and "drop" in type(part).__name__.lower():
            place = ".".join("*" if word.isdigit() and name.startswith("blocks") else word for word in name.split("."))
            rates[place] = max(rate, rates.get(place, 0.0))
    return rates


def _strange_classes(model: Any, cait: bool) -> list[str]:
    from timm.layers import Mlp, PatchEmbed
    from timm.models import cait as timm_cait
    from timm.models import vision_transformer as vit

    trunk = (timm_cait.LayerScaleBlock, timm_cait.TalkingHeadAttn) if cait else (vit.Block, vit.Attention)
    ends = (timm_cait.LayerScaleBlockClassAttn, timm_cait.ClassAttn)
    parts = [(model.patch_embed, PatchEmbed)]
    for index, block in enumerate(all_blocks(model, cait)):
        kinds = trunk if index < len(model.blocks) else ends
        parts += [(block, kinds[0]), (getattr(block, "attn", None), kinds[1]), (getattr(block, "mlp", None), Mlp)]
    wrong = {type(part).__name__ for part, kind in parts if not isinstance(part, (kind, type(None)))}
    return sorted(wrong)


def _unknown_in_model(model: Any, cait: bool) -> Iterator[str]:
    patches, project = model.patch_embed, model.patch_embed.proj
    side, last = tuple(patches.patch_size), final_norm(model)
    layers = nn.Linear, nn.Conv2d, nn.LayerNorm
    for name, part in model.named_modules():
        more = (
            sorted({key for key, _ in part.named_parameters()} - {"weight", "bias"}) if isinstance(part, layers) else []
        )
        if more:  # LoRA, weight_norm and other parametrizations
            yield f"{', '.join(more)} in {name}, a {type(part).__name__} (merge them into its weight first)"
    plain = isinstance(project, nn.Conv2d) and (project.kernel_size, project.padding) == (project.stride, (0, 0))
    pools = {name: read for name, read in POOLS.items() if not cait or name == "token"}
    parts = {
        "a norm before the blocks": present(model, "norm_pre"),
        "a norm of patches": present(patches, "norm"),
        "attention pooling": present(model, "attn_pool"),
        "no norm at the end": last is None,
        "two norms at the end": present(model, "norm") and present(model, "fc_norm"),
        "norms that are not LayerNorm at the end": last is not None and not isinstance(last, nn.LayerNorm),
        f"patches of {side[0]}×{side[-1]} pixels, which are not square": side[0] != side[-1],
        "patches that overlap or are padded": not plain or project.stride != side,
        "a projection of patches without bias": getattr(project, "bias", None) is None,
        f"{model.global_pool!r} pooling": model.global_pool not in pools,
        "pooling over prefix tokens": getattr(model, "pool_include_prefix", False),
        "blocks without end": not len(model.blocks),
    }
    yield from (name for name, differs in parts.items() if differs)
    if isinstance(last, nn.LayerNorm) and (last.weight is None or last.bias is None):
        yield "a LayerNorm without weight or bias at the end"


def present(module: nn.Module, name: str) -> bool:
    """Whether a module has a part of that name which does something."""
    return not isinstance(getattr(module, name, None), ABSENT)


def _unknown_in_blocks(model: Any, cait: bool) -> Iterator[str]:
    blocks, last, seen = all_blocks(model, cait), final_norm(model), set()
    about_first, eps = _about(blocks[0], cait), getattr(last, "eps", None)
    for index, block in enumerate(blocks):
        unknown = [*_unknown_in_block(block, model.embed_dim)]
        for what, value in _about(block, cait).items() if index and not unknown else ():
            if value != about_first[what]:
                unknown.append(f"{value} {what}".strip() + f", where block 0 has {about_first[what]},")
        for name in ("norm1", "norm2"):
            norm = getattr(block, name)
            if isinstance(norm, nn.LayerNorm) and eps is not None and norm.eps != eps:
                unknown.append(f"a norm with eps {norm.eps}, where the one at the end has {eps},")
        for what in unknown:
            if what not in seen:
                seen.add(what)
                yield f"{what} in block {index}"


def _about(block: Any, cait: bool) -> dict[str, object]:
    """What all blocks of a `ViT` have in common."""
    scales = ("gamma_1", "gamma_2") if cait or hasattr(block, "gamma_1") else ("ls1", "ls2")
    qkv = block.attn.qkv if hasattr(block.attn, "qkv") else block.attn.q
    return {
        "heads": block.attn.num_heads,
        "hidden units in the MLP": block.mlp.fc1.out_features,
        "in the bias of queries and keys": "nothing" if qkv.bias is None else "something",
        "LayerScales": sum(present(block, name) for name in scales),
    }


def _unknown_in_block(block: Any, dim: int) -> Iterator[str]:
    attn, mlp = block.attn, block.mlp
    names = ("qkv", "proj", "proj_l", "proj_w", "q", "k", "v")
    linear = {name: getattr(attn, name) for name in names if hasattr(attn, name)} | {"fc1": mlp.fc1, "fc2": mlp.fc2}
    for name, part in linear.items():
        if not isinstance(part, nn.Linear):
            yield f"a {type(part).__name__} where {name} is a Linear (merge or replace it first)"
        elif part.bias is None and name not in ("qkv", "q", "k", "v"):
            yield f"a projection without bias ({name})"
    norms = (block.norm1, block.norm2)
    parts = {
        "norms that are not LayerNorm": not all(isinstance(norm, nn.LayerNorm) for norm in norms),
        "a LayerNorm without weight or bias": any(getattr(norm, name, 0) is None for norm in norms for name in _BOTH),
        "a norm of queries or keys": present(attn, "q_norm") or present(attn, "k_norm"),
        "a norm inside attention": present(attn, "norm"),
        "a gate in attention": present(attn, "gate"),
        "a norm inside the MLP": present(mlp, "norm"),
        "one LayerScale of two": present(block, "ls1") != present(block, "ls2"),
        "an activation that is not GELU": not is_gelu(mlp.act),
    }
    yield from (name for name, differs in parts.items() if differs)
    if (width := getattr(getattr(attn, "proj", None), "in_features", dim)) != dim:
        yield f"heads of {width} channels together, where a token has {dim},"


_BOTH = ("weight", "bias")


def is_gelu(activation: Any) -> bool:
    """Whether a module computes the exact GELU, whatever its class is called."""
    x = torch.linspace(-5, 5, 41, device="cpu", dtype=torch.float32)
    try:
        with torch.no_grad():
            return torch.allclose(activation.forward(x.clone()), F.gelu(x), rtol=0, atol=1e-6)
    except Exception:  # whatever somebody's class raises, it is not GELU alone
        return False


def refuse_another_function(model: nn.Module, convert: Callable[[nn.Module], nn.Module]) -> None:
    """A ValueError where a model and what it is converted to do not give the same logits on a random image.

    Both are compared as copies with random weights: no LayerScale or zeroed head can hide a part that differs. Neither
    the model nor any generator of random numbers is touched, and no hook of the model runs.

    Args:
        model: timm's.
        convert: what makes a `ViT` of it.
    """
    try:
        theirs: Any = copy.deepcopy(model).eval().float()
    except Exception as error:  # whatever somebody's class cannot copy
        what = f"cannot be copied ({first_line(error)}), to be compared"
        raise ValueError(f"this {type(model).__name__} {what}: {_UNCOMPARED}") from None
    for part in theirs.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    generator = torch.Generator("cpu").manual_seed(SEED)
    device = theirs.pos_embed.device
    for parameter in theirs.parameters():
        draw = torch.rand if parameter.ndim == 1 else torch.randn
        drawn = draw(parameter.shape, generator=generator, device="cpu", dtype=torch.float32)
        parameter.data.copy_(drawn + 0.5 if parameter.ndim == 1 else drawn / 20)
    ours = convert(theirs).eval()
    shape = (1, ours.config.channels, *ours.config.size)
    image = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32).to(device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        try:
            expected = theirs(image)
        except Exception as error:  # as above
            what = f"cannot compute an image of its size ({first_line(error)}), to be compared"
            raise ValueError(f"this {type(model).__name__} {what}: {_UNCOMPARED}") from None
        difference = _difference(ours(image), expected)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"this {type(model).__name__} computes something else than its parts say (its logits differ by "
            f"{difference:.2g} of their norm): does its class have its own forward or forward_head? {_UNCOMPARED}"
        )


_UNCOMPARED = "check=False converts the parts without comparing"


def _difference(ours: Tensor, theirs: Any) -> float:
    if not isinstance(theirs, Tensor) or ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).norm() / theirs.norm())
