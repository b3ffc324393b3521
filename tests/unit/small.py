"""A small ViT for tests, images for it, and two ways to look at or disturb its stream."""

from contextlib import contextmanager

import torch

from dtl_lib.models import ViT, ViTConfig
from tests.unit.fixed import noise

SMALL = ViTConfig(image_size=(8, 12), patch_size=4, dim=12, depth=3, heads=3, classes=5)


def build(config: ViTConfig) -> ViT:
    """In float64, with no parameter at its first value."""
    model = ViT(config).double().eval()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(0.2 + 0.3 * noise(*parameter.shape, seed=seed))
    return model


def images(config: ViTConfig, batch: int = 2, seed: int = 5) -> torch.Tensor:
    return noise(batch, config.channels, *config.image_size, seed=seed)


@contextmanager
def block_inputs(model: ViT):
    """What each block is given, in order."""
    seen = []
    hooks = [block.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach())) for block in model.blocks]
    yield seen
    for hook in hooks:
        hook.remove()


@contextmanager
def disturbed(model: ViT, block: int, where: slice):
    """The rows `where` of a block's output replaced by noise."""

    def replace_rows(module, args, output):
        output = output.clone()
        output[:, where] = noise(*output[:, where].shape, seed=99)
        return output

    hook = model.blocks[block].register_forward_hook(replace_rows)
    yield
    hook.remove()
