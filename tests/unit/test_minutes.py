"""The same minutes for several models: the steps that each makes, what is recorded, and what is not run again."""

import pytest

from book.experiments import minutes
from dtl_lib import ledger
from dtl_lib.config import ViTConfig


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """A ledger with rates of 300 and 200 steps a minute, and trainings that only say how they were asked."""
    monkeypatch.setattr(ledger, "FOLDER", tmp_path)
    for which, rate in (("ours", 300.0), ("timm", 200.0), ("ours, again", 999.0)):
        ledger.add(minutes.RATES, which, "command", "cpu", {"steps_a_minute": rate}, n=1, seed=None)
    calls = []
    monkeypatch.setattr(minutes, "_timm", lambda total, seed: calls.append((None, total, seed)) or (0.5, 50, 100))
    monkeypatch.setattr(
        minutes, "_ours", lambda config, total, seed, name: calls.append((config.plan, total, seed)) or (0.6, 60, 100)
    )
    return calls


def test_each_makes_the_steps_that_fit_into_its_minutes(ran):
    for which in ("ours", "timm", "late", "registers"):
        minutes.run(which, 10, 4)
    (plan, ours, _), (_, timm, _), (late, fewer, _), (registers, more, _) = ran
    assert (ours, timm) == (3000, 2000) and plan == minutes.CONFIG.plan
    assert late.group("cls").enter == 3 and late.group("reg") is None
    assert registers.group("reg").tokens == 4 and registers.group("cls").enter == 0
    cost = {steps: minutes.CONFIG.with_plan(plan).cost().total for plan, steps, _ in ran if plan}
    assert max(steps * one for steps, one in cost.items()) < 1.001 * min(steps * one for steps, one in cost.items())
    assert more < ours < fewer
    records = ledger.read(minutes.EXPERIMENT)
    assert [record.what.split(",")[0] for record in records] == ["ours", "timm", "class token from 3", "4 registers"]
    assert [record.get("steps") for record in records] == [3000, 2000, fewer, more]
    assert ViTConfig.from_dict(records[2].config).plan == late and records[2].seed == 4
    assert records[0].get("low") < 0.6 < records[0].get("high")


def test_a_run_with_its_record_is_not_run_again(ran):
    for seed in (0, 1, 0):
        minutes.run("ours", 10, seed)
    minutes.run("ours", 30, 0)
    assert [(total, seed) for _, total, seed in ran] == [(3000, 0), (3000, 1), (9000, 0)]


def test_rates_that_are_taken_again_change_no_budget(ran, monkeypatch):
    monkeypatch.setattr(minutes, "_rate", lambda which: 500.0)
    minutes.rate()
    minutes.run("ours", 10, 0)
    assert [total for _, total, _ in ran] == [3000]
    assert [record.what for record in ledger.read(minutes.RATES)][3:] == ["ours, again", "timm, again"]
