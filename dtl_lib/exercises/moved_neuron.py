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


def move_mistakes(hidden: Tensor, neurons: Sequence[int], new: slice, patches: slice) -> dict[str, Tensor]:
    """What wrong answers to `my_move` give, by the hint that names the mistake."""
    given = (hidden, neurons, new, patches)

    def put(value: Callable[[Tensor], Tensor]) -> Tensor:
        return moves(value)(*given)

    def among(tokens: Tensor) -> Tensor:
        return put(lambda there: tokens.amax(dim=1, keepdim=True))

    chosen = hidden[:, :, neurons]
    largest = torch.cat([chosen[:, new], chosen[:, patches]], dim=1)
    in_size = largest.gather(1, largest.abs().argmax(dim=1, keepdim=True))
    every, first = torch.zeros_like(hidden), move(*given)
    every[:, new] = torch.cat([hidden[:, new], hidden[:, patches]], dim=1).amax(dim=1, keepdim=True)
    first[:, new.start + 1 : new.stop, neurons] = 0
    return {
        "nothing has moved": hidden,
        "the maximum runs over the batch as well: each photo has its own": over_batch(*given),
        "of the batch, only the first photo is changed": first_alone(*given),
        "that is the mean over the patches: the largest activation moves": put(
            lambda there: there.mean(dim=1, keepdim=True)
        ),
        "that is the sum over the patches: the largest activation moves": put(
            lambda there: there.sum(dim=1, keepdim=True)
        ),
        "the maximum runs over the neurons as well: each has its own": put(
            lambda there: there.amax(dim=(1, 2), keepdim=True)
        ),
        "the class token's activation counts in the maximum: only patches and the new tokens are asked": among(chosen),
        "every token but the class token counts in the maximum: only patches and the new tokens are asked": among(
            chosen[:, 1:]
        ),
        "the new tokens' own activations have to count in the maximum": among(chosen[:, patches]),
        "the largest in size is taken: the largest of -3 and -1 is -1": put(lambda there: in_size),
        "an activation below 0 is replaced by 0: where all are below 0, the largest is, too": put(
            lambda there: there.amax(dim=1, keepdim=True).clamp(min=0)
        ),
        "the patches keep their activation: it is copied, not moved": kept(*given, zero=[]),
        "only the patches' activations are set to 0: every other token's become 0, the class token's too": kept(
            *given, zero=[patches]
        ),
        "the patches keep theirs: every other token's becomes 0": kept(*given, zero=[slice(0, 1)]),
        "a token that is neither new nor a patch keeps its activation: every other token's becomes 0": kept(
            *given, zero=[slice(0, 1), patches]
        ),
        "the new tokens get nothing: the activation is set to 0 and not moved": put(
            lambda there: torch.zeros_like(there[:, :1])
        ),
        "all neurons have moved: only those in `neurons` do": every,
        "only one of the new tokens has got it: each of them does": first,
    }
