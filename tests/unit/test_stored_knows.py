"""Photos rebuilt from tokens: shapes, that they survive saving, and that each patch comes from its own token."""

import pytest
import torch

from dtl_lib import find_register_neurons, probes, record
from dtl_lib.exercises.moved_neuron import planted
from dtl_lib.stored import knows


def test_shapes_and_size():
    result, count = knows.load(), len(knows.PHOTOS)
    assert result.photos.shape == (count, 160, 160, 3) and result.photos.dtype == torch.uint8
    assert result.rebuilt.shape == (count, len(knows.BLOCKS), 160, 160, 3)
    assert result.long.shape == (count, 20, 20) and result.long.any()
    assert result.patches.shape == (int(result.long.sum()), len(knows.KINDS), 16, 16, 3)
    assert (knows.FOLDER / "vit_tiny.safetensors").stat().st_size < 700_000
    assert result.n == 200 and result.source["command"].endswith("vit_tiny")


def test_a_photo_is_like_what_is_rebuilt_and_less_so_with_each_block():
    result = knows.load()
    apart = (result.rebuilt.float() - result.photos[:, None].float()).square().mean(dim=(0, 2, 3, 4))
    assert (apart.diff() > 0).all() and apart[0] < 100


def test_a_result_survives_saving(tmp_path):
    result = knows.load()
    knows.save(result, "again", tmp_path)
    again = knows.load("again", tmp_path)
    assert (again.source, again.n) == (result.source, result.n)
    assert all(torch.equal(getattr(again, key), getattr(result, key)) for key in knows.TENSORS)


def test_what_is_not_stored_or_damaged_is_said(tmp_path):
    with pytest.raises(ValueError, match="there is vit_tiny"):
        knows.load("vit_huge")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged"):
        knows.load("broken", tmp_path)
    with pytest.raises(ValueError, match="nothing is stored as"):
        knows.compute("vit_huge")
    assert knows.main(["show"]) == 2


def test_patches_are_rebuilt_in_their_places():
    """A model whose red patches are long: what a probe of long tokens says stands in their places."""
    model, _, _ = planted()
    draw = torch.Generator().manual_seed(1)
    images = 0.05 * torch.randn(40, 3, 48, 64, generator=draw)
    red = torch.zeros(40, 48, dtype=torch.bool)  # one an image: of two alike, the input would tell
    red[torch.arange(40), torch.randint(48, (40,), generator=draw)] = True
    red = red.view(40, 6, 8)
    images[:, 0] += red.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    with torch.no_grad(), record(model) as tape:
        model(images)
    assert torch.equal(probes.find_outliers(tape).mask(2), red)
    neurons = find_register_neurons(model, images, red, 2)
    result = knows.measure(model, neurons, images[:30].split(10), images[30:], {}, ("input", 1, 3))
    assert result.n == 30 and torch.equal(result.long, red[30:])
    assert result.photos.shape == (10, 24, 32, 3) and result.rebuilt.shape == (10, 3, 24, 32, 3)
    assert result.patches.shape == (int(red[30:].sum()), 3, 8, 8, 3)
    redness = result.rebuilt[:, 2, :, :, 0].float() - result.rebuilt[:, 2, :, :, 1].float()
    there = red[30:].repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    assert redness[there].min() > redness[~there].max() + 30
    true, rebuilt, twin = result.patches.float().mean(dim=(0, 2, 3))
    assert (rebuilt - true).abs().max() < 15 and (twin - true).abs().max() < 15
