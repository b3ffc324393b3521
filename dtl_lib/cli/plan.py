"""`dtl plan`: when each token is there, and what that costs."""

from argparse import Namespace

from ..config import named
from .configure import configured, standard

DEFAULT = "vit_tiny_patch16_224"


def main(args: Namespace) -> None:
    """Print the plan's timeline, and its cost beside the standard plan's."""
    config = configured(named(args.model or DEFAULT), args)
    usual = standard(config)
    rows, columns = config.grid
    height, width = config.image_size
    print(f"{config.plan}\n")
    print(f"width {config.dim}, {config.heads} heads, {rows}×{columns} patches of {height}×{width} pixels\n")
    ours, theirs = config.cost(), usual.cost()
    table = [
        ("multiply–adds an image, M", ours.total / 1e6, theirs.total / 1e6),
        ("parameters, M", ours.parameters / 1e6, theirs.parameters / 1e6),
        ("activations an image, MiB", ours.activation_bytes / 2**20, theirs.activation_bytes / 2**20),
    ]
    print(f"{'':27}{'this plan':>12}{'standard':>12}{'ratio':>9}")
    for name, mine, other in table:
        print(f"{name:27}{mine:12,.2f}{other:12,.2f}{mine / other:9.4f}")
