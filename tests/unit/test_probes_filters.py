"""Filters: the projection's own, their components against an eigendecomposition, and their pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dtl_lib import probes
from tests.unit.loops import TINY, needs_tiny
from tests.unit.small import SMALL, build, images


def eigen(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Components, one a row, and their shares of the variance, from the covariance of the filters."""
    points = weight.reshape(len(weight), -1).astype(np.float64)
    covariance = np.cov(points, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    return vectors.T[::-1], values[::-1] / values.sum()


def check(model) -> None:
    weight = model.patch_embed.project.weight.detach().double().numpy()
    found = probes.principal_filters(model)
    components, shares = eigen(weight)
    count = len(found.shares)
    assert count == min(len(weight) - 1, weight[0].size)
    np.testing.assert_allclose(found.shares, shares[:count], rtol=1e-4, atol=1e-9)
    flat = found.filters.flatten(1).double().numpy()
    np.testing.assert_allclose(flat @ flat.T, np.eye(count), atol=1e-5)
    for ours, theirs, share, after in zip(flat, components, shares, [*shares[1:], 0]):
        if share - after > 1e-3:  # of components that explain as much, any pair will do
            assert abs(ours @ theirs) == pytest.approx(1, abs=1e-4)
    assert all(one[np.abs(one).argmax()] > 0 for one in flat)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, dim=96, heads=3), replace(SMALL, channels=1)])
def test_components_are_those_of_the_covariance(config):
    check(build(config))


@needs_tiny
def test_components_of_real_weights():
    from dtl_lib import load_pretrained

    model = load_pretrained(TINY)
    check(model)
    shares = probes.principal_filters(model).shares
    assert len(shares) == 191 and shares[:8].sum() > 0.15


def test_a_filter_is_what_a_patch_is_multiplied_with():
    model, x = build(SMALL), images(SMALL)
    filters = probes.embedding_filters(model)
    assert filters.shape == (12, 3, 4, 4) and filters.dtype == torch.float64
    with torch.no_grad():
        token = model.patch_embed(x)[1, 1, 2]
    by_hand = (filters * x[1, :, 4:8, 8:12]).sum(dim=(1, 2, 3)) + model.patch_embed.project.bias.detach()
    torch.testing.assert_close(token, by_hand)
    filters.zero_()
    assert probes.embedding_filters(model).any(), "the model keeps its own"
    assert probes.embedding_filters(model.half()).dtype == torch.float32


def test_pictures_keep_the_sign_and_the_place():
    filters = torch.zeros(3, 3, 2, 4)
    filters[0, 2, 1, 3], filters[0, 0, 0, 0], filters[1, 1] = 4.0, -2.0, -1.0
    pictures = probes.as_pictures(filters)
    assert pictures.shape == (3, 2, 4, 3)
    assert pictures[0, 1, 3, 2] == 1 and pictures[0, 0, 0, 0] == 0.25 and pictures[0, 1, 0].eq(0.5).all()
    assert pictures[1, ..., 1].eq(0).all() and pictures[2].eq(0.5).all()
    assert probes.as_pictures(filters[:, :1]).shape == (3, 2, 4, 1)
    with pytest.raises(ValueError, match="3 or 1 channels"):
        probes.as_pictures(filters[:, [0, 0, 0, 0]])


def test_weights_without_components_are_refused():
    model = build(SMALL)
    with torch.no_grad():
        model.patch_embed.project.weight.fill_(0.5)
    with pytest.raises(ValueError, match="all alike"):
        probes.principal_filters(model)
    with torch.no_grad():
        model.patch_embed.project.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="non-finite"):
        probes.principal_filters(model)
