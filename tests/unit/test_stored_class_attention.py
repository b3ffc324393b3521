"""The stored maps of class attention: what they say, that the weights say so too, and that they are kept well."""

import os
from pathlib import Path

import pytest
import torch

from dtl_lib import stored
from dtl_lib.stored import class_attention as kept
from dtl_lib.stored.files import LEVELS

WEIGHTS = Path(os.environ.get("DTL_DATA", "")) / "weights" / f"{kept.WEIGHTS}.safetensors"
RIM = ((2, 3), (2, 11), (4, 10), (5, 2), (7, 8))  # patches on the rim of the cup, (row, column)


@pytest.fixture(scope="module")
def result():
    return kept.load()


def test_shapes_and_size(result):
    assert result.maps.shape == (4, 2, 3, 14, 14) and result.untouched.shape == (4, 3, 14, 14)
    assert result.probabilities.shape == (4, 2) and len(result.names) == 8
    assert (kept.FOLDER / f"{kept.NAME}.safetensors").stat().st_size < 20_000
    assert result.source["command"] == "python -m dtl_lib.stored.class_attention make"


def test_maps_are_shares(result):
    for maps in (result.maps, result.untouched):
        assert (maps >= 0).all() and (maps.sum(dim=(-2, -1)) < 1.02).all()
        assert (maps.sum(dim=(-2, -1)) > 0.9).all()


def test_every_photo_keeps_its_class(result):
    assert result.names[::2] == result.names[1::2]
    assert result.names[0] == "espresso" and "cat" in result.names[6]


def test_a_head_draws_the_rim_of_the_cup(result):
    head = result.maps[0, 1, 0]
    assert all(head[place] > 2 * head.median() for place in RIM)
    assert head[4, 6] < min(head[place] for place in RIM)  # inside it


def test_block_10_is_as_it_was_and_block_11_is_not(result):
    before = stored.load("vit_tiny_chelsea").class_maps
    chelsea = kept.PHOTOS.index("chelsea")
    assert torch.allclose(result.maps[chelsea, 0], before[10], atol=2e-3)
    assert torch.allclose(result.untouched[chelsea], before[11], atol=2e-3)
    assert not torch.allclose(result.maps[chelsea, 1], before[11], atol=1e-2)


def test_saving_loses_less_than_a_step_of_the_root(result, tmp_path):
    kept.save(result, "again", tmp_path)
    again = kept.load("again", tmp_path)
    assert torch.allclose(result.maps.sqrt(), again.maps.sqrt(), atol=float(result.maps.amax().sqrt()) / LEVELS)
    assert again.names == result.names and torch.equal(again.probabilities, result.probabilities)


def test_trouble(tmp_path, capsys):
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="is damaged .*dtl_lib.stored.class_attention make` writes"):
        kept.load("broken", tmp_path)
    assert kept.main(["make", "cait"]) == 2
    assert kept.NAME in capsys.readouterr().err


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the weights are not under DTL_DATA")
def test_weights_say_what_is_stored(result):
    again = kept.compute()
    assert torch.allclose(again.maps, result.maps, atol=3e-3) and again.names == result.names
    assert torch.allclose(again.probabilities, result.probabilities, atol=1e-3)
