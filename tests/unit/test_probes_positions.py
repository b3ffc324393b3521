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


def rotary_by_hand(config, block=None) -> np.ndarray:
    """The mean cosine of the angle between every two places, one pair of channels at a time."""
    (rows, columns), pairs = config.grid, config.dim // config.heads // 4
    found = np.zeros((rows, columns, rows, columns))
    for row, column, row2, column2 in np.ndindex(*found.shape):
        angles = []
        for head in range(config.heads if block is not None else 1):
            for pair in range(2 * pairs):
                if block is None:
                    rate = config.rotary_temperature ** (-(pair % pairs) / pairs)
                    down, across = (rate, 0) if pair < pairs else (0, rate)
                else:
                    down, across = numbers(block.attention.angles.frequencies)[:, head, pair]
                angles.append(down * (row - row2) + across * (column - column2))
        found[row, column, row2, column2] = np.mean(np.cos(angles))
    return found


@pytest.mark.parametrize("rotary", ["axial", "mixed"])
def test_rotary_positions_are_as_alike_as_their_angles(rotary):
    config = replace(SMALL, dim=24, positions="none", rotary=rotary, rotary_temperature=100.0)
    model = build(config)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.project.bias.zero_()
    for block in (0, 2):
        by_hand = rotary_by_hand(config, model.blocks[block] if rotary == "mixed" else None)
        np.testing.assert_allclose(probes.rotary_similarity(model, block), by_hand, atol=1e-6)
    assert probes.rotary_similarity(model, grid=(4, 5)).shape == (4, 5, 4, 5)
    with pytest.raises(ValueError, match="adds no positions to its patches: its rotary positions have rotary_similar"):
        probes.position_similarity(model)
    with pytest.raises(ValueError, match="there is no block 3"):
        probes.rotary_similarity(model, 3)


def test_where_nothing_turns_it_says_so():
    with pytest.raises(ValueError, match="no rotary positions: those that it adds have position_similarity"):
        probes.rotary_similarity(build(SMALL))
    with pytest.raises(ValueError, match="a grid is rows and columns"):
        probes.rotary_similarity(build(SMALL), grid=(0, 1))
