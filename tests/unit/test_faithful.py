"""The experiment of chapter 18: every row once, and what it says of a model in which the long patches are known."""

import pytest
import torch

from book.experiments import asked
from book.experiments import faithful as experiment
from dtl_lib import ledger
from dtl_lib.probes.replacing import REPLACEMENTS
from dtl_lib.stored.faithful import LAST, MASKED, TEST_TIME, long_patches, maps_of, neurons_of
from tests.unit.test_registers import images, planted


@pytest.fixture
def subject():
    model, (made, _) = planted(), images(9)
    masks = torch.zeros(6, 32, 32, dtype=torch.bool)
    masks[:, 8:24, 8:24] = True
    return experiment.Subject("planted", model, made[:6], made[6:], neurons_of(model, made), masks)


@pytest.mark.slow
def test_every_row_once_and_resumed(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(asked, "RESAMPLED", 50)
    folder = str(tmp_path)
    rows = [*experiment.measure(subject, folder), *experiment.token_of_the_moved(subject, folder)]
    assert not [*experiment.measure(subject, folder), *experiment.token_of_the_moved(subject, folder)]
    assert ledger.read("faithful", folder) == rows and len({row.what for row in rows}) == len(rows)
    of = {row.what.removeprefix("planted: "): row for row in rows}
    methods = [LAST, MASKED, "rollout", "gradient rollout", "relevance", TEST_TIME[10]]
    for by in REPLACEMENTS:
        plain = of[f"{LAST}, {by}"]
        assert len(plain.get("gaps")) == 6 == plain.n and plain.get("less_last") == 0
        assert plain.get("deletion")[0] == plain.get("insertion")[-1] and len(plain.get("deletion")) == 6
        for name in (*methods, f"{LAST}, re-drawn weights", "rollout, re-drawn weights", experiment.CENTRE):
            row = of[f"{name}, {by}"]
            assert row.get("gap_low") <= row.get("gap") <= row.get("gap_high")
            assert row.get("less_last") == pytest.approx(row.get("gap") - plain.get("gap"), abs=1e-6)
        random = of[f"{experiment.RANDOM}, {by}"]
        assert random.get("gap_low") < 0 < random.get("gap_high") and len(random.get("gaps")) == 12
    assert -1 <= of["agreement of zero and mean"].get("tau_low") <= of["agreement of zero and mean"].get("tau") <= 1
    assert of["class token of another image at block 1"].get("stays") >= 0
    assert len([what for what in of if what.startswith("the long patches, block")]) == 8
    assert of["test-time register, block 3, zero"].get("kept") <= 1


def test_random_maps_centre_on_nothing_and_are_as_wide_as_a_mean(monkeypatch):
    gaps = 0.3 * torch.randn(4, 100, generator=torch.Generator().manual_seed(1)).double()
    means = experiment.random_means(gaps)
    assert abs(float(means.mean())) < 0.005 and float(means.std()) == pytest.approx(0.03, rel=0.15)


def test_agreement_is_one_for_one_order_and_minus_one_for_its_reverse():
    one = torch.arange(5.0)[:, None] + 0.01 * torch.randn(5, 20)
    same, reverse = (experiment.agreement(one, factor * one)["tau"] for factor in (2, -1))
    assert same == pytest.approx(1) and reverse == pytest.approx(-1)
    noise = experiment.agreement(one, torch.randn(5, 20))
    assert noise["tau_low"] < noise["tau_high"]


def test_maps_of_the_known_model(subject):
    model, made = subject.model, subject.images
    long = long_patches(model, made)
    assert torch.equal(long, images(6)[1])
    maps = maps_of(model, made, None, subject.neurons)
    assert not maps[MASKED][long].any() and torch.equal(maps[MASKED][~long], maps[LAST][~long])
    assert not torch.allclose(maps[TEST_TIME[1]], maps[LAST], atol=1e-4)
    asked = (
        maps_of(model, made, torch.zeros(6, dtype=torch.long)),
        maps_of(model, made, torch.ones(6, dtype=torch.long)),
    )
    assert torch.equal(asked[0][LAST], asked[1][LAST])
    assert not torch.allclose(asked[0]["relevance"], asked[1]["relevance"])
    sets = experiment.groups(subject)
    assert torch.equal(sets["the long patches"], long) and not (sets["4 top"] & long).any()
    assert (sets["4 random"].flatten(1).sum(dim=1) == 4).all() and not (sets["4 random"] & long).any()


def test_a_swapped_token_is_of_an_image_of_another_class():
    model = experiment.Asked.of(experiment.of_shapes("shapes_depth6", 12))
    everything = torch.ones(12, 8, 8, dtype=torch.bool)
    whole = model.swapped(everything, 0)
    assert whole["follows"] == 1 and whole["stays"] == 0
    at_entry = model.swapped("cls", 0)  # it is learned, the same in every image
    assert at_entry["follows"] == 0 and at_entry["stays"] == 1
    last = model.swapped("cls", 5)
    assert last["source"] > at_entry["source"]
