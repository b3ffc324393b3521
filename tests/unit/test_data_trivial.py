"""TrivialAugment in batches: each operation is torchvision's, and a sample's depends on nothing but its key."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

from dtl_lib import data
from dtl_lib.data import Augment, InMemory
from dtl_lib.data.augment import transforms
from dtl_lib.data.augment.trivial import LARGEST, OPERATIONS, applied, trivial
from dtl_lib.train import Recipe

STRENGTHS = (-30, -17, -1, 0, 6, 23, 30)
MIRRORED = 96  # pixels of border in the reference: more than anything moves
INTERPOLATED = {"shear_x", "shear_y", "rotate"}


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Four small photos of 32 × 40 with all they have: uint8 (4, 3, 32, 40)."""
    pictures = [
        torch.from_numpy(data.photo(name).copy()).movedim(-1, 0) for name in ("chelsea", "coffee", "rocket", "retina")
    ]
    return torch.stack([functional.resize(picture, [32, 40], antialias=True) for picture in pictures])


def moved(photo: torch.Tensor, by, turn: float = 0.0, shear=(0.0, 0.0), center=None) -> torch.Tensor:
    """torchvision's affine map of a photo whose border continues as its mirror."""
    width = (MIRRORED, MIRRORED)
    wide = torch.from_numpy(np.pad(photo.numpy(), ((0, 0), width, width), mode="symmetric"))
    shear = [math.degrees(math.atan(value)) for value in shear]
    out = functional.affine(wide, -turn, list(by), 1.0, shear, InterpolationMode.BILINEAR, center=center)
    return out[:, MIRRORED:-MIRRORED, MIRRORED:-MIRRORED]


def reference(photo: torch.Tensor, name: str, strength: int) -> torch.Tensor:
    share, corner = strength / LARGEST, [MIRRORED, MIRRORED]
    factor, grey = 1 + 0.99 * share, functional.rgb_to_grayscale(photo)
    return {
        "identity": lambda: photo,
        "shear_x": lambda: moved(photo, (0, 0), shear=(0.99 * share, 0), center=corner),
        "shear_y": lambda: moved(photo, (0, 0), shear=(0, 0.99 * share), center=corner),
        "translate_x": lambda: moved(photo, (int(32 * share), 0)),
        "translate_y": lambda: moved(photo, (0, int(32 * share))),
        "rotate": lambda: moved(photo, (0, 0), turn=135 * share),
        "brightness": lambda: functional.adjust_brightness(photo, factor),
        "color": lambda: torch.where(
            photo == grey, grey, functional.adjust_saturation(photo, factor)
        ),  # which may darken grey
        "contrast": lambda: functional.adjust_contrast(photo, factor),
        "sharpness": lambda: functional.adjust_sharpness(photo, factor),
        "posterize": lambda: functional.posterize(photo, round(8 - 6 * abs(share))),
        "solarize": lambda: functional.solarize(photo, 255 - 8.5 * abs(strength)),
        "autocontrast": lambda: functional.autocontrast(photo),
        "equalize": lambda: functional.equalize(photo),
    }[name]()


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_torchvisions(photos, name):
    """To the level; where pixels are interpolated, one in 200 may be rounded to the level beside it."""
    for strength in STRENGTHS:
        operations = torch.full((4,), OPERATIONS.index(name))
        operated = applied(photos, operations, torch.full((4,), strength))
        expected = torch.stack([reference(photo, name, strength) for photo in photos])
        assert operated.dtype == torch.uint8 and operated.shape == photos.shape
        off = (operated.int() - expected.int()).abs()
        if name in INTERPOLATED:
            assert off.max() <= 1 and (off > 0).float().mean() <= 0.005, f"{strength}: {(off > 0).float().mean():.4f}"
        else:
            assert off.max() == 0, strength
        if strength in (-30, 30) and name != "identity":
            assert (operated != photos).flatten(1).any(1).all()


def test_no_strength_leaves_the_photo_as_it_is(photos):
    for name in OPERATIONS[:-2]:  # the last two have no strength
        operations = torch.full((4,), OPERATIONS.index(name))
        assert torch.equal(applied(photos, operations, torch.zeros(4, dtype=torch.int64)), photos), name


def test_a_sample_does_not_depend_on_its_batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (400, 3, 18, 25), dtype=torch.uint8, generator=generator)
    before = pixels.clone()
    together = trivial(pixels, (1, 2), torch.arange(400))
    assert torch.equal(pixels, before)
    order = torch.randperm(400, generator=generator)
    for part in order.split(37):
        torch.rand(3)
        assert torch.equal(trivial(pixels[part], (1, 2), part), together[part])
    for sample in range(0, 400, 9):
        assert torch.equal(trivial(pixels[[sample]], (1, 2), [sample])[0], together[sample])
    for key in ((1, 3), (2, 2), (1, 2, 1)):
        assert (trivial(pixels, key, torch.arange(400)) != together).flatten(1).any(1).float().mean() > 0.8


def test_operations_and_strengths_are_drawn_evenly(monkeypatch):
    drawn = {}
    monkeypatch.setattr("dtl_lib.data.augment.trivial.applied", lambda pixels, *drawn_: drawn.update(all=drawn_))
    trivial(torch.zeros(14_000, 3, 4, 4, dtype=torch.uint8), (0, 0), torch.arange(14_000))
    operations, strengths = drawn["all"]
    counts = operations.bincount(minlength=len(OPERATIONS))
    assert len(counts) == 14 and (counts - 1000).abs().max() < 125  # four standard deviations
    sizes = strengths.abs().bincount(minlength=31)
    assert len(sizes) == 31 and (sizes - 14_000 / 31).abs().max() < 90
    assert abs((strengths > 0).sum() - (strengths < 0).sum()) < 480
    assert torch.corrcoef(torch.stack([operations, strengths.abs()]).float())[0, 1].abs() < 0.04


def test_batches_are_augmented_after_the_flip_and_before_erasing():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=generator)
    images = InMemory("noise", ("a",), (0.5,) * 3, (0.25,) * 3, pixels, torch.zeros(60, dtype=torch.int64))
    key, rows = (3, 1), torch.tensor([5, 40, 7])
    flipped = transforms.flip(pixels[rows], key, rows)
    expected = images.normalised(trivial(flipped, key, rows))
    assert torch.equal(images.batch(rows, Augment(crop=0, trivial=True), key)[0], expected)
    erased = transforms.erase(expected, 0.9, key, rows)
    assert torch.equal(images.batch(rows.tolist(), Augment(crop=0, trivial=True, erase=0.9), key)[0], erased)


def test_a_recipe_asks_for_it_and_stays_fast():
    recipe = Recipe(trivial=True)
    assert recipe.augment().trivial and not recipe.slow_augmentation


@pytest.mark.parametrize("other", [{"randaugment": 9}, {"three_augment": True}])
def test_two_policies_are_refused(other):
    with pytest.raises(ValueError, match=f"trivial and {next(iter(other))} exclude each other; choose one"):
        Augment(trivial=True, **other)
