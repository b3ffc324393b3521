"""Augmentation: the same sample gets the same in whatever batch; each step does what it says."""

import pytest
import torch
import torch.nn.functional as F

from dtl_lib.data import Augment, InMemory
from dtl_lib.data.augment import transforms as augmentation

EVERYTHING = Augment(crop=3, flip=True, randaugment=9, erase=0.5, color_jitter=0.3)


def images(count=40, height=12, width=16):
    pixels = torch.randint(
        0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return InMemory("noise", ("a", "b"), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), pixels, torch.arange(count) % 2)


@pytest.mark.parametrize("augment", [EVERYTHING, Augment(three_augment=True), Augment(crop=0, flip=False, erase=1.0)])
def test_a_sample_is_augmented_alike_in_every_batch(augment):
    data = images()
    whole, labels = data.batch(torch.arange(40), augment, key=(0, 3))
    order = [31, 4, 17]
    torch.rand(100)
    some, some_labels = images().batch(order, augment, key=(0, 3))
    assert torch.equal(some, whole[order]) and torch.equal(some_labels, labels[order])


@pytest.mark.parametrize("key", [(0, 4), (1, 3)])
def test_another_epoch_or_seed_augments_otherwise(key):
    data = images()
    before, _ = data.batch(torch.arange(40), EVERYTHING, key=(0, 3))
    after, _ = data.batch(torch.arange(40), EVERYTHING, key=key)
    assert sum(torch.equal(first, second) for first, second in zip(before, after, strict=True)) == 0


def test_augmentation_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    images().batch(torch.arange(8), EVERYTHING, key=(0, 0))
    assert torch.equal(before, torch.get_rng_state())


def test_batch_is_normalised_raw_when_nothing_is_augmented():
    data = images()
    expected = (data.raw([3, 1]).double() / 255 - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(
        3, 1, 1
    )
    for augment in (None, Augment(crop=0, flip=False)):
        x, y = data.batch([3, 1], augment, key=(0, 0))
        assert x.dtype == torch.float32 and y.tolist() == [1, 1]
        torch.testing.assert_close(x.double(), expected, rtol=0, atol=1e-5)


def test_border_is_a_mirror():
    pixels = images().raw(torch.arange(5))
    expected = F.pad(pixels.float(), (4, 4, 4, 4), mode="reflect")
    assert torch.equal(augmentation.padded(pixels, 4).float(), expected)


def test_crops_are_windows_and_reach_every_place_equally():
    pixels = images(count=2000).raw(torch.arange(2000))
    bordered = augmentation.padded(pixels, 1)
    cut = augmentation.crop(bordered, torch.arange(2000), 1, (0, 0), torch.arange(2000))
    matches = torch.stack(
        [
            (bordered[:, :, top : top + 12, left : left + 16] == cut).flatten(1).all(1)
            for top in range(3)
            for left in range(3)
        ]
    )
    assert (matches.sum(0) == 1).all()
    assert (matches.sum(1) - 2000 / 9).abs().max() < 60  # four standard deviations


def test_the_same_border_serves_other_crops_and_raw_pixels():
    data, fresh = images(), images()
    raw = data.raw([0, 5])
    data.batch([0, 5], Augment(crop=4), key=(0, 0))
    assert torch.equal(data.raw([0, 5]), raw)
    other = Augment(crop=2)
    assert torch.equal(data.batch([0, 5], other, (0, 0))[0], fresh.batch([0, 5], other, (0, 0))[0])


def test_half_of_the_images_are_mirrored():
    pixels = images(count=2000).raw(torch.arange(2000))
    flipped = augmentation.flip(pixels, (0, 0), torch.arange(2000))
    same = (flipped == pixels).flatten(1).all(1)
    assert torch.equal(flipped[~same], pixels[~same].flip(-1))
    assert abs(same.sum().item() - 1000) < 90


def test_erasing_fills_a_box_of_the_right_size_with_noise():
    images_ = torch.full((800, 3, 32, 48), 7.0)
    erased = augmentation.erase(images_.clone(), 0.25, (0, 0), torch.arange(800))
    hit = (erased != images_).any(1)
    touched = hit.flatten(1).any(1)
    assert abs(touched.sum().item() - 200) < 50
    for mask in hit[touched]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            assert line.int().diff().abs().sum() <= 2  # one run
        assert 0.012 < mask.float().mean() < 0.36
    noise = erased[:, 0][hit]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


def test_noise_is_the_same_where_all_of_it_is_drawn():
    pixels, inside = torch.rand(9, 3, 12, 16), torch.rand(4, 1, 12, 16).expand(-1, 3, -1, -1) < 0.3
    rows, samples = torch.tensor([1, 2, 5, 8]), torch.tensor([70, 3, 4, 11])
    some, every = pixels.clone(), pixels.clone()
    augmentation._noisy_inside(some, rows, inside, (1, 2), samples)
    augmentation._noisy_everywhere(every, rows, inside, (1, 2), samples)
    assert torch.equal(some, every) and torch.equal(some != pixels, every != pixels)
    assert torch.equal((some != pixels)[rows], inside)


@pytest.mark.parametrize("field", ["randaugment", "three_augment", "color_jitter"])
def test_each_policy_changes_pixels(field):
    plain = Augment(crop=0, flip=False)
    value = {"randaugment": 9, "three_augment": True, "color_jitter": 0.4}[field]
    data = images()
    changed = data.batch(torch.arange(40), Augment(crop=0, flip=False, **{field: value}), (0, 0))[0]
    same = (changed == data.batch(torch.arange(40), plain, (0, 0))[0]).flatten(1).all(1)
    assert same.float().mean() < 0.5


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"crop": -1}, "0 or more"),
        ({"randaugment": 11}, "1 to 10"),
        ({"erase": 1.5}, "probability"),
        ({"color_jitter": -0.1}, "strength"),
        ({"scale": 0.0}, "share"),
        ({"randaugment": 9, "three_augment": True}, "choose one"),
    ],
)
def test_impossible_augmentation_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        Augment(**values)


def test_wrong_requests_are_refused():
    data = images()
    with pytest.raises(ValueError, match=r"key=\(seed, epoch\)"):
        data.batch([0], Augment())
    with pytest.raises(ValueError, match="samples 0 to 39; asked for 2 to 40"):
        data.batch([2, 40])
    with pytest.raises(ValueError, match="samples 0 to 39"):
        data.raw([-1])
    with pytest.raises(ValueError, match="1-D integers"):
        data.labels([[0]])
    with pytest.raises(ValueError, match="1-D integers"):
        data.labels([True, False])
    with pytest.raises(ValueError, match="at most 11"):
        data.batch([0], Augment(crop=12), (0, 0))


def test_fingerprint_follows_pixels_labels_and_size():
    data = images()
    same, pixel, label, size = images(), images(), images(), images()
    pixel._bordered[0] ^= 1
    label.targets = 1 - label.targets
    size.image_size = (24, 24)
    assert data.fingerprint() == same.fingerprint()
    assert len({x.fingerprint() for x in (data, pixel, label, size)}) == 4
    data.batch([0], Augment(crop=4), (0, 0))
    assert data.fingerprint() == same.fingerprint()


def test_batches_can_be_resized():
    data = images()
    large = InMemory("large", data.classes, data.mean, data.std, data.raw(range(4)), data.labels(range(4)), (24, 32))
    x, _ = large.batch([1, 2], Augment(crop=2), (0, 0))
    assert x.shape == (2, 3, 24, 32) and large.raw([0]).dtype == torch.uint8


def test_description_names_what_matters():
    assert images().describe().startswith("noise: 40 images, 12×16, 2 classes, ")
