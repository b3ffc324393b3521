"""Outliers planted into a model, so that it is known which patches they are, and wrong detectors that miss them."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F

from dtl_lib import load_pretrained
from dtl_lib.models import ViT
from tests.unit.fixed import noise


def random_mask(batch: int, grid: tuple[int, int], share: float, seed: int = 0) -> torch.Tensor:
    """Two patches at least; rows and columns drawn alone, so that a transposed mask is another."""
    drawn = torch.rand(batch, *grid, generator=torch.Generator().manual_seed(seed)) < share
    drawn[0, 0, -1] = drawn[-1, -1, 1] = True
    return drawn


def direction(dim: int, seed: int = 3) -> torch.Tensor:
    """A unit vector that a layer norm leaves as it is: its mean is zero."""
    way = noise(dim, seed=seed).float()
    return F.normalize(way - way.mean(), dim=0)


@contextmanager
def planted(model: ViT, mask: torch.Tensor, block: int, times: float = 8.0, leave: int | None = None):
    """Add one direction to these patches after a block, `times` the median length, spread by 15 %; take it out
    again after block `leave`."""
    added = {}

    def add(module, args, output):
        output, count = output.clone(), mask[0].numel()
        patches = output[:, -count:]
        long = mask.flatten(1)
        sizes = 1 + 0.15 * noise(*long.shape, seed=8).to(output)
        vectors = (
            times * patches.norm(dim=-1).median() * (long * sizes)[..., None] * direction(output.shape[-1]).to(output)
        )
        added["vectors"] = vectors
        output[:, -count:] = patches + vectors
        return output

    def take(module, args, output):
        output, count = output.clone(), mask[0].numel()
        way = direction(output.shape[-1]).to(output)
        patches = output[:, -count:]
        output[:, -count:] = patches - mask.flatten(1)[..., None] * (patches @ way)[..., None] * way
        return output

    hooks = [model.blocks[block].register_forward_hook(add)]
    if leave is not None:
        hooks.append(model.blocks[leave].register_forward_hook(take))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def small_model() -> ViT:
    return load_pretrained("zoo/shapes_depth6")


# wrong detectors: a tape → a mask for each block


def by_quantile(tape):
    """The longest 2 % of each block."""
    lengths = [tape.norms(block)["patches"] for block in range(tape.plan.depth)]
    return [each > each.flatten().quantile(0.98) for each in lengths]


def by_last_block(tape):
    """Long after the last block, by the right rule, is long after every block."""
    from dtl_lib.probes import second_mode

    lengths = tape.norms(tape.plan.depth - 1)["patches"]
    cut = second_mode(lengths) or float("inf")
    return [lengths > cut] * tape.plan.depth


def by_150(tape):
    """The number that suits DINOv2-g."""
    return [tape.norms(block)["patches"] > 150 for block in range(tape.plan.depth)]


WRONG = {"quantile": by_quantile, "last block": by_last_block, "150": by_150}
