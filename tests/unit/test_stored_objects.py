"""The stored maps and boxes: shapes, that they survive saving, and that they are the weights'."""

import os
from pathlib import Path

import pytest
import torch

from dtl_lib import data, probes, record
from dtl_lib.stored import objects
from dtl_lib.stored.probes import ORIGINS, pretrained

DATA = Path(os.environ.get("DTL_DATA", ""))
WEIGHTS = DATA / "weights" / f"{ORIGINS['vit_tiny'][0]}.safetensors"
GRIDS = {"vit_tiny": 24, "vit_small_saliency": 27}


@pytest.mark.parametrize("name", GRIDS)
def test_shapes_and_limits(name):
    result, side = objects.load(name), GRIDS[name]
    assert result.joint.shape == result.own.shape == (4, side, side, 3) and result.joint.dtype == torch.uint8
    assert result.boxes.shape == (4, len(objects.CELLS), 4) and result.long.shape == (4, side, side)
    assert (result.boxes[..., :2] < result.boxes[..., 2:]).all() and 0 <= result.boxes.min()
    assert result.boxes.max() <= side and result.first.shape == (4, side, side)
    assert (result.shares.diff() < 0).all() and 0 < float(result.shares.sum()) < 1
    border = torch.ones(side, side, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert result.first[:, border].mean() <= 0, "the rule of the sign"
    assert (objects.FOLDER / f"{name}.safetensors").stat().st_size < 100_000
    assert result.source["command"].endswith(name)


@pytest.mark.parametrize("name", GRIDS)
def test_a_result_survives_saving(name, tmp_path):
    result = objects.load(name)
    objects.save(result, "again", tmp_path)
    again = objects.load("again", tmp_path)
    assert again.source == result.source
    assert all(torch.equal(getattr(again, key), getattr(result, key)) for key in objects.TENSORS)


def test_what_is_not_stored_or_damaged_is_said(tmp_path):
    with pytest.raises(ValueError, match="there is vit_small_saliency, vit_tiny"):
        objects.load("vit_huge")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged"):
        objects.load("broken", tmp_path)
    with pytest.raises(ValueError, match="nothing is stored as"):
        objects.compute("vit_huge")
    assert objects.main(["show"]) == 2


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the weights of ViT-Ti/16 are not under DTL_DATA")
def test_the_stored_maps_are_what_the_weights_say():
    model, result = pretrained(ORIGINS["vit_tiny"][0]), objects.load("vit_tiny")
    x = objects.pictures(model)
    assert x.shape == (4, 3, 384, 384) and data.undo(x[:1]).shape == (1, 384, 384, 3)
    with torch.no_grad(), record(model) as tape:
        model(x)
    tokens = probes.features(model, tape, 11, "token")["patches"]
    found = probes.pca_map(tokens)
    scale = result.first.abs().max()
    torch.testing.assert_close(found.maps[:, 0].float() / scale, result.first / scale, atol=2e-3, rtol=0)
    same = (probes.as_colours(found.maps).int() - result.joint.int()).abs() <= 2
    assert same.double().mean() > 0.99
