"""A small run to disturb, and what has to be the same afterwards."""

import dataclasses
import json

import pytest
import torch

from dtl_lib import checkpoint, data
from dtl_lib.config import ViTConfig
from dtl_lib.data import Images
from dtl_lib.data import loader as batches
from dtl_lib.models import ViT
from dtl_lib.train import Recipe, fit, state

TINY = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=10)
RECIPE = Recipe(max_steps=14, batch_size=16, crop=1, flip=True, mixup=0.3, ema=0.9, log_every=3, eval_every=5)


def small_sets() -> data.Sets:
    """96 pictures to train on, 40 to look at."""
    whole = data.load("shapes", image_size=16, samples=96)
    for part in (whole.held_out, whole.test):
        part.length = 40
    return whole


def tiny(seed: int = 0) -> ViT:
    """Other weights for another seed."""
    torch.manual_seed(seed)
    return ViT(TINY)


def tensors(folder, name: str = state.NAME) -> dict[str, torch.Tensor]:
    """Of one of a run's files."""
    return checkpoint.read(folder / name)[0]


def rows(folder) -> list[dict]:
    """The log's, without what depends on how fast the machine is."""
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_s")} for row in found]


def assert_same(folder, expected) -> None:
    """To the last bit: state, best weights, and no row of the log missing, twice or other."""
    for name in (state.NAME, "best.safetensors"):
        found, other = tensors(folder, name), tensors(expected, name)
        assert found.keys() == other.keys() and found
        assert all(torch.equal(value, other[key]) for key, value in found.items()), name
    assert rows(folder) == rows(expected)


class Cut(Exception):
    """The machine dies."""


def cut_at(step: int, sets, folder, recipe: Recipe = RECIPE) -> None:
    """A run whose machine dies in that step; its state was saved after every second."""

    def die(now, loss, model):
        if now == step:
            raise Cut

    with pytest.raises(Cut):
        fit(tiny(), sets, recipe, folder, progress=False, checkpoint_every=2, on_step=die)


class Poisoned(Images):
    """Other images, some of which come out as infinity."""

    def __init__(self, images, bad):
        self.images, self.bad = images, torch.tensor(sorted(bad))
        for name in ("name", "classes", "mean", "std", "image_size"):
            setattr(self, name, getattr(images, name))

    def __len__(self):
        return len(self.images)

    def identity(self):
        return self.images.identity()

    def raw(self, indices):
        return self.images.raw(indices)

    def labels(self, indices):
        return self.images.labels(indices)

    def batch(self, indices, augment=None, key=None):
        x, y = self.images.batch(indices, augment, key)
        x[torch.isin(torch.as_tensor(indices), self.bad)] = float("inf")
        return x, y


def poisoned(sets, *steps: int, recipe: Recipe = RECIPE):
    """The same data with one image of each of these steps' batches (from 1) spoilt."""
    order = batches.indices(len(sets.train), recipe.batch_size, recipe.seed, 0, max(steps))
    samples = [samples for _, samples in order]
    return dataclasses.replace(sets, train=Poisoned(sets.train, {samples[step - 1][3].item() for step in steps}))
