"""The stored findings of the probes: shapes and limits, that they survive saving, and that they are the weights'."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dtl_lib import data, load_pretrained, stored
from dtl_lib.stored import probes

DATA = Path(os.environ.get("DTL_DATA", ""))
WEIGHTS = DATA / "weights" / f"{probes.ORIGINS['vit_tiny'][0]}.safetensors"
SHAPES = {
    "vit_tiny": {"filters": (28, 16, 16, 3), "shares": (191,), "distance": (3, 12, 3), "cat": (13, 14, 14)},
    "vit_small_saliency": {"filters": (28, 14, 14, 3), "shares": (383,), "distance": (3, 12, 6), "cat": None},
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_limits(name):
    result = probes.load(name)
    for field, shape in SHAPES[name].items():
        value = getattr(result, field)
        assert (value is None) == (shape is None) and (value is None or tuple(value.shape) == shape)
    assert result.n == 80 and result.filters.min() >= 0 and result.filters.max() <= 1
    torch.testing.assert_close(result.shares.sum(), torch.tensor(1.0))
    mean, low, high = result.distance
    assert (low < mean).all() and (mean < high).all()
    assert (result.distance_raw[0] <= mean).all()
    assert (probes.FOLDER / f"{name}.safetensors").stat().st_size < 200_000
    assert result.source["command"].endswith(name)


def test_the_lens_of_the_cat_ends_as_the_stored_prediction_does():
    result, other = probes.load("vit_tiny"), stored.load("vit_tiny_chelsea")
    assert result.names[result.says[12, 0]] == other.top5[0][0].replace("_", " ")
    assert 0 <= result.cat.min() and result.cat.max() <= 1
    assert result.cat_class_token[12] > sum(share for name, share in other.top5 if name.endswith("Egyptian cat"))
    assert result.right.max() <= result.n


@pytest.mark.parametrize("name", SHAPES)
def test_a_result_survives_saving(name, tmp_path):
    result = probes.load(name)
    probes.save(result, "again", tmp_path)
    again = probes.load("again", tmp_path)
    assert again.names == result.names and again.source == result.source
    for field in (*probes.TENSORS, *probes.OPTIONAL):
        value = getattr(result, field)
        assert (getattr(again, field) is None) if value is None else torch.equal(getattr(again, field), value)


def test_what_is_not_stored_or_damaged_is_said(tmp_path):
    with pytest.raises(ValueError, match="there is vit_small_saliency, vit_tiny"):
        probes.load("vit_huge")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged"):
        probes.load("broken", tmp_path)
    with pytest.raises(ValueError, match="nothing is stored as"):
        probes.compute("vit_huge")
    assert probes.main(["show"]) == 2


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the weights of ViT-Ti/16 are not under DTL_DATA")
def test_the_stored_cat_is_what_the_weights_say():
    result, model = probes.load("vit_tiny"), load_pretrained(probes.ORIGINS["vit_tiny"][0])
    found = probes.lens_of_cat(model, data.prepare(data.photo("chelsea"), config=model.config))
    torch.testing.assert_close(found["cat"], result.cat, atol=2e-3, rtol=0)
    torch.testing.assert_close(found["cat_class_token"], result.cat_class_token, atol=2e-3, rtol=0)
    damaged = replace(result, cat=result.cat.flip(-1))
    assert not torch.allclose(found["cat"], damaged.cat, atol=2e-3)
