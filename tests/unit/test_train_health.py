"""Non-finite gradients: training stops with its last good state, or leaves the step out."""

import dataclasses

import pytest
import torch

from dtl_lib import checkpoint
from dtl_lib.train import fit, state
from dtl_lib.train.optim import MAX_SKIPS_IN_A_ROW, Guard
from tests.unit.disturbed import RECIPE, Poisoned, assert_same, poisoned, rows, small_sets, tensors, tiny


@pytest.fixture(scope="module")
def sets():
    return small_sets()


ONCE = dataclasses.replace(RECIPE, max_steps=6, batch_size=16, log_every=2, eval_every=6)  # one epoch: each image once


@pytest.mark.parametrize("step", [1, 4, 5, 6])
def test_a_loss_that_is_no_number_stops_and_the_last_good_state_stays(sets, tmp_path, step):
    fit(tiny(), sets, ONCE, tmp_path / "good", progress=False, checkpoint_every=1)
    folder = tmp_path / "bad"
    with pytest.raises(
        ValueError, match=rf"at step {step}: lower lr .* or leave such steps out \(--on-nan skip\); the l"
    ):
        fit(tiny(), poisoned(sets, step), ONCE, folder, progress=False, checkpoint_every=1)
    for name in {state.NAME, state.PREVIOUS} & {path.name for path in folder.iterdir()}:
        found, card = checkpoint.read(folder / name)
        assert card["progress"]["step"] < step and all(value.isfinite().all() for value in found.values())
    assert step < 3 or all(0 < row["loss"] < 10 for row in rows(folder))
    fit(tiny(1), sets, ONCE, folder, progress=False, checkpoint_every=1, resume=True)  # once the data is repaired
    assert_same(folder, tmp_path / "good")


def test_a_run_stopped_by_a_nan_may_go_on_skipping(sets, tmp_path):
    bad = poisoned(sets, 4)
    with pytest.raises(ValueError, match="at step 4"):
        fit(tiny(), bad, ONCE, tmp_path, progress=False, checkpoint_every=1)
    skip = dataclasses.replace(ONCE, on_nan="skip")
    result = fit(tiny(1), bad, skip, tmp_path, progress=False, checkpoint_every=1, resume=True)
    assert result.skipped == 1 and result.history[-1]["step"] == 6


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_is_left_out_and_counted(sets, tmp_path, monkeypatch, accumulate):
    skip = dataclasses.replace(ONCE, on_nan="skip", accumulate=accumulate)
    model = tiny()
    result = fit(model, poisoned(sets, 3), skip, tmp_path, progress=False)
    assert result.skipped == 1
    assert [row["skipped"] for row in rows(tmp_path) if row["step"] > 2] == [1, 1]
    assert all(0 < row["loss"] < 10 for row in rows(tmp_path))
    clip, steps = Guard.clip_grad_norm, iter(range(1, 100))

    def without_the_third(guard, parameters):
        if next(steps) == 3:
            for value in parameters:
                value.grad.fill_(float("nan"))
        return clip(guard, parameters)

    monkeypatch.setattr(Guard, "clip_grad_norm", without_the_third)
    other = tiny()
    fit(other, sets, skip, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    monkeypatch.undo()
    fit(tiny(), sets, skip, tmp_path / "whole", progress=False)
    assert any(not torch.equal(value, tensors(tmp_path / "whole")[key]) for key, value in tensors(tmp_path).items())


def test_skipping_gives_up(sets, tmp_path):
    recipe = dataclasses.replace(ONCE, max_steps=60, batch_size=4, on_nan="skip", mixup=0.0)
    bad = dataclasses.replace(sets, train=Poisoned(sets.train, range(len(sets.train))))
    with pytest.raises(
        ValueError,
        match=f"{MAX_SKIPS_IN_A_ROW} steps in a row had nan or infinite gradients at step {MAX_SKIPS_IN_A_ROW}:",
    ):
        fit(tiny(), bad, recipe, tmp_path, progress=False)
    assert all(value.isfinite().all() for value in tensors(tmp_path).values())


def test_a_row_without_a_step_that_was_taken_has_no_loss(sets, tmp_path):
    recipe = dataclasses.replace(ONCE, max_steps=4, log_every=2, eval_every=4, on_nan="skip", mixup=0.0)
    bad = dataclasses.replace(sets, train=Poisoned(sets.train, range(len(sets.train))))
    fit(tiny(), bad, recipe, tmp_path, progress=False)
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(2, None), (4, None)]
