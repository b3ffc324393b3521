"""What each block does to the residual stream: its length, its gradient, and how much a branch adds to it."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import ClassAttention
from ..models import ViT


@dataclass(frozen=True)
class Signal:
    """The residual stream and its gradient by block; float32, on the CPU.

    Attributes:
        stream: mean length of a token before each block, and after the last: `(blocks + 1,)`.
        gradient: mean length, over images, of the gradient of an image's loss there: `(blocks + 1,)`.
        attention, mlp: length of what a branch adds to a token over that of the token: means, `(blocks,)`.
    """

    stream: Tensor
    gradient: Tensor
    attention: Tensor
    mlp: Tensor

    def to_dict(self) -> dict[str, list[float]]:
        """Lists of numbers, by name, for a record."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}


def signal(model: ViT, images: Tensor, labels: Tensor) -> Signal:
    """How long the tokens are before and after each block, how long the loss's gradient is there, and what a branch
    adds, LayerScale included (He et al. 2016, Identity mappings, §2, eq. 5; CaiT, §2).

    The branches are taken before stochastic depth. Of the last block all tokens are computed. In class attention, only
    the tokens that are updated count for the ratios.

        >>> import torch
        >>> from dtl_lib import ViT, probes
        >>> model = ViT.build("vit_shapes_patch8_32", layer_scale=1e-4).eval()
        >>> found = probes.signal(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
        >>> tuple(found.stream.shape), bool(found.attention.max() < 1e-3)
        ((5,), True)

    Args:
        model: a `ViT`; its weights and their gradients stay as they are.
        images: `(batch, channels, height, width)`.
        labels: classes `(batch,)`, of the cross-entropy.
    """
    inputs: list[Tensor] = []
    ratios: dict[str, list[Tensor]] = {"scale1": [], "scale2": []}

    def enter(block: nn.Module, args: tuple) -> tuple:
        x = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
        inputs.append(x)
        return x, *args[1:]

    def branch(name: str, block: nn.Module, added: Tensor) -> None:
        x = inputs[-1].detach()
        x = x[:, block.queries] if isinstance(block, ClassAttention) else x
        if name == "scale2":
            x = x + kept.pop()
        else:
            kept.append(added.detach())
        ratios[name].append((added.detach().float().norm(dim=-1) / x.float().norm(dim=-1)).mean())

    kept: list[Tensor] = []
    handles, before = [], model.all_queries
    for block in model.blocks:
        handles.append(block.register_forward_pre_hook(enter))
        for name in ratios:
            call = lambda _, args, output, name=name, block=block: branch(name, block, output)  # noqa: E731
            handles.append(getattr(block, name).register_forward_hook(call))
    last = model.blocks[-1].register_forward_hook(lambda _, args, output: inputs.append(output))
    try:
        model.all_queries = True
        with torch.enable_grad():
            loss = F.cross_entropy(model(images).float(), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, inputs)
    finally:
        model.all_queries = before
        for handle in (*handles, last):
            handle.remove()
    stream = torch.stack([x.detach().float().norm(dim=-1).mean() for x in inputs])
    gradient = torch.stack([part.float().flatten(1).norm(dim=1).mean() for part in gradients])
    attention, mlp = (torch.stack(ratios[name]) for name in ("scale1", "scale2"))
    return Signal(*(part.cpu() for part in (stream, gradient, attention, mlp)))
