"""The experiment on LOST with registers that nobody trained, on a model in which a known neuron writes long patches."""

import pytest
import torch

from book.experiments import lost_registers as experiment
from dtl_lib import ledger, probes, record
from dtl_lib.moving import Mover
from tests.unit.test_registers import images, planted


def given(count: int = 6) -> experiment.Given:
    made, _ = images(count)
    masks = torch.zeros(count, *made.shape[-2:], dtype=torch.bool)
    masks[:, 4:20, 8:28] = True
    return [(made[:4], masks[:4]), (made[4:], masks[4:])]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "SETS", {"made up": lambda model: given()})
    monkeypatch.setattr(experiment, "BLOCK", 1)
    monkeypatch.setattr(experiment, "DRAWS", 2)
    model = planted()
    found = experiment.find(model, given()[0][0])
    made = [*experiment.measure("ours", model, found, str(tmp_path))]
    assert not [*experiment.measure("ours", model, found, str(tmp_path))], "each once"
    return model, found, {(row.what.partition(": ")[2], row.seed): row for row in made}


def test_every_way_has_a_record_and_what_is_untouched_is_what_lost_says(rows):
    model, found, of = rows
    wanted = {("untouched", 0), ("1 neuron moved", 0), ("10 neurons moved", 0), ("1 random neuron moved", 0),
              ("1 random neuron moved", 1), ("idle token from block 1", 0), ("idle token from block 0", 0)}  # fmt: skip
    assert set(of) == wanted and all(row.n == 6 for row in of.values())
    right, overlap = [], []
    for x, masks in given():
        with torch.no_grad(), record(model) as tape:
            model(x)
        patches = probes.features(model, tape, model.plan.blocks - 1, "v", "centre")["patches"]
        box, true = model.config.patch_size * probes.lost(patches).boxes, probes.boxes_of(masks)
        right += probes.corloc(box, true).int().tolist()
        overlap += probes.box_iou(box, true).tolist()
    plain = of["untouched", 0]
    assert plain.get("right: v, centre") == right and plain.get("corloc: v, centre") == sum(right) / 6
    assert plain.get("overlap: v, centre") == pytest.approx(sum(overlap) / 6)
    assert plain.get("long patches") > 0 and "difference: v, centre" not in plain.values
    assert of["1 neuron moved", 0].get("difference: v, centre") == pytest.approx(
        of["1 neuron moved", 0].get("corloc: v, centre") - plain.get("corloc: v, centre")
    )


def test_boxes_are_those_of_the_changed_model(rows, monkeypatch):
    model, found, of = rows
    seen = []
    call = Mover.__call__
    monkeypatch.setattr(Mover, "__call__", lambda self, *given: seen.append(1) or call(self, *given))
    places = experiment.long_places(model, given())
    way = experiment.ways(model, found)["1 neuron moved", 0]
    with way() as changed:
        again = experiment.boxes(changed, given(), places)
    assert seen, "the neuron was moved while the model was looked at"
    token = torch.tensor(again["token, keep"]["overlap"]).mean()
    assert of["1 neuron moved", 0].get("overlap: token, keep") == pytest.approx(float(token))
    assert of["1 neuron moved", 0].get("overlap: token, keep") != of["untouched", 0].get("overlap: token, keep")


def test_a_model_without_neurons_has_its_controls_alone(monkeypatch):
    monkeypatch.setattr(experiment, "BLOCK", 1)
    made = experiment.ways(planted(), ())
    assert {what for what, _ in made} == {"idle token from block 1", "idle token from block 0", "1 random neuron moved"}


@pytest.mark.parametrize(
    ("gain", "said"), [((8, 8), "reproduced"), ((8, 0), "null at this scale"), ((-8, -8), "the opposite")]
)
def test_the_claim_by_its_rule(tmp_path, gain, said):
    for number, title in enumerate(experiment.SETS):
        for way in (experiment.UNTOUCHED, experiment.MOVED[0]):
            hits = 10 + gain[number] * (way != experiment.UNTOUCHED)
            right = {f"right: {row}": [0] * 20 for row in experiment.ROWS}
            row = "v, centre" if way == experiment.UNTOUCHED else "k, drop"
            right[f"right: {row}"] = [int(number < hits) for number in range(20)]
            values = right | {name.replace("right", "corloc"): sum(one) / 20 for name, one in right.items()}
            what = f"{experiment.TINY}, {title}: {way}"
            ledger.add(experiment.EXPERIMENT, what, "x", "cpu", values, n=20, seed=0, folder=str(tmp_path))
    row = experiment.claim(str(tmp_path))
    assert row.what.endswith(f": {said}") and row.n == 40
    assert row.get("best of eleven, moved less untouched, DAVIS") == gain[0] / 20
    assert experiment.claim(str(tmp_path)) is None, "once"
