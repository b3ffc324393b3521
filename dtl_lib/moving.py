"""Hidden neurons whose activation moves to other tokens, as `ViTConfig.moved` says, or for a while."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from .config import ViTConfig
from .tokens import MOVED_TO, PATCHES


class Mover:
    """Goes before the second matrix of a block's MLP, and moves some neurons' activations, image by image.

    Each neuron's largest activation among the patches and the group `test` becomes that of the group, and every other
    token's becomes 0 (Jiang et al. 2025, Vision Transformers Don't Need Trained Registers, §4). Where the group has
    left, all become 0.

    Args:
        layout: the token plan's, of that block.
        neurons: pairs (neuron, sign); the sign is −1 for one that works with negative activations.
    """

    def __init__(self, layout: Mapping[str, slice], neurons: Sequence[tuple[int, int]]):
        self.new, self.patches = layout.get(MOVED_TO), layout[PATCHES]
        self.numbers = [number for number, _ in neurons]
        self.signs = [float(sign) for _, sign in neurons]

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        """A forward pre-hook: what the second matrix would read, `(batch, tokens, neurons)` → what it reads."""
        hidden = given[0]
        moved, signs = hidden.clone(), hidden.new_tensor(self.signs)
        moved[..., self.numbers] = 0
        all_there = hidden.shape[1] > self.patches.start  # in the last block what the head reads may be all there is
        if all_there and self.new is not None:
            there = torch.cat([hidden[:, where, self.numbers] for where in (self.new, self.patches)], dim=1)
            moved[:, self.new, self.numbers] = signs * (signs * there).amax(dim=1, keepdim=True)
        return moved


def movers(config: ViTConfig) -> Iterator[tuple[int, Mover]]:
    """The blocks with neurons that move, and what goes before the second matrix of each."""
    for block in sorted({block for block, _, _ in config.moved}):
        neurons = [(neuron, sign) for where, neuron, sign in config.moved if where == block]
        yield block, Mover(config.plan.layout(block), neurons)
