"""What is stored of register neurons: shapes and limits, that it survives saving, and that it is the weights'."""

import os
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from dtl_lib import stored
from dtl_lib.stored import registers
from tests.unit.test_registers import BLOCK, WRITER, images, planted

DATA = Path(os.environ.get("DTL_DATA", ""))
WEIGHTS = DATA / "weights" / f"{registers.ORIGINS['vit_tiny'][0]}.safetensors"


def same(one, other, tolerance: float = 0.0) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    tensors = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor)]
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in tensors)


def test_shapes_limits_and_the_other_stored_result():
    result = registers.load()
    assert result.shares.shape == result.high.shape == result.usual.shape == (11, 768)
    assert result.norms.shape == result.class_maps.shape == (2, 3, 12, 14, 14)
    assert (result.neuron.block, result.neuron.neuron) == (7, 417) and result.photos == ("chelsea", "coffee")
    assert result.class_maps.flatten(-2).sum(dim=-1).max() < 1.01
    held = result.class_maps[:, :, 10][..., [0, 0, 13, 13], [0, 13, 0, 13]].sum(dim=-1)
    assert (held[:, 0] > held[:, 1]).all() and (held[:, 1] > 10 * held[:, 2]).all(), "the corners, in each state"
    torch.testing.assert_close(result.norms[0, 0], stored.load().patch_norms, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(result.class_maps[0, 0], stored.load().class_maps.mean(dim=1), rtol=0, atol=0.02)
    assert (registers.FOLDER / "vit_tiny.safetensors").stat().st_size < 200_000
    assert result.source["command"].endswith("make vit_tiny")


def test_what_is_measured_on_a_model_whose_neuron_is_known(tmp_path):
    model, (made, long) = planted(), images()
    result = registers.measure(model, made, [2, 0], ("a", "b"), {"command": "none"})
    assert (result.neuron.block, result.neuron.neuron) == (BLOCK, WRITER)
    before, after, more = result.norms[:, :, BLOCK].unbind(dim=1)
    assert torch.equal(before.flatten(1).argmax(dim=1), long[[2, 0]].flatten(1).int().argmax(dim=1))
    assert max(after.amax(), more.amax()) < 0.2 * before.amax(dim=(1, 2)).min()
    assert torch.equal(result.activation > 5, long[[2, 0]])
    assert not result.token_norms[:, 0].any() and not result.token_share[:, 0].any()
    assert not result.token_norms[:, 1, :BLOCK].any() and (result.token_norms[:, 1, BLOCK] > after.amax()).all()
    assert not result.token_share[:, 1, :BLOCK].any() and (result.token_share[:, 1, BLOCK + 1] > 0).all()
    registers.save(result, "again", tmp_path)
    again = registers.load("again", tmp_path)
    assert again.photos == result.photos and same(again, result, 0.01) and not same(again, result)


def test_what_is_not_stored_or_damaged_is_said(tmp_path):
    with pytest.raises(ValueError, match="there is vit_tiny"):
        registers.load("vit_huge")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged"):
        registers.load("broken", tmp_path)
    with pytest.raises(ValueError, match="nothing is stored as"):
        registers.compute("vit_huge")
    assert registers.main(["make", "vit_huge"]) == 2


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="DTL_DATA does not hold the weights")
def test_what_is_stored_is_what_the_weights_give():
    assert same(registers.load(), registers.compute(), 0.02)
