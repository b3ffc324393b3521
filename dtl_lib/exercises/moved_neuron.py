"""Chapter 17: a model in which one neuron is known to make patches long, and moves of its work, right and wrong."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..config import ViTConfig
from ..models import ViT

BLOCK, NEURON = 2, 11


def planted() -> tuple[ViT, Tensor, Tensor]:
    """A ViT of four blocks whose neuron 11 of block 2 makes red patches long, three images, and which patches are red.

    Returns:
        the model; images `(3, 3, 32, 32)`; bool `(3, 4, 4)`.
    """
    drawn = torch.Generator().manual_seed(0)
    model = ViT(ViTConfig(32, 8, dim=24, depth=4, heads=3, classes=5)).eval()
    bright = torch.randn(24, generator=drawn)
    bright = (bright - bright.mean()) / bright.std(correction=0)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.copy_(0.02 * torch.randn(value.shape, generator=drawn))
        model.patch_embed.project.weight.zero_()
        model.patch_embed.project.weight[:, 0] = 0.2 * bright[:, None, None] / 64
        mlp = model.blocks[BLOCK].mlp
        mlp.expand.weight[NEURON], mlp.expand.bias[NEURON] = 60 * bright / 24, -40
        mlp.contract.weight[:, NEURON] = bright.roll(1)
    images = 0.05 * torch.randn(3, 3, 32, 32, generator=drawn)
    red = torch.zeros(3, 4, 4, dtype=torch.bool)
    for number, (row, column) in enumerate(((0, 1), (1, 3), (2, 1))):
        images[number, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
        red[number, row, column] = True
    return model, images, red


def move(hidden: Tensor, neurons: Sequence[int], new: slice, patches: slice) -> Tensor:
    """The plain answer to `my_move`."""
    moved = hidden.clone()
    there = torch.cat([hidden[:, new, neurons], hidden[:, patches, neurons]], dim=1)
    moved[:, :, neurons] = 0
    moved[:, new, neurons] = there.amax(dim=1, keepdim=True)
    return moved


def moves(value: Callable[[Tensor], Tensor]) -> Callable:
    """A move whose new value is another function of the neurons' activations `(batch, tokens, chosen)`."""

    def wrong(hidden: Tensor, neurons: Sequence[int], new: slice, patches: slice) -> Tensor:
        moved = hidden.clone()
        there = torch.cat([hidden[:, new, neurons], hidden[:, patches, neurons]], dim=1)
        moved[:, :, neurons] = 0
        moved[:, new, neurons] = value(there).expand_as(moved[:, new, neurons])
        return moved

    return wrong


def first_alone(hidden: Tensor, neurons: Sequence[int], new: slice, patches: slice) -> Tensor:
    """A mistake: of a batch, only the first image is changed."""
    return torch.cat([move(hidden[:1], neurons, new, patches), hidden[1:]])


over_batch = moves(lambda there: there.amax(dim=(0, 1), keepdim=True))


def kept(hidden: Tensor, neurons: Sequence[int], new: slice, patches: slice, zero: Sequence[slice]) -> Tensor:
    """Only these tokens' activations are set to 0."""
    right, moved = move(hidden, neurons, new, patches), hidden.clone()
    for tokens in zero:
        moved[:, tokens, neurons] = 0
    moved[:, new, neurons] = right[:, new, neurons]
    return moved
