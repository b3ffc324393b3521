"""Which values of a configuration fit together, and which names they may have."""

from typing import TYPE_CHECKING

from .checks import shortened
from .tokens import MAX_BLOCKS, MOVED_TO, TokenPlan

if TYPE_CHECKING:
    from .config import ViTConfig

MAX_SIDE = 2**16  # pixels
LIMITS = {  # beyond what anybody trains, and within what a machine can be asked for
    "patch_size": (1, MAX_SIDE), "channels": (1, 1024), "dim": (1, 2**16), "depth": (1, MAX_BLOCKS),
    "heads": (1, 2**16), "classes": (0, 10**7),
}  # fmt: skip
CHOICES = {
    "pool": ("cls", "patches", "attention"),
    "drop_path_schedule": ("linear", "uniform"),
    "positions": ("learned", "sincos", "none"),
    "norm": ("layer", "rms"),
    "mlp": ("gelu", "gelu_tanh", "quick_gelu", "swiglu"),
    "rotary": (None, "axial", "centred", "mixed"),
}


def check(config: "ViTConfig") -> None:
    """A ValueError where a configuration's values do not fit together, with what would be right."""
    for name, choices in CHOICES.items():
        if getattr(config, name) not in choices:
            known = ", ".join("none" if choice is None else choice for choice in choices)
            raise ValueError(f"{name} is one of {known}, not {shortened(getattr(config, name))}")
    for name in ("mean", "std"):  # one number is of every channel
        if len(getattr(config, name)) not in (1, 3, config.channels):
            raise ValueError(f"{name} is one number a channel, {config.channels} here, not {getattr(config, name)}")
    if not all(value > 0 for value in config.std):
        raise ValueError(f"std is one number a channel, above 0, such as (0.5, 0.5, 0.5), not {config.std}")
    if not 0 < config.norm_eps < 1:
        raise ValueError(f"norm_eps is a small number above 0, such as 1e-6, not {config.norm_eps}")
    if not 0 < config.crop <= 1:
        raise ValueError(
            f"crop is the fraction of an image's side that is kept, above 0 and at most 1, not {config.crop}"
        )
    if config.dim * config.mlp_ratio > LIMITS["dim"][1] * 16:
        raise ValueError(f"mlp_ratio is the MLP's width over dim (4 is usual), not {config.mlp_ratio}")
    if config.dim * config.mlp_ratio < 1:
        raise ValueError(f"mlp_ratio is the MLP's width over dim (4 is usual), not {config.mlp_ratio}")
    if config.dim % config.heads:
        fit = (heads for heads in range(1, config.dim + 1) if config.dim % heads == 0)
        best = min(fit, key=lambda heads: abs(heads - config.heads))
        raise ValueError(
            f"dim has to be divisible by heads: {config.dim} is not divisible by {config.heads}; heads={best} would fit"
        )
    if not 0 <= config.drop_path < 1:
        raise ValueError(f"drop_path is a probability from 0 to below 1, not {config.drop_path}")
    if config.positions == "sincos" and config.dim % 4:
        raise ValueError(f"2-D sin–cos positions need a dim divisible by 4, not {config.dim}")
    if not isinstance(config.plan, TokenPlan):
        raise ValueError(f"plan is a TokenPlan, such as TokenPlan.of({config.depth}), not {config.plan!r}")
    if config.plan.depth != config.depth:
        raise ValueError(f"the plan is for {config.plan.depth} blocks and depth is {config.depth}: make them agree")
    if config.pool == "cls" and config.plan.group("cls") is None:
        raise ValueError('pool="cls" reads a class token and the plan has none: give cls_pos, or pool="patches"')
    if config.pool != "cls" and config.plan.class_blocks:
        raise ValueError('class attention updates the class token alone: use pool="cls", or class_blocks=0')
    _check_pool(config)
    _check_rotary(config)
    _check_moved(config)
    config.grid_of(*config.size)


def _check_pool(config: "ViTConfig") -> None:
    if config.norm_after_pool and config.pool != "patches":
        raise ValueError('norm_after_pool goes with pool="patches"; what else is read is normalised before')
    if config.pool_prefix and config.pool == "cls":
        raise ValueError('pool_prefix goes with pool="patches" or "attention"; a class token is read alone')
    if config.pool != "attention" and (config.pool_heads, config.pool_mlp_ratio) != (None, None):
        raise ValueError('pool_heads and pool_mlp_ratio go with pool="attention"')
    heads = config.heads if config.pool_heads is None else config.pool_heads
    if heads < 1 or config.dim % heads:
        raise ValueError(f"dim has to be divisible by pool_heads: {config.dim} is not divisible by {heads}")
    if not 1 <= config.pool_hidden <= LIMITS["dim"][1] * 16:
        raise ValueError(f"pool_mlp_ratio is that MLP's width over dim (4 is usual), not {config.pool_mlp_ratio}")


def _check_rotary(config: "ViTConfig") -> None:
    if config.rotary is None:
        return
    if config.plan.class_blocks:
        raise ValueError("rotary positions go with a trunk alone: set class_blocks=0, or leave rotary out")
    if config.dim // config.heads % 4:
        raise ValueError(f"rotary positions need heads of a width divisible by 4, not {config.dim // config.heads}")
    if not config.rotary_temperature > 0:
        raise ValueError(f"rotary_temperature is above 0, 100 or 10,000 as a rule, not {config.rotary_temperature}")
    if config.rotary_reference and (min(config.rotary_reference) < 1 or config.rotary == "centred"):
        raise ValueError("rotary_reference is (rows, columns), of 1 or more, and goes with axial or mixed ones")
    if config.rotary == "mixed" and (config.rotary_columns_first or config.rotary_halves):
        raise ValueError("mixed frequencies are learned, each pair's row and column: leave the order of channels out")


def _check_moved(config: "ViTConfig") -> None:
    places = [tuple(one[:2]) for one in config.moved]
    for one in config.moved:
        if len(one) != 3 or one[2] not in (1, -1):
            raise ValueError(f"a moved neuron is (block, neuron, sign), with a sign of 1 or -1, not {shortened(one)}")
        block, neuron, _ = one
        if not (0 <= block < config.depth and 0 <= neuron < config.hidden) or places.count((block, neuron)) > 1:
            raise ValueError(
                f"moved neurons are in blocks 0 … {config.depth - 1}, {config.hidden} in each, and are named once: not "
                f"{shortened(one)}"
            )
    if not config.moved:
        return
    group, first = config.plan.group(MOVED_TO), min(block for block, _ in places)
    if group is None or group.enter > first:
        raise ValueError(
            f"neurons from block {first} on move to a group called {MOVED_TO!r}, which the plan does not have by then: "
            f"keep it, or set moved=()"
        )
