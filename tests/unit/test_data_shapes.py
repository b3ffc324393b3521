"""Generated shapes: deterministic, masks true, levels in order, mirror images alike."""

import pytest
import torch

from dtl_lib import data
from dtl_lib.data import Shapes
from dtl_lib.data.shapes.generator import LEVELS
from dtl_lib.data.shapes.outlines import OUTLINES

GOLDEN_LABELS = [1, 1, 3, 5, 7, 6]
GOLDEN_MEANS = {
    1: [0.3605, 0.1681, 0.3248, 0.4468, 0.2998, 0.4227],
    2: [0.3473, 0.0970, 0.3442, 0.5965, 0.3460, 0.5273],
    3: [0.4327, 0.0725, 0.4648, 0.8717, 0.4863, 0.7372],
}


@pytest.mark.parametrize("level", LEVELS)
def test_pictures_do_not_depend_on_the_batch(level):
    shapes = Shapes(level=level)
    many = torch.arange(600)
    pixels, masks, labels = shapes.raw(many), shapes.masks(many), shapes.labels(many)
    for chosen in (torch.tensor([599, 3, 300]), torch.arange(255, 262), torch.tensor([17])):
        assert torch.equal(shapes.raw(chosen), pixels[chosen])
        assert torch.equal(shapes.masks(chosen), masks[chosen])
        assert torch.equal(shapes.labels(chosen), labels[chosen])


def test_start_moves_along_one_series():
    assert torch.equal(Shapes(start=5, length=10).raw([0, 3]), Shapes().raw([5, 8]))
    assert not torch.equal(Shapes(seed=1).raw([5]), Shapes().raw([5]))


def test_a_picture_is_its_ground_and_its_object_mixed_by_the_mask():
    for level in LEVELS:
        shapes = Shapes(level=level)
        ground, surface, cover = shapes.layers(range(50))
        assert torch.equal(cover, shapes.masks(range(50)))
        expected = (ground * (1 - cover[:, None]) + surface * cover[:, None]) * 255
        assert (shapes.raw(range(50)).float() - expected).abs().max() <= 0.51


def test_masks_are_where_the_bright_object_is():
    shapes = Shapes(level=1)
    pixels, cover = shapes.raw(range(500)).float().movedim(1, -1) / 255, shapes.masks(range(500))
    assert pixels[cover == 1].min() > 0.54 and pixels[cover == 0].max() < 0.46
    moved = cover.roll(1, -1)
    assert pixels[moved == 1].min() < 0.46 and pixels[moved == 0].max() > 0.54


def test_level_one_is_bright_on_dark():
    ground, surface, _ = Shapes(level=1).layers(range(500))
    assert ground.max() <= 0.45 + 1e-6 and surface.min() >= 0.55 - 1e-6


def test_levels_get_harder():
    size, off_centre, contrast = [], [], []
    for level in LEVELS:
        shapes = Shapes(level=level)
        ground, surface, cover = shapes.layers(range(1000))
        area = cover.sum((1, 2))
        across = (cover.sum(1) * torch.arange(32)).sum(1) / area - 15.5
        size.append(area.mean())
        off_centre.append(across.abs().mean())
        contrast.append(((surface - ground).mean((1, 2, 3)) > 0).float().mean())
    assert size[0] > 1.5 * size[1] > 2 * size[2]
    assert off_centre[0] < off_centre[1] < off_centre[2]
    assert contrast[0] == contrast[1] == 1 and 0.3 < contrast[2] < 0.7


@pytest.mark.parametrize("level", LEVELS)
def test_objects_are_never_cut_off(level):
    shapes = Shapes(size=(48, 40), level=level)
    size = shapes._draws(torch.arange(2000), "pose", 4)[:, 0, 0, 0]
    low, high = LEVELS[level].radius
    area = shapes.masks(range(2000)).sum((1, 2)) / ((low + (high - low) * size) * 40) ** 2
    for number in range(10):
        of_class = area[shapes.labels(range(2000)) == number]
        assert (of_class / of_class.median() - 1).abs().max() < 0.06


def test_classes_are_equally_frequent():
    counts = Shapes().labels(range(20_000)).bincount(minlength=10)
    assert len(counts) == 10 and (counts - 2000).abs().max() < 180


@pytest.mark.parametrize("name", OUTLINES)
def test_a_mirror_image_keeps_its_class(name):
    axis = torch.linspace(-1.2, 1.2, 61)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    x, y = x[None].contiguous(), y[None].contiguous()
    distance = OUTLINES[name](x, y)
    mirrors = distance.flip(-1), distance.flip(-2)
    assert min((distance - mirror).abs().max() for mirror in mirrors) < 1e-5


@pytest.mark.parametrize("name", OUTLINES)
def test_an_outline_is_a_distance(name):
    axis = torch.linspace(-1.2, 1.2, 121)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    x, y = x[None].contiguous(), y[None].contiguous()
    distance = OUTLINES[name](x, y)
    assert 0.15 < (distance < 0).float().mean() * 2.4**2 < 3.2
    assert (distance[((x * x + y * y).sqrt() > 1.01)] > 0).all()
    down, right = distance.diff(dim=1)[..., :-1] / 0.02, distance.diff(dim=2)[:, :-1] / 0.02
    slope = (down**2 + right**2).sqrt()
    assert slope.max() < 1.5 and slope.quantile(0.02) > 0.4 and abs(slope.median() - 1) < 0.02


def test_outlines_differ():
    shapes = Shapes(size=64, level=1, length=5000)
    masks, labels = shapes.masks(range(1000)) > 0.5, shapes.labels(range(1000))
    means = torch.stack([masks[labels == number].float().mean(0) for number in range(10)])
    assert torch.cdist(means.flatten(1), means.flatten(1)).fill_diagonal_(9).min() > 3


def test_any_size():
    assert Shapes(size=(24, 56)).raw([0]).shape == (1, 3, 24, 56)
    small, large = Shapes(size=32, level=2).masks(range(64)), Shapes(size=128, level=2).masks(range(64))
    pooled = torch.nn.functional.avg_pool2d(large, 4)
    assert (pooled - small).abs().mean() < 0.01  # the same scene, drawn finer


def test_parts_of_a_set_do_not_meet():
    sets = data.load("shapes", image_size=16, level=2, seed=3, samples=100)
    assert len(sets.train) == 100 and len(sets.held_out) == 2000 and len(sets.test) == 10_000
    pictures = {part.raw(range(100)).numpy().tobytes() for part in (sets.train, sets.held_out, sets.test)}
    prints = {part.fingerprint() for part in (sets.train, sets.held_out, sets.test)}
    assert len(pictures) == len(prints) == 3
    assert len({data.load("shapes", level=level).train.fingerprint() for level in LEVELS}) == 3
    assert sets.describe().count("\n") == 2


def test_the_generator_still_draws_what_its_version_says():
    """A change here means a new VERSION in shapes.py: checkpoints carry the fingerprint."""
    from dtl_lib.data.shapes import generator as shapes

    assert shapes.VERSION == 1
    for level, means in GOLDEN_MEANS.items():
        pictures = Shapes(level=level)
        assert pictures.labels(range(6)).tolist() == GOLDEN_LABELS
        brightness = pictures.raw(range(6)).double().mean((1, 2, 3)) / 255
        torch.testing.assert_close(brightness, torch.tensor(means).double(), rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"level": 4}, "levels 1, 2, 3"),
        ({"length": 0}, "at least 1"),
        ({"start": -1}, "0 or more"),
        ({"size": 0}, "image_size"),
        ({"size": (8, 8, 8)}, "image_size"),
        ({"size": "32"}, "image_size"),
    ],
)
def test_impossible_shapes_are_refused(values, says):
    with pytest.raises(ValueError, match=says):
        Shapes(**values)


def test_too_many_samples_are_refused():
    with pytest.raises(ValueError, match="holds 1,000,000,000"):
        data.load("shapes", samples=10**10)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="there are shapes, cifar10"):
        data.load("mnist")
