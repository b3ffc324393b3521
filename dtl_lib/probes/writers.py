"""Which direction does a block's branch amplify most, as its weights alone say?"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..checks import check_finite
from ..layers import Block, LayerScale, Mlp
from ..models import ViT
from ..recordable import unwrapped

BRANCHES = ("attention", "mlp")


@dataclass(frozen=True)
class Writers:
    """The leading direction of each branch of each block of the trunk.

    Attributes:
        gains: how much longer a branch makes, at most, what its norm gives it, `(depth, 2)`, attention first.
        directions: what it then adds, unit vectors, `(depth, 2, dim)`; their sign is arbitrary.
        block, branch: where the gain is largest.
    """

    gains: Tensor
    directions: Tensor

    @property
    def block(self) -> int:
        return int(self.gains.argmax()) // len(BRANCHES)

    @property
    def branch(self) -> str:
        return BRANCHES[int(self.gains.argmax()) % len(BRANCHES)]

    @property
    def direction(self) -> Tensor:
        """The direction of the largest gain, `(dim,)`."""
        return self.directions.flatten(0, 1)[self.gains.argmax()]


def predict_direction(model: ViT) -> Writers:
    """Where high-norm tokens would be written, and in which direction, from the weights alone.

    A branch is read as if it were linear: its norm's weights, then the product of its matrices without what stands
    between them (the softmax, the activation), then LayerScale's factors where there are any. The leading left singular
    vector is what it amplifies most; SINDER (Wang et al. 2024) finds DINOv2's outliers along it. This says where
    outliers would be, and not that there are any: every model has a largest gain.

        >>> from dtl_lib import load_pretrained, probes
        >>> writers = probes.predict_direction(load_pretrained("zoo/shapes_depth6"))
        >>> tuple(writers.gains.shape), tuple(writers.direction.shape), writers.branch
        ((6, 2), (64,), 'mlp')

    Args:
        model: a `ViT`; of a SwiGLU the half that is gated counts, as if every gate were open.

    Raises:
        ValueError: for a model that is no `ViT`, and non-finite weights.
    """
    model, _ = unwrapped(model)
    found = [_leading(matrix) for block in model.blocks[: model.plan.depth] for matrix in _branches(cast(Block, block))]
    gains = torch.stack([gain for gain, _ in found]).reshape(-1, len(BRANCHES))
    return Writers(gains, torch.stack([way for _, way in found]).reshape(*gains.shape, -1))


def _leading(matrix: Tensor) -> tuple[Tensor, Tensor]:
    check_finite(matrix)
    left, values, _ = torch.linalg.svd(matrix)
    return values[0].float(), left[:, 0].float()


@torch.no_grad()
def _branches(block: Block) -> tuple[Tensor, Tensor]:
    """The two branches as matrices, `(dim, dim)` each, float64 on the CPU."""
    values = _matrix(block.attention.qkv).chunk(3)[2]
    mlp = cast(Mlp, block.mlp)
    expand, contract = _matrix(mlp.expand), _matrix(mlp.contract)
    attention = _matrix(block.attention.project) @ values @ _norm(block.norm1)
    return (
        _scaled(block.scale1, attention),
        _scaled(block.scale2, contract @ expand[-contract.shape[1] :] @ _norm(block.norm2)),
    )


def _matrix(linear: nn.Linear) -> Tensor:
    weight = linear.weight.double().cpu()
    norm = getattr(linear, "norm", None)  # a NormedLinear's
    return weight if norm is None else weight @ _norm(norm)


def _norm(norm: nn.Module) -> Tensor:
    """What a norm does besides dividing by a length: centring, and its weights."""
    weight = cast(Tensor, norm.weight).double().cpu()
    centred = torch.eye(len(weight), dtype=torch.float64)
    if isinstance(norm, nn.LayerNorm):
        centred -= 1 / len(weight)
    return weight[:, None] * centred


def _scaled(scale: nn.Module, matrix: Tensor) -> Tensor:
    return scale.factor.double().cpu()[:, None] * matrix if isinstance(scale, LayerScale) else matrix
