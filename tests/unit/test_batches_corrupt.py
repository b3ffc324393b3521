"""Corrupt images among good ones: replaced in training, left out in evaluation, counted, and too many stop it."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import data
from dtl_lib.data import CorruptImage
from dtl_lib.data import loader as batches
from dtl_lib.data.corrupt import CorruptImages
from dtl_lib.train import Recipe

RECIPE = Recipe(batch_size=8, crop=1, flip=True, seed=5)
DAMAGE = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "text": lambda file: file.write_text("this is no picture"),
    "empty": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
}
both = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture
def folder(tmp_path):
    """48 pictures of two classes that all differ."""
    generator = np.random.default_rng(0)
    for number in range(48):
        place = tmp_path / "pictures" / "train" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        height, width = generator.integers(24, 40, 2)
        picture = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        Image.fromarray(picture).resize((width, height)).save(place / f"{number:02}.jpg")
    return tmp_path / "pictures"


def load(folder):
    return data.load("folder", folder, image_size=16).train


def file_of(images, sample: int):
    from pathlib import Path

    return Path(images.source.files[int(images.members[sample])])


def read(images, corrupt, workers, steps=8, **more):
    return list(batches.training_batches(images, RECIPE, 0, steps, workers, corrupt=corrupt, **more))


@pytest.mark.parametrize("damage", DAMAGE)
@both
def test_a_corrupt_image_is_replaced_by_the_next_and_counted(folder, damage, workers):
    images = load(folder)
    whole = read(images, None, 0)
    DAMAGE[damage](file_of(images, 7))
    DAMAGE[damage](file_of(images, 8))
    corrupt = CorruptImages(0.1)
    read_batches = read(images, corrupt, workers)
    assert len(corrupt) == 2 and corrupt.names == sorted(str(file_of(images, sample)) for sample in (7, 8))
    samples = [part for _, part in batches.indices(len(images), 8, 5, 0, 8)]
    for step, ((x, y), (good_x, good_y)) in enumerate(zip(read_batches, whole, strict=True)):
        hit = (samples[step] == 7) | (samples[step] == 8)
        assert torch.equal(x[~hit], good_x[~hit]) and torch.equal(y[~hit], good_y[~hit])
        if hit.any():
            other = images.batch([9] * int(hit.sum()), RECIPE.augment(), (5, samples_epoch(images, step)))
            assert torch.equal(x[hit], other[0]) and torch.equal(y[hit], other[1])


def samples_epoch(images, step: int) -> int:
    return step // (len(images) // RECIPE.batch_size)


def test_the_last_sample_is_replaced_by_the_first(folder):
    images = load(folder)
    last = len(images) - 1
    DAMAGE["empty"](file_of(images, last))
    x, y = CorruptImages().batch(images, torch.tensor([3, last]))
    expected = images.batch([3, 0])
    assert torch.equal(x, expected[0]) and torch.equal(y, expected[1])


@both
def test_processes_replace_alike_and_count_their_own(folder, workers):
    images = load(folder)
    for sample in (4, 11, 12):
        DAMAGE["cut"](file_of(images, sample))
    alone, counted = read(images, CorruptImages(0.2), 0), [CorruptImages(0.2), CorruptImages(0.2)]
    shares = [read(images, counted[rank], workers, rank=rank, world_size=2) for rank in range(2)]
    for (x, y), first, second in zip(alone, *shares, strict=True):
        assert torch.equal(x, torch.cat([first[0], second[0]])) and torch.equal(y, torch.cat([first[1], second[1]]))
    assert {*counted[0].names, *counted[1].names} == {str(file_of(images, sample)) for sample in (4, 11, 12)}


@both
def test_evaluation_leaves_corrupt_images_out(folder, workers):
    images = load(folder)
    good = [sample for sample in range(len(images)) if sample not in (0, 1, 30)]
    expected = images.batch(good)
    for sample, damage in ((0, "cut"), (1, "text"), (30, "gone")):
        DAMAGE[damage](file_of(images, sample))
    corrupt = CorruptImages(0.1)
    evaluated = list(batches.evaluation_batches(images, 2, workers, corrupt=corrupt))
    assert all(1 <= len(y) <= 2 for _, y in evaluated)  # the first batch has no picture left
    x, y = (torch.cat(column) for column in zip(*evaluated))
    assert torch.equal(x, expected[0]) and torch.equal(y, expected[1]) and len(corrupt) == 3
    again = list(batches.evaluation_batches(images, 64, workers, corrupt=corrupt))
    assert len(again[0][1]) == len(good) and len(corrupt) == 3


@both
def test_a_folder_that_vanishes_stops_the_run_with_one_line(folder, workers):
    images, corrupt = load(folder), CorruptImages(0.05)
    steps = batches.training_batches(images, RECIPE, 0, 10_000, workers, corrupt=corrupt)
    next(steps)
    shutil.rmtree(folder)
    with pytest.raises(
        ValueError, match=r"\d+ of the 40 images of folder train cannot be read, more than the 5\.0%"
    ) as e:
        list(steps)
    assert "\n" not in str(e.value) and str(folder) in str(e.value) and "put them back or repair" in str(e.value)


@both
def test_one_corrupt_image_is_always_allowed(folder, workers):
    images = load(folder)
    DAMAGE["cut"](file_of(images, 0))
    assert len(read(images, CorruptImages(0.0), workers)) == 8
    DAMAGE["cut"](file_of(images, 20))
    with pytest.raises(ValueError, match="2 of the 40 images"):
        read(images, CorruptImages(0.0), workers)


def test_where_nothing_can_be_read_no_limit_goes_on_for_ever(folder):
    images = load(folder)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="none of the 40 images"):
        read(images, CorruptImages(1.0), 0)


@both
def test_without_a_count_a_corrupt_image_is_an_error(folder, workers):
    images = load(folder)
    DAMAGE["gone"](file_of(images, 7))
    with pytest.raises(CorruptImage, match="jpg cannot be opened .No such file or directory.; put it back"):
        read(images, None, workers)


def test_the_error_says_which_samples(folder):
    images = load(folder)
    for sample in (9, 2):
        DAMAGE["text"](file_of(images, sample))
    with pytest.raises(CorruptImage) as caught:
        images.batch([1, 9, 3, 2])
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.names == {9: str(file_of(images, 9)), 2: str(file_of(images, 2))} and error.name == error.names[9]
    assert str(error) == f"{error.name} is not an image that can be read; a .jpg, .png or .webp file is needed"


def test_parts_are_counted_each_on_its_own(folder):
    sets = data.load("folder", folder, image_size=16)
    corrupt = CorruptImages(0.0)
    for images in (sets.train, sets.held_out, sets.test):
        DAMAGE["empty"](file_of(images, 0))
        assert len(list(batches.evaluation_batches(images, 64, 0, corrupt=corrupt))[0][1]) == len(images) - 1
    assert len(corrupt) == 3


def test_a_limit_is_a_share():
    with pytest.raises(ValueError, match="from 0 to 1, such as 0.01, not 1.5"):
        CorruptImages(1.5)
