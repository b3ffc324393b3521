"""The experiment on likeness to neighbours: planted worlds in which likeness, place or the photo decides, and masks."""

import numpy as np
import pytest
import torch

from book.experiments import high_norm_neighbours as experiment
from book.experiments.high_norm_neighbours import BETWEEN, BORDER, BOTH, PAPERS, PLACE, SAME
from book.experiments.knows_states import eight
from dtl_lib import data, ledger, load_pretrained, probes

PHOTOS, SIDE, EFFECT = 200, 10, 1.0
CORNERS, ENDS = experiment.on_border(SIDE, SIDE)[0], torch.zeros(SIDE, SIDE, dtype=torch.bool)
ENDS[tuple(zip(*eight(SIDE, SIDE)))] = True


def world(decides: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Likeness, and which patches are long: half of the eight on average, or the corners alone."""
    draw = torch.Generator().manual_seed(4)  # one interval in twenty misses; in this draw none does
    likeness = torch.randn(PHOTOS, SIDE, SIDE, generator=draw)
    drive = torch.randn(PHOTOS, SIDE, SIDE, generator=draw)
    if decides == "likeness":
        drive = likeness
    if decides == "unlikeness":
        drive = -likeness
    if decides in ("place", "corners"):  # these places are smooth in every photo, long or not
        likeness += EFFECT * (ENDS | CORNERS)
        drive += torch.linspace(-0.5, 0.5, SIDE)[:, None]
        likeness += torch.linspace(-1, 1, SIDE)[:, None]  # and the lower ones more so, and more often long
    if decides == "photo":  # some photos are smooth all over, and long all over
        smooth = torch.randn(PHOTOS, 1, 1, generator=draw)
        likeness, drive = likeness + EFFECT * smooth, drive + smooth
    long = CORNERS.expand_as(likeness) if decides == "corners" else (drive > 0) & ENDS
    return likeness, long


FOUND = {  # contrast → whether each is above 0 (1), below (−1), or not told from 0 (0)
    "likeness": {PAPERS: 1, BORDER: 1, BETWEEN: 1, SAME: 1, BOTH: 1, PLACE: 0},
    "unlikeness": {PAPERS: -1, BORDER: -1, BETWEEN: -1, SAME: -1, BOTH: -1, PLACE: 0},
    "place": {PAPERS: 1, BORDER: 1, BETWEEN: 1, SAME: 0, BOTH: 0, PLACE: 1},
    "photo": {PAPERS: 0, BORDER: 0, BETWEEN: 0, SAME: 1, BOTH: 0, PLACE: 0},
    "nothing": {PAPERS: 0, BORDER: 0, BETWEEN: 0, SAME: 0, BOTH: 0, PLACE: 0},
    "corners": {PAPERS: 1, BORDER: 1, PLACE: 1},
}
SAID = {"likeness": "reproduced", "unlikeness": "the opposite", "photo": "reproduced in part"}


@pytest.mark.parametrize("decides", FOUND)
def test_likeness_place_and_photo_are_told_apart(decides, monkeypatch):
    monkeypatch.setattr(experiment, "DRAWS", 400)
    found = experiment.contrasts(*world(decides))
    signs = {name: (one.low > 0) - (one.high < 0) for name, one in found.items()}
    expected = dict(FOUND[decides])
    if decides in ("likeness", "unlikeness"):  # long ones are taken from among the places: the rest is the reverse
        signs.pop(PLACE), expected.pop(PLACE)
    assert signs == expected
    if decides != "corners":
        values = {f"embedding: {name}": [one.value, one.low, one.high] for name, one in found.items()}
        assert experiment.verdict(values) == SAID.get(decides, "null at this scale")


def test_the_two_statistics_by_hand():
    likeness, long = (
        np.array([[5.0, 1.0], [3.0, 2.0], [4.0, 9.0]]),
        np.array([[True, False], [False, False], [True, True]]),
    )
    assert experiment.same_places(likeness, long) == pytest.approx(((4.5 - 3) + (9 - 1.5)) / 2)
    dummies = np.zeros((6, 6))
    for row, (photo, place) in enumerate(np.ndindex(3, 2)):
        dummies[row, photo] = dummies[row, 3 + place] = 1
        dummies[row, 5] = long[photo, place]
    by_regression = np.linalg.lstsq(dummies, likeness.flatten(), rcond=None)[0][5]
    assert experiment.same_places_and_photos(likeness, long) == pytest.approx(by_regression)
    assert np.isnan(experiment.same_places_and_photos(likeness, np.ones((3, 2), dtype=bool)))


def test_a_photo_without_both_kinds_counts_for_nothing():
    likeness = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    some = torch.tensor([[[True, False], [True, False]], [[False, False], [False, False]]])
    assert experiment.by_photo(likeness, some, ~some).tolist() == [-1.0]
    values = experiment.of_photos({name: likeness for name in experiment.MEASURES}, some)
    assert values["found"] == 2 == values["on the corners"] and values["likeness: others"] == pytest.approx(32 / 6)


def test_patches_on_objects_are_counted_by_place():
    long, objects = torch.zeros(1, 6, 8, dtype=torch.bool), torch.zeros(1, 6, 8, dtype=torch.bool)
    long[0, 0, 0] = long[0, 0, 1] = long[0, -1, -1] = long[0, 3, 3] = True
    objects[0, :3, :2] = True
    found = experiment.of_objects(long, objects)
    assert (found["long"], found["long, on the object"], found["long, on the border"]) == (4, 2, 3)
    assert found["share of the object, all patches"] == 6 / 48 and found["share of the object, border"] == 4 / 24
    assert (found["corners on the object, long"], found["corners on the object"]) == (1, 1)
    assert (found["corners beside it, long"], found["corners beside it"]) == (1, 3)
    assert (found["eight places on the object, long"], found["eight places on the object"]) == (1, 2)
    assert (found["eight places beside it, long"], found["eight places beside it"]) == (0, 6)


def test_seen_takes_the_embedding_before_positions(monkeypatch):
    monkeypatch.setattr(experiment, "BLOCK", 2)
    model, images = load_pretrained("zoo/shapes_depth6"), data.load("shapes").test.batch(range(3))[0]
    embedded, placed, long, longer = experiment.in_batches(model, images)
    with torch.no_grad():
        assert torch.equal(embedded, model.patch_embed(images)) and not long.any()
        assert longer.shape == long.shape and not longer.any()
        assert torch.allclose(placed, embedded + model.positions, atol=1e-6)
    flat = probes.neighbour_likeness(model.patch_embed(torch.zeros_like(images)).detach())
    assert torch.allclose(flat, torch.ones_like(flat))  # a plain picture is like its neighbours, wherever it is


def test_a_record_is_made_once_and_the_claim_once(tmp_path, monkeypatch):
    folder, made = str(tmp_path), []
    likeness, long = world("likeness")

    def measure(model, size):
        made.append(size)
        return experiment.of_photos({name: likeness for name in experiment.MEASURES}, long), len(long)

    monkeypatch.setattr(experiment, "DRAWS", 200)
    monkeypatch.setattr(experiment, "load_pretrained", lambda name: load_pretrained("zoo/shapes_depth6"))
    monkeypatch.setattr(experiment, "on_photos", measure)
    monkeypatch.setattr(experiment, "on_objects", lambda model, video, by_length=False: ({"long": 4}, 10))
    for _ in range(2):
        experiment.main(["--folder", folder])
    assert made == list(experiment.SIZES) and len(ledger.read(experiment.EXPERIMENT, folder)) == 6
    (row,) = ledger.read(experiment.PAPER, folder)
    assert row.what == experiment.CLAIM + "reproduced" and row.n == PHOTOS and row.get(SAME)[1] > 0
    large = ledger.read(experiment.EXPERIMENT, folder)[1]
    again = [
        torch.tensor(large.get(f"photos: {name} at the eight places")).view(-1, 8) for name in ("likeness", "long")
    ]
    found = experiment.bootstrap(experiment.same_places, again[0], again[1].bool())
    assert found.value == pytest.approx(large.get(f"embedding: {SAME}")[0], abs=1e-4)


def test_objects_by_length_do_not_ask_what_the_input_told(monkeypatch):
    """Frames alike at their corners: the detector finds none there, and length alone does."""
    frames, objects = torch.zeros(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.bool)
    corners = torch.zeros(2, 8, 8, dtype=torch.bool)
    corners[:, 0, 0] = True
    monkeypatch.setattr(experiment.lost, "frames", lambda video, model: (frames, objects))
    monkeypatch.setattr(experiment, "windows", lambda video, model: (frames, objects))
    monkeypatch.setattr(experiment, "in_batches", lambda model, images: [None, None, ~corners & False, corners])
    model = load_pretrained("zoo/shapes_depth6")
    for by_length, there in ((False, 0), (True, 2)):
        values, n = experiment.on_objects(model, "dog", by_length)
        assert n == 2 and values["whole: corners beside it, long"] == there == values["windows: long"]


def test_length_alone_is_against_the_image_s_own_median(monkeypatch):
    monkeypatch.setattr(experiment, "BLOCK", 2)
    model, images = load_pretrained("zoo/shapes_depth6"), data.load("shapes").test.batch(range(3))[0]

    def plant(block, given, output):  # one patch of the second image, six medians long
        output[1, 10] *= 6 * output[1, 1:].norm(dim=-1).median() / output[1, 10].norm()
        return output

    handle = model.blocks[2].register_forward_hook(plant)
    *_, longer = experiment.in_batches(model, images)
    handle.remove()
    assert longer.nonzero().tolist() == [[1, 1, 1]]
