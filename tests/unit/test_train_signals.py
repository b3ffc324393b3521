"""SIGTERM and Ctrl-C end a run between two steps, with its state saved; in an evaluation they end that too."""

import copy
import dataclasses
import os
import re
import signal
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from dtl_lib import checkpoint
from dtl_lib.train import Stopped, fit, state
from dtl_lib.train.distributed.signals import between_steps
from tests.processes import launch
from tests.unit.disturbed import RECIPE, assert_same, tiny

TRAIN = (
    "--data shapes --samples 640 --image-size 16 --dim 16 --depth 2 --heads 2 --max-steps 20000 --batch-size 16 "
    "--eval-every 500 --checkpoint-every 1 --device cpu --quiet"
)
UNSAVED = "--checkpoint-every 1 --device cpu --quiet"
STOP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.mark.parametrize("part", ["held_out", "test"])
def test_a_signal_in_a_long_evaluation_ends_it_and_it_is_made_up_for(sets, tmp_path, undisturbed, part):
    step, seen, sent = {"held_out": 10, "test": 14}[part], [], []

    def lengthen(now, loss, model):
        if now == step - (part == "held_out"):
            images.length = 10**6

    def batch(samples, **how):
        seen.append(len(samples))
        if sum(seen) > 10_000 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return type(images).batch(images, samples, **how)

    handlers = [signal.getsignal(each) for each in STOP]
    images = copy.copy(getattr(sets, part))
    images.batch = batch
    waits = dataclasses.replace(sets, **{part: images})
    with pytest.raises(Stopped, match=f"stopped at step {step} of 14, saved") as stopped:
        fit(tiny(), waits, RECIPE, tmp_path, progress=False, checkpoint_every=2, on_step=lengthen)
    assert 10_000 < sum(seen) < 5 * 10**5 and stopped.value.status == 0
    assert handlers == [signal.getsignal(each) for each in STOP]
    fit(tiny(1), sets, RECIPE, tmp_path, progress=False, checkpoint_every=2, resume=True)
    assert_same(tmp_path, undisturbed)


def test_a_second_ctrl_c_ends_a_long_step_at_once(sets, tmp_path, monkeypatch):
    reached, now = [], SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("dtl_lib.train.distributed.signals.time", SimpleNamespace(monotonic=lambda: now.seconds))

    def long(step, loss, model):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # torchrun repeats what the terminal has sent already: that is one
            now.seconds += 1.1
            reached.append("a second later")
            signal.raise_signal(signal.SIGINT)
            reached.append("the end of the step")

    with pytest.raises(KeyboardInterrupt) as ended:
        fit(tiny(), sets, RECIPE, tmp_path, progress=False, checkpoint_every=1, on_step=long)
    assert not isinstance(ended.value, Stopped) and reached == ["a second later"]
    assert checkpoint.read_card(tmp_path / state.NAME)["progress"]["step"] == 2


@pytest.mark.parametrize("number", STOP)
def test_a_signal_ends_a_run_between_two_steps(sets, tmp_path, undisturbed, number):
    def interrupt(step, loss, model):
        if step == 4:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(each) for each in STOP]
    with pytest.raises(Stopped, match="stopped at step 4 of 14") as stopped:
        fit(tiny(), sets, RECIPE, tmp_path, progress=False, on_step=interrupt)
    assert stopped.value.status == (130 if number == signal.SIGINT else 0)
    assert handlers == [signal.getsignal(each) for each in STOP]
    fit(tiny(1), sets, RECIPE, tmp_path, progress=False, resume=True)
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
@pytest.mark.slow
def test_the_command_says_how_to_go_on(tmp_path, number, status):
    folder = tmp_path / "run"
    process = launch.start([sys.executable, "-m", "dtl_lib", "train", *TRAIN.split(), "--output-dir", folder])
    launch.wait_for(lambda: (folder / state.PREVIOUS).is_file(), "second save", process)
    process.send_signal(number)
    found, _, error = launch.finished(process)
    assert found == status
    said = re.fullmatch(
        rf"dtl: stopped at step (\d+) of 20000, saved; go on with: dtl train --resume {folder} {UNSAVED}\n", error
    )
    assert said, error
    assert checkpoint.read_card(folder / state.NAME)["progress"]["step"] == int(said[1])


@pytest.mark.parametrize("number", STOP)
def test_who_ignores_a_signal_is_not_stopped_by_it(number):
    before = signal.signal(number, signal.SIG_IGN)  # nohup, or a shell that starts it in the background
    try:
        with between_steps() as asked:
            signal.raise_signal(number)
            assert not asked.stop and signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_workers_that_read_pictures_outlive_a_signal_to_all(tmp_path):
    """torchrun and Slurm send SIGTERM to every process there is, those of the data loader too."""
    for number in range(60):
        place = tmp_path / "pictures/train" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (4 * number, 80, 160)).save(place / f"{number}.png")
    folder = tmp_path / "run"
    line = [sys.executable, "-m", "dtl_lib", "train", *TRAIN.split(), "--workers", "2", "--output-dir", folder]
    process = launch.start([*line, "--data", "folder", "--data-path", tmp_path / "pictures"])
    launch.wait_for(lambda: (folder / state.PREVIOUS).is_file(), "second save", process)
    workers = launch.descendants(process.pid)
    os.killpg(process.pid, signal.SIGTERM)
    status, _, error = launch.finished(process)
    assert status == 0 and error.startswith("dtl: stopped at step") and error.count("\n") == 1, error
    assert len(workers) == 2
    launch.wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "end of the workers")
