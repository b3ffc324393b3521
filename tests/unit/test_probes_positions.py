"""Similarity of positions against the cosine of every pair, on grids that are not square."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dtl_lib import probes
from dtl_lib.layers import interpolate_positions
from tests.unit.loops import TINY, needs_tiny, numbers
from tests.unit.small import SMALL, build


def by_hand(positions: np.ndarray) -> np.ndarray:
    rows, columns, _ = positions.shape
    found = np.empty((rows, columns, rows, columns))
    for row, column, row2, column2 in np.ndindex(*found.shape):
        a, b = positions[row, column], positions[row2, column2]
        found[row, column, row2, column2] = a @ b / math.sqrt((a @ a) * (b @ b))
    return found


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_it_is_the_cosine_of_every_pair(positions):
    model = build(replace(SMALL, positions=positions))
    found = probes.position_similarity(model)
    assert found.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(found, by_hand(numbers(model.positions)), rtol=1e-6)


def test_on_another_grid_it_interpolates_as_the_model_does():
    for offset in (None, 0.1):
        model = build(replace(SMALL, position_offset=offset))
        positions = interpolate_positions(model.positions.detach(), (4, 3), offset)
        found = probes.position_similarity(model, (4, 3))
        assert found.shape == (4, 3, 4, 3)
        np.testing.assert_allclose(found, by_hand(numbers(positions)), rtol=1e-6)
    for grid in ((0, 3), (2, 3, 4)):
        with pytest.raises(ValueError, match="a grid is rows and columns"):
            probes.position_similarity(model, grid)


def test_sines_and_cosines_know_the_distance_alone():
    found = probes.position_similarity(build(replace(SMALL, image_size=(16, 24), positions="sincos")))
    assert found[0, 0, 2, 3] == pytest.approx(found[1, 2, 3, 5].item()) and found[0, 0, 2, 3] < found[0, 0, 0, 1]
    assert found[0, 0, 0, 1] == pytest.approx(found[0, 0, 1, 0].item())


def test_a_position_that_changes_changes_its_own_row_and_column_alone():
    model = build(SMALL)
    before = probes.position_similarity(model)
    with torch.no_grad():
        model.positions[1, 2] *= -1
    after = probes.position_similarity(model)
    torch.testing.assert_close(after[1, 2, 0, 1], -before[1, 2, 0, 1])
    torch.testing.assert_close(after[0, 1, 1, 2], -before[0, 1, 1, 2])
    assert after[0, 1, 1, 1].equal(before[0, 1, 1, 1])


def test_a_position_of_zero_is_like_none():
    model = build(SMALL)
    with torch.no_grad():
        model.positions[0, 0] = 0
    found = probes.position_similarity(model.half())
    assert found.dtype == torch.float32 and not found[0, 0].any() and found[1, 1, 1, 1] == pytest.approx(1, abs=1e-5)


@needs_tiny
def test_real_positions_are_most_like_their_neighbours():
    from dtl_lib import load_pretrained

    model = load_pretrained(TINY)
    found = probes.position_similarity(model)
    np.testing.assert_allclose(found[3, 5], by_hand(numbers(model.positions))[3, 5], atol=1e-6)
    assert found[6, 6, 6, 7] > found[6, 6, 0, 0] and found[6, 6, 7, 6] > found[6, 6, 13, 13]
