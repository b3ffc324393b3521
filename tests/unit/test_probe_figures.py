"""Figures of weights, and of values by block: what stands where."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from dtl_lib import figures
from dtl_lib.figures.overlay import overlay
from dtl_lib.outputs.pages import scale_of
from tests.unit.test_figures import DRAWN, HEADS


def test_filters_stand_in_order_from_the_top_left_with_nothing_between():
    pictures = torch.linspace(0, 0.9, 11).reshape(11, 1, 1, 1).expand(11, 4, 6, 3)
    image = figures.show_filters({"all": pictures}, columns=4).axes[0].images[0].get_array()
    assert image.shape == (3 * 5 - 1, 4 * 7 - 1, 4)
    for number in range(11):
        top, left = number // 4 * 5, number % 4 * 7
        np.testing.assert_allclose(image[top : top + 4, left : left + 6, :3], 0.09 * number, rtol=1e-6)
        assert (image[top : top + 4, left : left + 6, 3] == 1).all()
    assert image[4].max() == 0 and image[:, 6].max() == 0 and image[-1, -1].max() == 0


@pytest.mark.parametrize("values", [np.linspace(0, 1, 6).reshape(2, 3), np.zeros((2, 3))])
def test_a_map_is_laid_over_its_photo_where_its_patches_are(values):
    photo = np.full((224, 336, 3), 100, np.uint8)
    first, second, *_ = figures.show_maps([values], ["map"], photo, (1, 2), over=True).axes
    np.testing.assert_array_equal(first.images[0].get_array(), photo)
    np.testing.assert_array_equal(second.images[0].get_array(), overlay(photo, values, values.max()))
    for axis in (first, second):
        (mark,) = axis.patches
        assert mark.get_x() + mark.get_width() / 2 == pytest.approx(2.5 * 112 - 0.5)
        assert mark.get_y() + mark.get_height() / 2 == pytest.approx(1.5 * 112 - 0.5)


def test_a_map_of_a_few_patches_has_a_scale():
    values = np.zeros((20, 20))
    values[3, 4] = 0.5
    assert scale_of(values, 0.9) == 0.5 and scale_of(values * 0) == 1 and scale_of(np.arange(101.0), 0.9) == 90


def test_each_small_map_of_positions_stands_where_its_patch_does():
    similarity = torch.rand(2, 3, 2, 3)
    drawn = figures.show_positions(similarity)
    image = drawn.axes[0].images[0].get_array()
    for row, column in np.ndindex(2, 3):
        part = image[3 * row : 3 * row + 2, 4 * column : 4 * column + 3]
        np.testing.assert_allclose(part, similarity[row, column], rtol=1e-6)
    many = DRAWN["positions, many"]().axes[0]
    assert [label.get_text() for label in many.get_yticklabels()] == ["0", "5", "10", "14", "19"]
    assert [label.get_text() for label in many.get_xticklabels()] == ["0", "2", "4", "6", "8"]


def test_heads_stand_over_their_block_at_their_height_before_the_control():
    (axis,) = DRAWN["heads"]().axes
    dots, *_ = axis.containers[0]
    assert [round(place) for place in dots.get_xdata()] == [block for block in range(4) for _ in range(3)]
    np.testing.assert_allclose(dots.get_ydata(), HEADS.flatten())
    ((start, end), *_) = (segment[:, 1] for segment in axis.containers[0].lines[2][0].get_segments())
    assert (start, end) == (HEADS[0, 0] - 1, HEADS[0, 0] + 2)
    (band,) = axis.collections[:1]
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == HEADS[0].min() / 2 and corners[:, 1].max() == HEADS[-1].max() / 2


def test_the_parts_of_a_bar_are_stacked_and_have_their_token_s_colour():
    first, second = DRAWN["flow"]().axes
    bars = [
        [(bar.get_x() + bar.get_width() / 2, bar.get_y(), bar.get_height()) for bar in part]
        for part in first.containers
    ]
    assert bars[0] == [(0, 0, 0), (1, 0, pytest.approx(0.2))]
    assert bars[1][1] == (1, pytest.approx(0.2), pytest.approx(0.8))
    colours = figures.token_colours(["cls", "patches"])
    assert to_hex(first.containers[0][0].get_facecolor()) == to_hex(colours["cls"])
    assert to_hex(second.containers[0][0].get_facecolor()) == to_hex(colours["patches"])


def test_boxes_stand_at_their_pixels_and_none_is_no_box():
    image = np.zeros((8, 12, 3), np.uint8)
    figure = figures.show_boxes([image, image], {"found": [(1, 2, 5, 9), None], "true": [(0, 0, 8, 12)] * 2})
    first, second = (
        [(patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axis.patches] for axis in figure.axes
    )
    assert first[1] == ((1.5, 0.5), 7, 4) and len(first) == 4 and len(second) == 2
    colours = {to_hex(patch.get_edgecolor()) for axis in figure.axes for patch in axis.patches}
    assert len(colours) == 3, "white underneath, and one for each kind"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["found", "true"]
