"""Every figure draws what it is given, and leaves pyplot and the reader's style as they were."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dtl_lib import figures
from dtl_lib.figures.style import ABSENT
from dtl_lib.tokens import Group, TokenPlan

PHOTO = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
MAPS = torch.rand(3, 2, 3)
PLAN = TokenPlan(4, (Group("cls", 1, 2), Group("reg", 4, 1, 3)), class_blocks=2)

DRAWN = {
    "images": lambda: figures.show_images([PHOTO, PHOTO[..., 0]], ["colour", "grey"]),
    "patches": lambda: figures.show_patches(PHOTO, 16, mark=(1, 2)),
    "maps": lambda: figures.show_maps(MAPS, ["a", "b", "c"], image=PHOTO, mark=(1, 1)),
    "maps, own scale": lambda: figures.show_maps(list(MAPS), shared=False),
    "matrix": lambda: figures.show_matrix(MAPS[0], "share", numbers=True),
    "matrix, named": lambda: figures.show_matrix(torch.rand(8, 8), "share", names=PLAN.layout(2), signed=True),
    "similarity": lambda: figures.show_similarity(torch.rand(2, 3, 2, 3), [(0, 0), (1, 2)]),
    "table": lambda: figures.show_table([PHOTO, PHOTO, MAPS[0], MAPS[1]], ["photo", "map"], columns=2),
    "timeline": lambda: figures.show_timeline(PLAN),
    "curves": lambda: figures.show_curves({"a": ([1, 2], [3, 4], [2, 3], [4, 5])}, "x", "y", level=(3, "l"), log="xy"),
    "lines": lambda: figures.show_lines(torch.rand(2, 5), ["a", "b"], "x", "y"),
    "intervals": lambda: figures.show_intervals({"a": (1.0, 0.1), "b": (2.0, 0.2)}, "x", reference="a"),
    "bars": lambda: figures.show_bars(["a", "b"], [0.3, 0.7], "share"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_and_leaves_nothing_open(name):
    before = style()
    drawn = DRAWN[name]()
    assert isinstance(drawn, Figure) and drawn.axes
    assert plt.get_fignums() == [] and style() == before


def style():
    return {name: value for name, value in plt.rcParams.items() if name != "backend"}  # chosen at the first drawing


def test_maps_share_one_scale_from_zero():
    drawn = DRAWN["maps"]()
    shown = [axis.images[0] for axis in drawn.axes[1:4]]
    for image, one in zip(shown, MAPS):
        assert image.get_clim() == (0, pytest.approx(float(MAPS.max())))
        np.testing.assert_allclose(image.get_array(), one)


def test_the_marked_patch_is_where_it_is_in_the_photo():
    grid, alone = DRAWN["patches"]().axes
    (outline,) = grid.patches
    assert (outline.get_x(), outline.get_y()) == (2 * 16 - 0.5, 16 - 0.5)
    np.testing.assert_array_equal(alone.images[0].get_array(), PHOTO[16:32, 32:48])


def test_the_timeline_follows_the_plan():
    (axis,) = DRAWN["timeline"]().axes
    spans = [(bar.get_x() + 0.5, bar.get_x() + bar.get_width() + 0.5) for bar in axis.patches]
    assert spans == [(2, 6), (1, 3), (0, 6)]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cls × 1", "reg × 4", "patches"]


def test_a_map_that_is_no_numbers_is_grey_and_changes_no_other():
    absent = np.full((3, 3), np.nan)
    figure = figures.show_table([absent, MAPS[0]], ["model"], columns=2)
    grey, drawn = (axis.images[0] for axis in figure.axes)
    assert grey.get_array().mask.all() and to_hex(grey.get_cmap().get_bad()) == ABSENT
    assert drawn.get_clim() == (0, pytest.approx(float(np.asarray(MAPS[0]).max())))
