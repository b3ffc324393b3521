"""From flags to a configuration."""

from argparse import Namespace
from dataclasses import replace

from ..config import ViTConfig
from ..tokens import TokenPlan
from .flags import CONFIG, PLAN, given


def configured(base: ViTConfig, args: Namespace) -> ViTConfig:
    """`base` with the tokens and fields that were given as flags."""
    fields = given(args, CONFIG)
    if (fields.get("layer_scale") or 0) < 0:  # a trained one may be, and is kept as the model's
        raise ValueError(f"layer_scale is 0 or more, or none, not {fields['layer_scale']}")
    depth = fields.get("depth", base.depth)
    tokens = given(args, PLAN)
    if tokens or depth != base.depth:
        plan = TokenPlan.of(depth, **{**_numbers(base.plan, depth), **tokens})
        fields |= {"plan": plan, "depth": depth}
        if plan.group("cls") is None:
            fields.setdefault("pool", "patches")
        elif base.plan.group("cls") is None:
            fields = {"pool": "cls", "norm_after_pool": False, **fields}
    return replace(base, **fields)


def standard(config: ViTConfig) -> ViTConfig:
    """The same model without registers, its class token there from the first block on (CaiT: after the trunk)."""
    blocks = config.plan.class_blocks
    return replace(
        config,
        plan=TokenPlan.of(config.depth, config.depth if blocks else 0, class_blocks=blocks),
        pool="cls",
        norm_after_pool=False,
    )


def _numbers(plan: TokenPlan, depth: int) -> dict:
    """The five numbers of a plan that `TokenPlan.of` makes; what enters after the trunk still does."""
    cls, reg = plan.group("cls"), plan.group("reg")

    def enter(group):
        return group and (depth if group.enter == plan.depth else group.enter)

    return {
        "cls_pos": enter(cls), "reg_pos": enter(reg), "num_reg": reg.tokens if reg else 0,
        "dist": plan.group("dist") is not None, "class_blocks": plan.class_blocks,
    }  # fmt: skip
