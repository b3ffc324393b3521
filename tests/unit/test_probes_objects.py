"""Does a map cover the object: by hand on a few patches, and what is refused."""

import pytest
import torch

from dtl_lib.data import Shapes
from dtl_lib.probes.objects import chance, elsewhere, heaviest, iou, pointing_game
from tests.unit.fixed import noise

ROWS, COLUMNS, PATCH = 3, 4, 2


def mask(*patches: tuple[int, int]) -> torch.Tensor:
    """An object that is those patches, in pixels."""
    pixels = torch.zeros(1, ROWS * PATCH, COLUMNS * PATCH, dtype=torch.bool)
    for row, column in patches:
        pixels[0, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = True
    return pixels


def spread(**values: float) -> torch.Tensor:
    """A map that is 0 but at `r1c2=…`."""
    maps = torch.zeros(1, ROWS, COLUMNS)
    for where, value in values.items():
        maps[0, int(where[1]), int(where[3])] = value
    return maps


OBJECT = mask((1, 1), (1, 2))
SCORES = pytest.mark.parametrize("score", [pointing_game, iou])


@SCORES
def test_a_map_of_the_object_scores_1_and_its_opposite_0(score):
    assert score(spread(r1c1=0.5, r1c2=0.5), OBJECT).tolist() == [1]
    assert score((spread(r1c1=1, r1c2=1) == 0).float(), OBJECT).tolist() == [0]


def test_a_map_moved_by_one_patch_points_past_the_object():
    maps = spread(r1c2=0.9, r1c1=0.1)
    assert [pointing_game(maps.roll(by, dims=2), OBJECT).item() for by in (-1, 0, 1, 2)] == [1, 1, 0, 0]


def test_a_map_moved_by_one_patch_overlaps_less():
    maps = spread(r1c1=0.5, r1c2=0.5)
    overlaps = [iou(maps.roll(by, dims=2), OBJECT).item() for by in (0, 1, 2)]
    assert overlaps == pytest.approx([1, 1 / 3, 0])


def test_a_patch_is_the_objects_where_more_than_half_of_it_is():
    maps, half, more = spread(r0c0=1), mask(), mask()
    half[0, 0, :2] = more[0, 0, :2] = more[0, 1, 0] = True
    half[0, 4, 4] = True
    assert pointing_game(maps, half).item() == 0 and pointing_game(maps, more).item() == 1


def test_overlap_counts_pixels():
    three = mask()
    three[0, 0, :2] = three[0, 1, 0] = True
    assert iou(spread(r0c0=1), three).item() == pytest.approx(3 / 4)
    assert iou(spread(r0c0=1, r0c1=1), three).item() == pytest.approx(3 / 8)


def test_patches_that_share_the_largest_value_share_the_point():
    assert pointing_game(spread(r1c1=0.4, r0c0=0.4, r2c3=0.2), OBJECT).item() == 0.5
    assert pointing_game(torch.zeros(1, ROWS, COLUMNS), OBJECT).item() == pytest.approx(2 / 12)


@pytest.mark.parametrize(
    ("mass", "kept"), [(0.2, 1), (0.5, 1), (0.51, 2), (0.6, 2), (0.8, 2), (0.81, 4), (0.95, 4), (1.0, 4)]
)
def test_what_holds_the_mass(mass, kept):
    """0.5, 0.3 and two of 0.1, which cannot be told apart."""
    maps = torch.tensor([[[0.5, 0.1, 0.0], [0.1, 0.3, 0.0]]], dtype=torch.float64)
    heavy = heaviest(maps, mass)
    assert heavy.sum() == kept and (not heavy.all()) and maps[heavy].min() > maps[~heavy].max()


def test_the_mass_is_a_share_whatever_the_map_sums_to():
    """A class token that looks at registers leaves less for the patches."""
    maps = torch.rand(5, ROWS, COLUMNS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert heaviest(maps).equal(heaviest(0.03 * maps))
    assert (heaviest(maps, 0.3).sum() < heaviest(maps, 0.6).sum()) and heaviest(maps, 1.0).all()


@SCORES
def test_heads_are_scored_apart(score):
    maps = torch.rand(2, 3, ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    maps[0, 1, 1, 1] = 2  # this head points at the object, of the first image alone
    masks = torch.cat([OBJECT, mask((0, 0), (2, 3), (1, 0))])
    scores = score(maps, masks)
    assert scores.shape == (2, 3)
    for head in range(3):
        assert scores[:, head].equal(score(maps[:, head], masks))
    assert scores[0, 1] > scores[0, 0] and not scores.equal(score(maps, masks.flip(0)))


def test_chance_is_that_of_a_patch_drawn_at_random():
    maps, masks = torch.rand(2, 3, ROWS, COLUMNS), torch.cat([OBJECT, mask((0, 0), (0, 1), (0, 2))])
    assert chance(pointing_game, maps, masks)[:, 0].tolist() == pytest.approx([2 / 12, 3 / 12])
    assert chance(iou, maps, masks)[:, 1].tolist() == pytest.approx([2 / 12, 3 / 12])
    drawn = torch.eye(12).reshape(12, ROWS, COLUMNS)
    assert pointing_game(drawn, OBJECT.expand(12, -1, -1)).mean().item() == pytest.approx(2 / 12)


@SCORES
def test_elsewhere_is_what_the_place_alone_is_worth(score):
    centre = spread(r1c1=0.5, r1c2=0.5).expand(4, -1, -1)
    moved = torch.cat([OBJECT, OBJECT.roll(2, dims=1), OBJECT, OBJECT])
    assert elsewhere(score, centre, OBJECT.expand(4, -1, -1), shifts=3).tolist() == [1] * 4
    assert elsewhere(score, centre, moved, shifts=3).tolist() == pytest.approx([2 / 3, 1, 2 / 3, 2 / 3])
    assert elsewhere(score, centre, moved, shifts=1).tolist() == [0, 1, 1, 1]


def test_on_shapes():
    """The cover itself as a map points at every object; a map of the corner at almost none."""
    shapes = Shapes(32, level=1, length=64)
    cover = shapes.masks(torch.arange(64))
    masks, patches = cover > 0.5, torch.nn.functional.avg_pool2d(cover, 4)
    corner = torch.zeros_like(patches)
    corner[:, 0, 0] = 1
    assert pointing_game(patches, masks).min() == 1 and iou(patches, masks).mean() > 0.5
    assert pointing_game(corner, masks).mean() < 0.1 < chance(pointing_game, corner, masks).mean()


@SCORES
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.full((1, ROWS, COLUMNS), torch.nan), OBJECT, "non-finite values"),
        (torch.ones(1, ROWS, COLUMNS), mask(), "hold no object, such as number 0"),
        (torch.ones(2, ROWS, COLUMNS), torch.cat([OBJECT, mask()]), "1 masks hold no object, such as number 1"),
        (torch.ones(1, ROWS, COLUMNS), OBJECT.float(), "masks are bool"),
        (torch.ones(2, ROWS, COLUMNS), OBJECT, "of the same images"),
        (torch.ones(ROWS, COLUMNS), OBJECT, "of the same images"),
        (torch.ones(1, 4, COLUMNS), OBJECT, "4 × 4 patches do not divide masks of 6 × 8 pixels"),
    ],
)
def test_refused(score, maps, masks, message):
    with pytest.raises(ValueError, match=message):
        score(maps, masks)


def test_refused_where_there_is_no_mass():
    with pytest.raises(ValueError, match="negative values"):
        iou(noise(1, ROWS, COLUMNS), OBJECT)
    with pytest.raises(ValueError, match="0 everywhere"):
        iou(spread(), OBJECT)
    for mass in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="mass is a share"):
            iou(spread(r0c0=1), OBJECT, mass)
    with pytest.raises(ValueError, match="shifts is 1 … 0"):
        elsewhere(iou, spread(r0c0=1), OBJECT)
