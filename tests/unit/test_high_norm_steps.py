"""The experiment on when high-norm tokens appear in training: what a look sees, a toy run, and the claim's rule."""

from dataclasses import replace

import pytest
import torch

from book.experiments import high_norm_steps as experiment
from book.experiments import study
from dtl_lib import data, ledger, load_pretrained, record
from dtl_lib.models import ViT


def test_a_look_sees_planted_outliers_and_their_ratio():
    model, (made, labels) = load_pretrained("zoo/shapes_depth6"), data.load("shapes").test.batch(range(8))
    clean = experiment.look(model, made, labels)
    assert clean["start"] == -1 and clean["found"] == [0] * 6 and clean["right"] > 0.5

    def plant(block, given, output):  # two patches an image, one direction
        output[:, [5, 40]] += 300 * torch.eye(64)[7]
        return output

    handle = model.blocks[2].register_forward_hook(plant)
    seen = experiment.look(model, made, labels)
    with torch.no_grad(), record(model) as tape:
        model(made)
    handle.remove()
    norms = tape.norms(2)["patches"].double()
    assert seen["start"] == 2 and seen["found"] == [0, 0, 16, 16, 16, 16] and seen["second mode"][3] == 1
    assert seen["longest"][3] == pytest.approx(float(norms.max() / norms.median())) and seen["longest"][3] > 10
    assert seen["p98"][3] == pytest.approx(float(norms.flatten().quantile(0.98) / norms.median()))
    assert seen["p98"][:3] == clean["p98"][:3] and len(seen["median"]) == 7  # before block 0, and six blocks


def test_a_run_is_looked_into_on_the_way_and_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "LOOKED_AT", 20)
    experiment.sets.cache_clear()
    (run,) = experiment.study("toy").runs
    run = replace(run, recipe=replace(run.recipe, lr=0.05, warmup_steps=0))
    values = experiment.measure(run, "cpu")
    experiment.sets.cache_clear()
    assert values["steps"] == [0, 1, 3] and values["n"] == 20 and len(values["right"]) == 3
    torch.manual_seed(run.seed)
    fresh = ViT(run.config)
    pixels, labels = data.load("shapes").test.batch(range(20))
    first = experiment.look(fresh, pixels, labels)
    for name in ("median", "p98", "longest"):
        assert values[f"{name} 0"] == pytest.approx(first[name])
        assert values[f"{name} 0"] != values[f"{name} 1"] != values[f"{name} 3"]
    made = study.Study(experiment.EXPERIMENT, "x", (run,), experiment.measure)
    ledger.add(experiment.EXPERIMENT, run.what, "x", "cpu", {"start": 1.0}, n=1, seed=run.seed, folder=str(tmp_path))
    assert not made.left(str(tmp_path), "cpu")
    assert set(experiment.ORDER) == {(run.what, run.seed) for run in experiment.study("cpu").runs}


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ([-1, -1, -1, -1], "null at this scale"),
        ([-1, -1, 5, 5], "reproduced"),
        ([-1, 5, 5, 5], "not so"),  # too early
        ([-1, -1, 5, -1], "null at this scale"),  # gone again
    ],
)
def test_the_claim_by_its_rule(tmp_path, starts, said):
    folder = str(tmp_path)
    for number, (what, seed) in enumerate(experiment.ORDER):
        assert experiment.claim(folder) is None, "not before the last run"
        lists = {"p98 2000": [1.0, 2.0 + number], "longest 2000": [3.0, 4.0], "accuracy": 0.5}
        values = lists | {"steps": [0, 300, 1000, 2000], "start": starts}
        ledger.add(experiment.EXPERIMENT, what, "x", "cpu", values, n=500, seed=seed, folder=folder)
    row = experiment.claim(folder)
    assert row.what.endswith(f": {said}") and row.n == len(experiment.ORDER)
    assert row.get("p98 after the last block") == [2.0 + number for number in range(len(experiment.ORDER))]
    assert experiment.claim(folder) is None, "once"
