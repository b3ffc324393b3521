"""`dtl plan`: when each token is there, and what that costs."""

from argparse import Namespace
from dataclasses import replace

from ..config import ViTConfig, named
from ..tokens import TokenPlan
from .parser import Parser
from .shared_flags import PLAIN_POOL, add_model, configured

SUMMARY = "Print which tokens are in the sequence at each block, and what that costs."
DEFAULT = "vit_tiny_patch16_224"


def flags(parser: Parser) -> None:
    """Which model."""
    add_model(parser, DEFAULT)


def main(args: Namespace) -> None:
    """Print the plan's timeline, and its cost beside the standard plan's."""
    config = configured(named(args.model or DEFAULT), args)
    cost, usual = config.cost(), standard(config).cost()
    (rows, columns), (height, width) = config.grid, config.image_size
    print(f"{config.plan}\n")
    print(f"images of {height}×{width} pixels, {rows}×{columns} patches; width {config.dim}, {config.heads} heads\n")
    table = [
        ("multiply–adds an image, M", cost.total / 1e6, usual.total / 1e6),
        ("parameters, M", cost.parameters / 1e6, usual.parameters / 1e6),
        ("activations an image, MiB", cost.activation_bytes / 2**20, usual.activation_bytes / 2**20),
    ]
    print(f"{'':27}{'this plan':>12}{'standard':>12}{'ratio':>9}")
    for name, this, other in table:
        print(f"{name:27}{this:12,.2f}{other:12,.2f}{this / other:9.4f}")


def standard(config: ViTConfig) -> ViTConfig:
    """The same model without registers, its class token there from the first block on (CaiT: after the trunk)."""
    blocks = config.plan.class_blocks
    return replace(
        config,
        plan=TokenPlan.of(config.depth, config.depth if blocks else 0, class_blocks=blocks),
        **PLAIN_POOL,
    )
