"""Images a second on a device that works behind Python's back, by a clock that only this device moves."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dtl_lib.train import log, loop, run, state
from dtl_lib.train.distributed import processes as distributed
from tests.unit.pretended import pretended_gpu
from tests.unit.test_gpu_path import RECIPE, trained

COMPILING, STEP, LOOKING, SAVING = 50.0, 2.0, 100.0, 30.0


@pytest.fixture
def device(monkeypatch):
    """Steps return at once, and whoever asks for a number waits for all of them."""
    now, steps = SimpleNamespace(time=0.0, queued=0.0), iter(range(1000))

    def settle(*_):
        now.time, now.queued = now.time + now.queued, 0.0

    def after(function, seconds):
        def waits(*args, **how):
            settle()
            now.time += seconds
            return function(*args, **how)

        return waits

    def step(*args, was=loop.train_step):
        now.queued += STEP
        now.time += 0 if next(steps) else COMPILING
        return was(*args)

    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: now.time))
    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(run, "evaluate", after(run.evaluate, LOOKING))
    monkeypatch.setattr(state, "gather", after(state.gather, SAVING))
    monkeypatch.setattr(distributed.Processes, "sum", after(distributed.Processes.sum, 0))
    with pretended_gpu():
        monkeypatch.setattr(torch.cuda, "synchronize", settle)
        yield


@pytest.mark.parametrize("steps", [1, 10])
def test_the_rate_is_that_of_the_work_not_of_handing_it_over(device, steps, tmp_path):
    recipe = replace(RECIPE, epochs=None, max_steps=steps, eval_every=4, log_every=3, ema=None)
    found = trained("cuda", recipe=recipe, output_dir=tmp_path, checkpoint_every=5)[1]
    looked, saved = {1: (2, 1), 10: (4, 2)}[steps]  # the last time at the test images
    assert found.seconds == COMPILING + steps * STEP + looked * LOOKING + saved * SAVING
    if steps == 1:
        assert found.images_per_s == 16 / found.seconds, "there is no other step"
    else:
        assert found.images_per_s == 16 / STEP == found.history[-1]["images_per_s"] == found.history[0]["images_per_s"]


def test_a_clock_that_stands_still_is_no_error(monkeypatch):
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: 5.0))
    assert trained("cpu", recipe=replace(RECIPE, epochs=None, max_steps=2, ema=None))[1].images_per_s == 0
