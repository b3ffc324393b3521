"""What is stored of a photo that is taken apart: shapes, that it survives saving, and that it is the weights'."""

import os
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from dtl_lib import stored
from dtl_lib.stored import faithful
from tests.unit.test_registers import images, planted

DATA = Path(os.environ.get("DTL_DATA", ""))
WEIGHTS = DATA / "weights" / f"{faithful.WEIGHTS}.safetensors"


def same(one, other, tolerance: float = 0.0) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    tensors = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor)]
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in tensors)


def test_shapes_and_the_other_stored_maps():
    result, routes = faithful.load(), stored.load_routes("vit_tiny_coffee")
    count = len(result.names)
    assert result.maps.shape == (count, 14, 14) and result.deletion.shape == result.insertion.shape == (4, count, 15)
    assert result.random.shape == (4, 8) and result.swapped.shape == (2, 12, 2)
    for name, other in (("last block", routes.last_block), ("relevance", routes.relevance[0])):
        torch.testing.assert_close(result.maps[result.names.index(name)], other, rtol=0.02, atol=0.02)
    assert torch.allclose(result.deletion[..., 0], result.insertion[..., -1])
    assert torch.allclose(result.deletion[..., -1], result.insertion[..., 0])
    assert result.source["command"].endswith("make vit_tiny")


def test_what_is_measured_on_a_model_whose_neuron_is_known(tmp_path):
    model, (made, _) = planted(), images(4)
    photos = {name: made[i : i + 1] for i, name in enumerate("abcd")}
    result = faithful.measure(model, photos, "a", "c", {"command": "none"})
    with torch.no_grad():
        chances = model(made).softmax(dim=-1)
        classes = chances.argmax(dim=1)
    assert torch.allclose(result.deletion[:, :, 0], chances[0, classes[0]])
    assert result.classes == tuple(map(str, classes[[0, 2]].tolist()))
    at_entry = chances[0, classes[[0, 2]]]  # the class token enters there, the same in every image
    assert torch.allclose(result.swapped[0, 0], at_entry, atol=1e-6)
    gap = torch.trapezoid(result.insertion - result.deletion, torch.linspace(0, 1, 15))
    assert torch.allclose(result.gap, gap, atol=1e-6)
    faithful.save(result, "again", tmp_path)
    again = faithful.load("again", tmp_path)
    assert again.names == result.names and again.tokens == result.tokens
    assert same(again, result, 0.01) and not same(again, result)


def test_what_is_not_stored_or_damaged_is_said(tmp_path):
    with pytest.raises(ValueError, match="there is vit_tiny"):
        faithful.load("vit_huge")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged"):
        faithful.load("broken", tmp_path)
    with pytest.raises(ValueError, match="nothing is stored as"):
        faithful.compute("vit_huge")
    assert faithful.main(["make", "vit_huge"]) == 2


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="DTL_DATA does not hold the weights")
@pytest.mark.slow
def test_what_is_stored_is_what_the_weights_give():
    assert same(faithful.load(), faithful.compute(), 0.02)
