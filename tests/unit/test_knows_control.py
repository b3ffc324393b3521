"""The control of the experiment on what one token knows, on tokens that are made up."""

import numpy as np
import pytest
import torch

from book.experiments import knows, knows_control
from dtl_lib import ledger, probes
from tests.unit.fixed import noise
from tests.unit.test_knows import BLOCKS
from tests.unit.test_knows import photos as made_up


def photos() -> dict:
    return made_up() | {"inside moved": noise(60, 8, BLOCKS, 9, seed=8).float()}


def cifar(count: int = 60) -> dict:
    kinds = ("class token", *knows_control.CIFAR.values(), "new token")
    states = {kind: noise(count, BLOCKS, 9, seed=20 + seed).float() for seed, kind in enumerate(kinds)}
    return states | {"class": torch.arange(count) % 3, "colour": noise(count, 3, seed=40).float()}


def test_each_pair_has_the_same_tokens_as_they_are_and_moved():
    states = photos()
    chosen = knows.matched(states)
    rows = knows_control.rows_of("photos, pixels", states, cifar())
    assert set(rows) == set(knows_control.PHOTOS)
    after = [knows.BLOCKS.index(block) for block in knows_control.AFTER]
    for kind, key, which in (("inside, moved", "inside moved", "long"), ("not long, moved", "twin", "not long")):
        assert torch.equal(rows[kind][0], states[key][chosen[which]][:, after])
    assert torch.equal(rows["inside"][1], rows["inside, moved"][1]) and torch.equal(rows["inside"][1], -rows["long"][1])
    assert torch.equal(rows["not long"][1], rows["not long, moved"][1])
    rows = knows_control.rows_of("CIFAR-10, class", photos(), cifar())
    assert set(rows) == {"outlier", "twin", "inside", "inside, moved"}
    assert torch.equal(rows["inside, moved"][0], cifar()["inside moved"][:, after])


def test_the_stored_parts_give_the_score_and_its_interval_again(tmp_path):
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (400,), generator=draw)
    told = torch.nn.functional.one_hot(targets, 3) + 0.8 * torch.randn(400, 3, generator=draw)
    images = torch.arange(400) // 4
    one = probes.token_probe(told, targets, images, shuffles=0)
    some = images > 9
    other = probes.token_probe(torch.randn(400, 3, generator=draw)[some], targets[some], images[some], shuffles=0)
    records = []
    for name, score in (("one", one), ("other", other)):
        values = knows_control.parts_of([score] * 3)
        about = {"n": 100, "seed": 0, "folder": str(tmp_path)}
        records.append(ledger.add("knows_control", name, "x", "cpu", values, **about))
    wanted, found = one.less(other), knows_control.contrast([(1, records[0]), (-1, records[1])], 9)
    assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    nothing = knows_control.contrast([(1, records[0]), (-1, records[0])], 9)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0), "images are drawn for all terms together"


def test_parts_of_numbers_are_rounded_and_not_much():
    assert knows_control.short(3.0) == 3 and isinstance(knows_control.short(np.float64(3.0)), int)
    assert knows_control.short(0.123456789) == 0.12346 and knows_control.short(-12345.678) == -12346


def test_a_planted_effect_of_moving_is_told_from_that_of_length(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(knows_control, "AFTER", (11,))
    monkeypatch.setattr(knows_control, "QUESTIONS", {"photos": ("animal",), "CIFAR-10": ("class",)})
    states, images = photos(), cifar()
    for key in ("border", "inside", "inside moved"):  # moving takes it from the eight places, and leaves what is inside
        states[key][:, :, :, 0] = 4.0 * states["animal"][:, None, None]
    for key in ("outlier", "inside"):  # moving takes it from all
        images[key][:, :, :3] = 5 * torch.eye(3)[images["class"]][:, None]
    for _ in range(2):
        knows_control.measure(states, images, str(tmp_path))
    of = {one.what: one for one in ledger.read("knows_control", tmp_path)}
    assert len(of) == len(ledger.read("knows_control", tmp_path)) == 6 + 5 + 4 + 3, "each once"
    low = {what: one.get("low")[-1] for what, one in of.items() if "less" in what}
    high = {what: one.get("high")[-1] for what, one in of.items() if "less" in what}
    both = "photos, animal: (long less twin) less ({0} less {0}, moved)"
    assert low[both.format("inside")] > 0
    assert high["photos, animal: inside less inside, moved"] < low["photos, animal: long less twin"]
    assert low["photos, animal: not long less not long, moved"] > 0
    assert low[both.format("not long")] < 0 < high[both.format("not long")]
    every = "CIFAR-10, class: (outlier less twin) less (inside less inside, moved)"
    assert low["CIFAR-10, class: outlier less twin"] > 0 and low[every] < 0 < high[every]
