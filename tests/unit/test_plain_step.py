"""The step that chapter 04's checker compares with is the library's."""

import torch

from dtl_lib import ViT, ViTConfig
from dtl_lib.exercises.ch04 import plain_step
from dtl_lib.train import Recipe
from dtl_lib.train.learner import make_learner
from dtl_lib.train.loop import train_step
from dtl_lib.train.optim import Schedule, make_optimizer

RECIPE = Recipe(max_steps=3, batch_size=4, lr=0.05, warmup_steps=1, clip=0.05, amp="off", weight_decay=0.5)


def small():
    torch.manual_seed(0)
    return ViT(ViTConfig(image_size=8, patch_size=4, dim=8, depth=1, heads=2, classes=3)).train()


def test_the_plain_step_moves_every_weight_as_the_librarys():
    mine, library, schedule = small(), small(), Schedule.of(RECIPE, 12)
    optimizer = make_optimizer(mine, RECIPE)
    learner = make_learner(library, RECIPE, schedule, torch.device("cpu"))
    labels = torch.tensor([0, 1, 2, 1])
    for step, size in enumerate((1, 5, 0.2)):
        images = size * torch.randn(4, 3, 8, 8)
        loss = plain_step(mine, optimizer, images, labels, schedule.lr(step), RECIPE.clip)
        torch.testing.assert_close(loss, train_step(learner, images, labels, step).loss)
    fresh = small()
    for value, right, before in zip(mine.parameters(), library.parameters(), fresh.parameters()):
        torch.testing.assert_close(value, right, rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, before)
