"""The stored factors of real weights: what they say, that they survive saving, and that they are the weights'."""

import os
from pathlib import Path

import pytest
import torch

from dtl_lib import ViT
from dtl_lib.stored import scales as kept
from dtl_lib.stored.probes import ORIGINS

WEIGHTS = Path(os.environ.get("DTL_DATA", "")) / "weights" / f"{ORIGINS['vit_small_saliency'][0]}.safetensors"


def test_what_is_stored():
    scales = kept.load()
    assert scales.attention.shape == scales.mlp.shape == (12, 384)
    assert scales.stream.shape == scales.before.shape == scales.added.shape == (12, 2)
    medians = scales.attention.abs().median(dim=1).values
    assert medians[11] == pytest.approx(7.8, abs=0.1) and medians[1] == pytest.approx(0.2, abs=0.05)
    assert "DINOv2" in scales.source["weights_licence"] and scales.source["command"].endswith("vit_small_saliency")
    assert (kept.FOLDER / "vit_small_saliency.safetensors").stat().st_size < 30_000


def test_measured_as_by_hand():
    torch.manual_seed(0)
    model, image = ViT.build("vit_shapes_patch8_32", layer_scale=0.5).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for block in model.blocks:
            block.scale2.factor.mul_(-3)
        x, _ = model.embed(image)
        x = torch.cat([model.tokens["cls"][None], x], dim=1)
        block = model.blocks[0]
        a = block.attention(block.norm1(x))
        b = block.mlp(block.norm2(x + 0.5 * a))
    scales = kept.measure(model, image, {})
    wanted = torch.stack([torch.stack([x, x + 0.5 * a]), torch.stack([a, b]), torch.stack([0.5 * a, -1.5 * b])])
    given = torch.stack([scales.stream[0], scales.before[0], scales.added[0]])
    torch.testing.assert_close(given, wanted[:, :, 0].norm(dim=-1).median(dim=-1).values)
    assert (scales.attention == 0.5).all() and (scales.mlp == -1.5).all()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_result_survives_saving(tmp_path):
    scales = kept.load()
    kept.save(scales, "again", tmp_path)
    again = kept.load("again", tmp_path)
    assert again.source == scales.source
    assert all(torch.equal(getattr(again, key), getattr(scales, key)) for key in kept.TENSORS)


def test_what_is_not_stored_or_damaged_is_said(tmp_path):
    with pytest.raises(ValueError, match="there is vit_small_saliency"):
        kept.load("vit_huge")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged"):
        kept.load("broken", tmp_path)
    with pytest.raises(ValueError, match="nothing is stored as"):
        kept.compute("vit_huge")
    assert kept.main(["make", "vit_huge"]) == 2


def test_they_are_the_weights():
    if not WEIGHTS.is_file():
        pytest.skip(f"DTL_DATA holds no {WEIGHTS.name}")
    stored, now = kept.load(), kept.compute()
    for key in kept.TENSORS:
        torch.testing.assert_close(getattr(stored, key), getattr(now, key), rtol=2e-3, atol=2e-3)
