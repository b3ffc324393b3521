"""Real photos through the real loader: from a folder and from shards, on one process and on two with workers."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dtl_lib import data
from dtl_lib.data import loader as batches
from dtl_lib.train import recipes
from tests.unit.shards import pack

REAL = Path(os.environ.get("DTL_DATA", "")) / "imagenet"
RECIPE = replace(recipes()["imagenet"], batch_size=16, repeats=3, seed=4)
STEPS = 3
pytestmark = pytest.mark.skipif(
    not os.environ.get("DTL_DATA") or not (REAL / "train").is_dir(),
    reason="needs ImageNet photos: DTL_DATA is not set or lacks imagenet/train",
)


@pytest.fixture(scope="module")
def folder() -> data.Sets:
    return data.load("imagenet", REAL, image_size=96)


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory) -> data.Sets:
    """The photos of the folder, in its order, in shards of 50."""
    root = tmp_path_factory.mktemp("shards")
    for part, images in (("train", folder.train), ("val", folder.test)):
        source = images.source
        for first in range(0, len(source), 50):
            files = {}
            for number in range(first, min(first + 50, len(source))):
                files[f"{number:05}.jpg"] = Path(source.files[number]).read_bytes()
                files[f"{number:05}.cls"] = str(source.targets[number]).encode()
            pack(root / f"photos-{part}-{first // 50:03}.tar", files)
    return data.load("wds", root, image_size=96)


@pytest.fixture(scope="module")
def alone(folder):
    return list(batches.training_batches(folder.train, RECIPE, 0, STEPS, workers=0))


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_two_processes_with_two_workers_make_the_batches_of_one(kind, alone, request):
    images = request.getfixturevalue(kind).train
    shares = [list(batches.training_batches(images, RECIPE, 0, STEPS, 2, rank=rank, world_size=2)) for rank in range(2)]
    assert len(alone) == STEPS and all(len(share) == STEPS for share in shares)
    for (x, y), *parts in zip(alone, *shares, strict=True):
        assert x.shape == (16, 3, 96, 96) and 0.3 < x.std() < 2
        (before, last), (first, first_y), (second, second_y) = (x[-1], y[-1]), *parts
        assert torch.equal(first, torch.cat([before[None], x[:8]])) and torch.equal(
            first_y, torch.cat([last[None], y[:8]])
        )
        assert torch.equal(second, x[7:]) and torch.equal(second_y, y[7:])  # each with the image before its first


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_evaluation_on_two_processes_sees_every_photo_as_one_does(kind, folder, request):
    images = request.getfixturevalue(kind).test
    x, y = folder.test.batch(range(len(folder.test)))
    for rank in range(2):
        got = list(batches.evaluation_batches(images, 16, 2, rank=rank, world_size=2))
        assert torch.equal(torch.cat([part for part, _ in got]), x[rank::2])
        assert torch.equal(torch.cat([part for _, part in got]), y[rank::2])
