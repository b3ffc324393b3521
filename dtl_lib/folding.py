"""LayerScale folded into the weights before it: the same function with fewer parameters."""

import copy
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from .layers import Block, LayerScale
from .models import ViT


def fold_layer_scale(model: ViT) -> ViT:
    """The same function without LayerScale: λ (W x + b) = (λ W) x + λ b (CaiT, §2, eq. 4; λ is diagonal).

    The last linear map of each branch takes its factors in. What is folded is for inference: trained further, it moves
    otherwise than the model it is from.

        >>> import torch
        >>> from dtl_lib import ViT, fold_layer_scale
        >>> model = ViT.build("vit_shapes_patch8_32", layer_scale=0.1).eval()
        >>> folded, images = fold_layer_scale(model), torch.randn(2, 3, 32, 32)
        >>> torch.allclose(folded(images), model(images), atol=1e-6), folded.config.layer_scale
        (True, None)

    Args:
        model: a `ViT`, which stays as it is; one without LayerScale gives a copy.

    Returns:
        A new model, whose configuration says that there is no LayerScale.

    Raises:
        ValueError: for what is no `ViT`, such as one inside DistributedDataParallel: fold the module inside.
    """
    if not isinstance(model, ViT):
        raise ValueError(f"fold_layer_scale takes a ViT (.module where it is wrapped), not a {type(model).__name__}")
    folded = copy.deepcopy(model)
    for block in cast(list[Block], folded.blocks):
        for name, last in (("scale1", block.attention.project), ("scale2", block.mlp.contract)):
            if isinstance(scale := getattr(block, name), LayerScale):
                _take_in(last, scale.factor)
                setattr(block, name, nn.Identity())
    folded.config = replace(folded.config, layer_scale=None, mlp_scale=True)
    return folded


@torch.no_grad()
def _take_in(linear: nn.Linear, factor: Tensor) -> None:
    factor = factor.double()
    linear.weight.copy_(linear.weight.double() * factor[:, None])
    if linear.bias is not None:
        linear.bias.copy_(linear.bias.double() * factor)
