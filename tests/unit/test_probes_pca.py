"""PCA maps against loops and planted directions; a sign that neither chance nor the library's version decides."""

import numpy as np
import pytest
import torch

from dtl_lib import probes
from tests.unit.fixed import noise


def by_hand(patches: np.ndarray, count: int, others: np.ndarray | None = None) -> np.ndarray:
    """Scores `(images, count, rows, columns)`: covariances summed pair by pair, the border's mean made negative."""
    images, rows, columns, dim = patches.shape
    tokens = [patches[i, r, c] for i in range(images) for r in range(rows) for c in range(columns)]
    tokens += [] if others is None else list(others.reshape(-1, dim))
    mean = sum(tokens) / len(tokens)
    covariance = np.zeros((dim, dim))
    for token in tokens:
        covariance += np.outer(token - mean, token - mean) / len(tokens)
    lengths, vectors = np.linalg.eigh(covariance)
    found = np.empty((images, count, rows, columns))
    for component in range(count):
        vector = vectors[:, np.argsort(-lengths)[component]]
        border = []
        for i, r, c in np.ndindex(images, rows, columns):
            found[i, component, r, c] = vector @ (patches[i, r, c] - mean)
            if r in (0, rows - 1) or c in (0, columns - 1):
                border.append(found[i, component, r, c])
        if sum(border) > 0:
            found[:, component] *= -1
    return found


PATCHES = noise(3, 4, 6, 7) * torch.linspace(3, 0.5, 7).double()


def test_joint_is_what_loops_find():
    found = probes.pca_map(PATCHES)
    np.testing.assert_allclose(found.maps, by_hand(PATCHES.numpy(), 3), atol=1e-9)
    assert found.shares.shape == (3,) and found.directions.shape == (3, 7)
    whole = PATCHES.reshape(-1, 7) - PATCHES.reshape(-1, 7).mean(0)
    scores = found.maps.transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.shares, scores.square().sum(dim=1) / whole.square().sum())


def test_per_image_is_what_loops_find_of_each():
    found = probes.pca_map(PATCHES, joint=False)
    for number, image in enumerate(PATCHES):
        np.testing.assert_allclose(found.maps[number], by_hand(image[None].numpy(), 3)[0], atol=1e-9)
        torch.testing.assert_close(found.maps[number], probes.pca_map(image[None]).maps[0])
    assert found.shares.shape == found.margins.shape == (3, 3)
    assert not torch.allclose(found.maps, probes.pca_map(PATCHES).maps, atol=0.1)


@pytest.mark.parametrize("joint", [True, False])
def test_registers_count_and_are_not_drawn(joint):
    registers = 5 * noise(3, 2, 7, seed=8)
    found = probes.pca_map(PATCHES, joint=joint, others=registers)
    images = [slice(0, 3)] if joint else [slice(i, i + 1) for i in range(3)]
    for where in images:
        wanted = by_hand(PATCHES[where].numpy(), 3, registers[where].numpy())
        np.testing.assert_allclose(found.maps[where], wanted, atol=1e-9)
    assert found.maps.shape == (3, 3, 4, 6)
    assert not torch.allclose(found.maps, probes.pca_map(PATCHES, joint=joint).maps, atol=0.1)


@pytest.mark.parametrize("joint", [True, False])
def test_features_turned_over_give_the_same_map(joint):
    """What a solver's sign would not survive: the features' sign, another basis, another order of the channels."""
    turn = torch.linalg.qr(noise(7, 7, seed=3)).Q
    plain = probes.pca_map(PATCHES, joint=joint).maps
    for other in (-PATCHES, PATCHES.flip(-1), PATCHES @ turn, PATCHES + 4, PATCHES * 10):
        scale = 10 if other is not PATCHES and torch.equal(other, PATCHES * 10) else 1
        torch.testing.assert_close(probes.pca_map(other, joint=joint).maps / scale, plain)


def test_a_planted_object_is_on_the_positive_side_wherever_it_lies():
    for where in ((1, 1), (2, 3), (1, 4)):
        for direction in (1.0, -1.0):
            patches = 0.05 * noise(1, 5, 8, 12, seed=where[1])
            row, column = where
            patches[0, row : row + 2, column : column + 2] += direction * noise(12, seed=4)
            object_ = torch.zeros(5, 8, dtype=torch.bool)
            object_[row : row + 2, column : column + 2] = True
            found = probes.pca_map(patches, components=1)
            assert torch.equal(found.maps[0, 0] > found.maps[0, 0].max() / 2, object_)
            assert found.margins[0] > 0.2


def test_moved_patches_move_the_map_and_the_border_decides_the_sign():
    patches = torch.zeros(1, 4, 4, 3).double()
    patches[0, 1, 1, 0] = 1.0
    assert probes.pca_map(patches, 1).maps.argmax() == 5
    patches = torch.zeros(1, 4, 4, 3).double()
    patches[0, 0, 1, 0] = 1.0  # the same on the border: what the border is not is the rest
    assert probes.pca_map(patches, 1).maps.argmin() == 1


def test_a_border_that_says_nothing_leaves_it_to_the_largest_score():
    patches = torch.zeros(1, 3, 4, 2).double()
    patches[0, 1, 1, 0], patches[0, 1, 2, 0] = 2.0, -2.0  # the border's mean is 0
    for sign in (1, -1):
        found = probes.pca_map(sign * patches, 1)
        assert found.margins[0] < 1e-9 and found.maps.isfinite().all()


def test_colours():
    maps = probes.pca_map(PATCHES).maps
    colours = probes.as_colours(maps)
    assert colours.shape == (3, 4, 6, 3) and colours.dtype == torch.uint8
    low, high = maps[:, 1].min(), maps[:, 1].max()
    assert abs(float(colours[2, 3, 1, 1]) - float(255 * (maps[2, 1, 3, 1] - low) / (high - low))) <= 0.5
    own = probes.as_colours(maps, joint=False)
    assert (own.flatten(1, 2).amax(1) == 255).all() and (own.flatten(1, 2).amin(1) == 0).all()
    assert not torch.equal(colours, own)
    with pytest.raises(ValueError, match="three components"):
        probes.as_colours(maps[:, :2])


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"patches are \(batch, rows, columns, dim\)"):
        probes.pca_map(PATCHES.flatten(1, 2))
    with pytest.raises(ValueError, match="from these tokens come 1 … 7"):
        probes.pca_map(PATCHES, components=8)
    with pytest.raises(ValueError, match="components is 2.5"):
        probes.pca_map(PATCHES, components=2.5)
    with pytest.raises(ValueError, match="components are of two tokens or more"):
        probes.pca_map(torch.ones(1, 1, 1, 4))
    with pytest.raises(ValueError, match="non-finite"):
        probes.as_colours(torch.full((1, 3, 2, 2), torch.nan))
    with pytest.raises(ValueError, match=r"others are \(3, tokens, 7\)"):
        probes.pca_map(PATCHES, others=torch.ones(2, 1, 7))
    with pytest.raises(ValueError, match="non-finite"):
        probes.pca_map(PATCHES / 0)
    flat = probes.pca_map(torch.ones(1, 3, 3, 4), 1)
    assert flat.maps.abs().max() == 0 and flat.shares.isfinite().all()
