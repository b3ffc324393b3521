"""Run under torchrun: the gradients of one step, of the whole batch shared by the processes, saved by the first."""

import sys
from pathlib import Path

import torch

from dtl_lib.data import InMemory
from dtl_lib.data import loader as batches
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe
from dtl_lib.train.distributed.processes import joined
from dtl_lib.train.distributed.sharding import whole
from dtl_lib.train.loop import train_step
from dtl_lib.train.run import Run

PLAN = TokenPlan.of(3, cls_pos=1, reg_pos=2, num_reg=2)
CONFIG = ViTConfig(16, 4, dim=32, depth=3, heads=2, classes=5, plan=PLAN, layer_scale=0.1)
KINDS = {
    "plain": {},
    "mixed": {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1},
    "accumulated": {"accumulate": 2, "mixup": 0.8},
}


class _Sets:
    def __init__(self):
        torch.manual_seed(0)
        pixels, targets = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8), torch.arange(24) % 5
        part = InMemory("random", tuple("abcde"), (0.5,) * 3, (0.25,) * 3, pixels, targets)
        self.train = self.held_out = self.test = part


def gradients(processes, shard: bool, dtype: torch.dtype, changes: dict) -> dict[str, torch.Tensor]:
    """By parameter, what one optimiser step would be made from."""
    torch.manual_seed(processes.rank)  # every process has other weights to begin with: the first one's count
    if processes.is_main:
        torch.manual_seed(0)
    model = ViT(CONFIG).to(dtype)
    if shard:
        torch.manual_seed(0)
        model = ViT(CONFIG).to(dtype)
    recipe = Recipe(max_steps=2, batch_size=8, crop=2, flip=True, **changes)
    run = Run(
        model, _Sets(), recipe, None, device="cpu", resume=False, card={}, tensorboard=False, progress=False,
        processes=processes, shard=shard, compiled=False, workers=None, max_corrupt=0.0,
    )  # fmt: skip
    learner, step, gradients = run.learner, 1, {}
    x, y = next(
        batches.training_batches(run.sets.train, recipe, step, 2, rank=processes.rank, world_size=processes.world_size)
    )

    def keep(_) -> float:
        gradients.update((name, whole(value.grad).clone()) for name, value in model.named_parameters())
        return torch.zeros(())

    learner.guard.clip_grad_norm = keep
    train_step(learner, x.to(dtype), y, step)
    return gradients


def main(folder: str) -> None:
    with joined(torch.device("cpu"), 60) as processes:
        for dtype in (torch.float32, torch.float64):
            for shard in (False, True) if processes.world_size > 1 else (False,):
                for name, changes in KINDS.items():
                    found = gradients(processes, shard, dtype, changes)
                    if processes.is_main:
                        kind = "shared" if shard else "copied"
                        bits = torch.finfo(dtype).bits
                        torch.save(found, Path(folder) / f"{processes.world_size}-{kind}-{name}-{bits}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
