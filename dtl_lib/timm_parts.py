"""What a live timm model is made of: a part that a `ViT` does not have is refused by its name, with its block."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .checks import first_line
from .timm_layers import ABSENT, about_block, norms_of, present, unknown_in_block, unknown_in_pool, unknown_in_rotary

POOLS = {"token": "cls", "avg": "patches", "map": "attention", False: "cls", True: "patches"}  # MAE's own: with a bool
WRAPPERS = ("module", "_orig_mod", "base_model")  # where DataParallel, torch.compile and peft keep the model
TOLERANCE = 1e-4  # of the logits' norm, float32; rounding alone stays below 5e-6
SEED = 0  # of the weights and the image that two models are compared on


def refuse_unknown(model: Any, cait: bool) -> None:
    """A ValueError that names the parts of a timm model that a `ViT` does not have."""
    from timm.models.cait import Cait
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    kind = type(model).__name__
    if not isinstance(model, VisionTransformer | Cait | Eva):
        wrapped = next((name for name in WRAPPERS if hasattr(model, name)), None)
        hint = f": give the model inside, .{wrapped} (LoRA: merge it first)" if wrapped else ""
        raise ValueError(f"from_timm takes timm's ViT, DeiT, CLIP, DINO, EVA and CaiT models, not a {kind}{hint}")
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
    heads = {"cls" if POOLS[model.global_pool] == "cls" else "patches": model.head}
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
    from timm import layers
    from timm.models import cait as timm_cait
    from timm.models import eva
    from timm.models import vision_transformer as vit

    mlps = layers.Mlp, layers.GluMlp, layers.SwiGLU
    attention = vit.Attention, eva.EvaAttention, layers.AttentionRope
    trunk = (timm_cait.LayerScaleBlock, timm_cait.TalkingHeadAttn) if cait else ((vit.Block, eva.EvaBlock), attention)
    ends = (timm_cait.LayerScaleBlockClassAttn, timm_cait.ClassAttn)
    parts = [(model.patch_embed, layers.PatchEmbed)]
    for index, block in enumerate(all_blocks(model, cait)):
        kinds = trunk if index < len(model.blocks) else ends
        parts += [(block, kinds[0]), (getattr(block, "attn", None), kinds[1]), (getattr(block, "mlp", None), mlps)]
    if model.global_pool == "map":
        parts += [(model.attn_pool, layers.AttentionPoolLatent)]
    absent = type(None)
    return sorted({type(part).__name__ for part, kind in parts if not isinstance(part, (kind, absent))})


def _unknown_in_model(model: Any, cait: bool) -> Iterator[str]:
    patches, project = model.patch_embed, model.patch_embed.proj
    side = tuple(patches.patch_size)
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
        "two norms at the end": present(model, "norm") and present(model, "fc_norm"),
        f"patches of {side[0]}×{side[-1]} pixels, which are not square": side[0] != side[-1],
        "patches that overlap or are padded": not plain or project.stride != side,
        f"{model.global_pool!r} pooling": model.global_pool not in pools,
        "attention pooling besides": present(model, "attn_pool") and model.global_pool != "map",
        "blocks without end": not len(model.blocks),
    }
    yield from (name for name, differs in parts.items() if differs)
    if model.global_pool == "map" and not cait:
        yield from unknown_in_pool(model)
    if present(model, "rope"):
        yield from unknown_in_rotary(model.rope)
    reference = reference_norm(model)
    norms = {
        "norm": final_norm(model),
        "before": getattr(model, "norm_pre", None),
        "patches": getattr(patches, "norm", None),
    }
    for what in norms_of(norms, reference):
        yield f"{what} before or after the blocks"


def reference_norm(model: Any) -> Any:
    """The norm that every other has to be like: the one at the end, or where there is none, block 0's first."""
    last = final_norm(model)
    return model.blocks[0].norm1 if last is None and len(model.blocks) else last


def _unknown_in_blocks(model: Any, cait: bool) -> Iterator[str]:
    blocks, reference, seen = all_blocks(model, cait), reference_norm(model), set()
    about_first = about_block(blocks[0])
    for index, block in enumerate(blocks):
        unknown = [*unknown_in_block(block, model.embed_dim, reference)]
        for what, value in about_block(block).items() if index and not unknown else ():
            if value != about_first[what]:
                unknown.append(f"{value}, where block 0 has {about_first[what]},")
        for what in unknown:
            if what not in seen:
                seen.add(what)
                yield f"{what} in block {index}"


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
    device = next(theirs.parameters()).device
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
