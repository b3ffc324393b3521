"""timm's model of the same configuration, and the two in alternating rounds."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from ...checks import whole
from ...config import ViTConfig
from ...pretrained import from_timm
from ...tokens import TokenPlan
from .pairs import Ratio, measure, ratio
from .step import BenchConfig, make_step, trainable


@dataclass(frozen=True)
class Against:
    """Ours and timm's in the same rounds.

    Attributes:
        same: whether timm's is the same function; of tokens that move it has only the standard model.
        speed: timm's time over ours.
        control: timm's over that of a copy of it: what a difference of nothing looks like.
        seconds: of each round, by name.
    """

    same: bool
    speed: Ratio
    control: Ratio
    seconds: dict[str, np.ndarray]

    def __str__(self) -> str:
        what = (
            "timm's model of the same function"
            if self.same
            else "timm's standard model (it has none whose tokens move)"
        )
        return f"{self.speed} times the speed of {what}; a copy of timm's: {self.control} (n = {self.speed.n} rounds)"


def against_timm(config: ViTConfig, batch_size: int, *, rounds: int = 20, **how) -> Against:
    """Time our model and timm's in alternating rounds, with the same weights where they are the same function.

    Args:
        config: ours.
        batch_size: images a step.
        rounds: each runs ours, timm's and a copy of timm's once.
        how: the other fields of `BenchConfig`.

    Raises:
        ValueError: where timm has no such model.
    """
    rounds = whole("rounds", rounds)
    how = BenchConfig(batch_size, **how)
    config = trainable(config) if how.training else config
    theirs = timm_of(config)
    ours = from_timm(theirs) if (same := is_standard_plan(config)) else None
    models = {"timm": theirs, "timm, a copy": timm_of(config), "ours": ours}
    seconds = measure({name: make_step(config, how, model) for name, model in models.items()}, rounds, how.device)
    return Against(same, ratio(seconds, "timm", "ours"), ratio(seconds, "timm", "timm, a copy"), seconds)


def is_standard_plan(config: ViTConfig) -> bool:
    """Whether every token is where timm has it: from the first block to the end, CaiT's class token after the trunk."""
    return config.plan in (_standard(config), _standard(config, registers=True))


def timm_of(config: ViTConfig) -> nn.Module:
    """timm's model of a configuration, with fresh weights; with the standard plan where tokens move.

    Raises:
        ValueError: where timm has none.
    """
    from timm.models.cait import Cait
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    if other := (*config.variants, *(["pool"] if config.pool == "attention" else [])):
        raise ValueError(f"timm's plain ViT is compared, and this one has {', '.join(other)}: choose another --model")
    plan = config.plan if is_standard_plan(config) else _standard(config)
    common = {
        "img_size": config.image_size, "patch_size": config.patch_size, "in_chans": config.channels,
        "num_classes": config.classes, "embed_dim": config.dim, "depth": config.depth, "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio, "qkv_bias": config.qkv_bias, "drop_path_rate": config.drop_path,
        "init_values": config.layer_scale,
    }  # fmt: skip
    if config.talking_heads or plan.class_blocks:
        if not (config.talking_heads and plan.class_blocks and config.layer_scale is not None):
            raise ValueError(
                "timm has talking heads, class attention and LayerScale together, as in CaiT, or not at all"
            )
        return Cait(**common, depth_token_only=plan.class_blocks, mlp_ratio_token_only=config.mlp_ratio)
    if plan.group("dist"):
        return VisionTransformerDistilled(**common)
    registers = plan.group("reg").tokens if plan.group("reg") else 0
    pooling = {"global_pool": "token" if config.pool == "cls" else "avg", "class_token": bool(plan.group("cls"))}
    return VisionTransformer(**common, **pooling, reg_tokens=registers, fc_norm=config.norm_after_pool)


def _standard(config: ViTConfig, registers: bool = False) -> TokenPlan:
    """The plan of timm's model; with the registers that there are where it knows any."""
    plan = config.plan
    cls, dist, reg = (plan.group(name) for name in ("cls", "dist", "reg"))
    keep = registers and reg and not dist and not plan.class_blocks
    start = None if cls is None else config.depth if plan.class_blocks else 0
    return TokenPlan.of(
        config.depth, start, 0 if keep else None, reg.tokens if keep else 0, bool(dist), plan.class_blocks
    )
