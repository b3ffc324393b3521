"""The experiment of chapter 16: its cells, controls and signs on images whose answer is known."""

import pytest
import torch

from book.experiments import lost
from dtl_lib import load_pretrained, probes
from tests.unit.fixed import noise


def test_cells_are_eleven_and_the_jobs_have_names_of_their_own():
    assert len(lost.CELLS) == len(set(lost.CELLS)) == 11
    whats = [what for what, *_ in lost.jobs()]
    assert len(whats) == len(set(whats)) == 14


def test_controls_of_a_planted_object():
    masks = torch.zeros(2, 16, 24, dtype=torch.bool)
    masks[:, 4:12, 8:20] = True
    images = torch.where(masks[:, None], 1.0, -1.0) + 0.01 * noise(2, 3, 16, 24).float()
    boxes = lost.controls(images, masks, 4)
    assert boxes["best of whole patches"].tolist() == boxes["pixels"].tolist() == [[4, 8, 12, 20]] * 2
    assert boxes["whole image"].tolist() == [[0, 0, 16, 24]] * 2 and boxes["middle"].tolist() == [[4, 6, 12, 18]] * 2
    scored = lost.scored(boxes["whole image"], masks)
    assert scored["right"] == [0.0, 0.0] and scored["overlap"] == pytest.approx([0.25, 0.25])


def test_a_small_object_still_has_a_best_box():
    masks = torch.zeros(1, 16, 24, dtype=torch.bool)
    masks[0, 5, 6] = True
    assert lost.controls(torch.rand(1, 3, 16, 24), masks, 4)["best of whole patches"].tolist() == [[4, 4, 8, 8]]


def test_signs_are_counted_by_the_object():
    patches = torch.zeros(2, 5, 6, 4).double() + 0.01 * noise(2, 5, 6, 4)
    patches[0, 1:4, 2:4, 0], patches[1, 0, :, 0] = 1.0, 1.0  # the second lies on the border
    objects = patches[..., 0] > 0.5
    found = lost.signs(patches, objects)
    assert found == {"sign by border": 0.5, "sign by largest score": 1.0, "sign by longer tail": 1.0}


def test_long_patches_are_those_before_the_last_block():
    model = load_pretrained("zoo/shapes_depth6_reg4")
    images = torch.randn(2, 3, 32, 32)
    features, long = lost.last_block(model, images)
    assert set(features) == set(lost.CELLS) and long.shape == (2, 8, 8) and not long.all()


def test_records_are_made_once(tmp_path, monkeypatch):
    calls = []
    model = load_pretrained("zoo/shapes_depth6_reg4")
    monkeypatch.setattr(lost, "SHAPES", 20)
    monkeypatch.setattr(lost, "BATCH", 10)

    def jobs():
        yield "ours", lambda: model, lambda one: calls.append(1) or lost.on_shapes(one), 20

    monkeypatch.setattr(lost, "jobs", jobs)
    monkeypatch.setattr(lost, "add_claims", lambda folder: None)
    lost.main(["--folder", str(tmp_path)])
    lost.main(["--folder", str(tmp_path)])
    (entry,) = lost.ledger.read("lost", tmp_path)
    assert len(calls) == 1 and entry.n == 20
    for cell in ("k, keep", "pixels", "best of whole patches"):
        assert 0 <= entry.values[f"corloc: {cell}"] <= 1
    test = next(iter(lost.shapes(model)))
    features, _ = lost.last_block(model, test[0])
    boxes = 4 * probes.lost(features["v", "drop"]["patches"]).boxes
    first = probes.corloc(boxes, probes.boxes_of(test[1])).double().mean()
    assert abs(float(first) - entry.values["corloc: v, drop"]) <= 0.5
    assert "overlap: first joint component, registers counted" in entry.values


def test_claims_are_made_of_the_records_and_once(tmp_path):
    for entry in lost.ledger.read("lost"):
        lost.ledger.append(entry, tmp_path)
    lost.add_claims(tmp_path)
    lost.add_claims(tmp_path)
    first, second, third = lost.ledger.read("registers_paper", tmp_path)
    ours = {entry.what: entry for entry in lost.ledger.read("lost")}["shapes, no registers, trained"]
    assert first.values["no registers, keys as learned"] == ours.values["corloc: k, keep"]
    assert first.values["no registers, best of eleven"] == max(
        value for name, value in ours.values.items() if name.startswith("corloc") and name[8] in "qkvt" and "," in name
    )
    assert second.values["LOST begins with one: k, centre"] == 0 and "out of reach" in third.what
