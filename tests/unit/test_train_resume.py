"""A run that is killed, or stopped, goes on to the weights of a run that was left alone."""

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dtl_lib import checkpoint, data
from dtl_lib.__main__ import main
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe, fit, state

ROOT = Path(__file__).parents[2]
TINY = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=10, drop_path=0.2)
RECIPE = Recipe(
    max_steps=14, batch_size=16, crop=1, flip=True, erase=0.2, mixup=0.3, ema=0.9, log_every=3, eval_every=5
)  # fmt: skip
TRAIN = (
    "train --data shapes --samples 640 --image-size 16 --dim 16 --depth 2 --heads 2 --drop-path 0.2 --num-reg 1 "
    "--reg-pos 1 --max-steps 90 --batch-size 16 --crop 1 --flip --mixup 0.3 --ema 0.9 --eval-every 500 --log-every 7 "
    "--checkpoint-every 1 --device cpu --quiet"
).split()


@pytest.fixture(scope="module")
def sets():
    whole = data.load("shapes", image_size=16, samples=96)
    for part in (whole.held_out, whole.test):
        part.length = 40
    return whole


def tiny(config=TINY):
    torch.manual_seed(0)
    return ViT(config)


def tensors(folder, file="state.safetensors"):
    return checkpoint.read(folder / file)[0]


def assert_same(first, second):
    for file in ("state.safetensors", "best.safetensors"):
        a, b = tensors(first, file), tensors(second, file)
        assert a.keys() == b.keys() and a
        for name in a:
            assert torch.equal(a[name], b[name]), f"{name} of {file} differs"


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 5, 7, 13])
def test_resuming_after_any_step_changes_nothing(sets, tmp_path, at):
    fit(tiny(), sets, RECIPE, tmp_path / "whole", progress=False, checkpoint_every=1)

    def kill(step, loss, model):
        if step == at + 1:  # the state of step `at` is the last that was saved
            raise Killed

    with pytest.raises(Killed):
        fit(tiny(), sets, RECIPE, tmp_path / "killed", progress=False, checkpoint_every=1, on_step=kill)
    fresh = ViT(TINY)  # other weights: they must come from the state
    result = fit(fresh, sets, RECIPE, tmp_path / "killed", progress=False, checkpoint_every=1, resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert [row["step"] for row in result.history] == [3, 5, 6, 9, 10, 12, 14]
    whole = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in whole] == [row["step"] for row in result.history]
    assert result.history[-1]["accuracy"] == whole[-1]["accuracy"]


def test_the_state_holds_what_the_next_step_needs(sets, tmp_path):
    fit(tiny(), sets, RECIPE, tmp_path, progress=False)
    found, card = checkpoint.read(tmp_path / "state.safetensors")
    kinds = {name.split("/")[0] for name in found}
    assert kinds == {"model", "average", "optimizer"}
    assert {name.split("/")[1] for name in found if name.startswith("optimizer")} == {"step", "exp_avg", "exp_avg_sq"}
    assert card["progress"]["step"] == 14 and card["progress"]["best"]["accuracy"] >= 0
    assert TokenPlan.from_json(card["config"]["plan"]) == TINY.plan
    assert Recipe.from_dict(card["recipe"]) == RECIPE
    assert card["library"]


def test_a_finished_run_resumes_to_its_result(sets, tmp_path):
    first = fit(tiny(), sets, RECIPE, tmp_path, progress=False)
    again = fit(ViT(TINY), sets, RECIPE, tmp_path, progress=False, resume=True)
    assert again.test.accuracy == first.test.accuracy and len(again.history) == len(first.history)


def test_another_plan_recipe_or_data_is_refused_on_resume(sets, tmp_path):
    fit(tiny(), sets, RECIPE, tmp_path, progress=False)
    late = dataclasses.replace(TINY, plan=TokenPlan.of(2, cls_pos=1))
    with pytest.raises(ValueError, match=r"another config \(plan was \[cls×1@0\] and is now \[cls×1@1\]\)"):
        fit(tiny(late), sets, RECIPE, tmp_path, progress=False, resume=True)
    with pytest.raises(ValueError, match=r"another recipe \(lr was 0.001 and is now 0.5\)"):
        fit(tiny(), sets, dataclasses.replace(RECIPE, lr=0.5), tmp_path, progress=False, resume=True)
    with pytest.raises(ValueError, match="another data"):
        fit(tiny(), data.load("shapes", image_size=16, samples=95), RECIPE, tmp_path, progress=False, resume=True)
    with pytest.raises(ValueError, match="holds a run already"):
        fit(tiny(), sets, RECIPE, tmp_path, progress=False)
    with pytest.raises(ValueError, match="no state.safetensors to resume from"):
        fit(tiny(), sets, RECIPE, tmp_path / "nowhere", progress=False, resume=True)


def test_a_state_older_than_a_field_of_the_recipe_resumes(sets, tmp_path):
    fit(tiny(), sets, RECIPE, tmp_path, progress=False)
    found, card = checkpoint.read(tmp_path / state.NAME)
    del card["recipe"]["optimizer"]
    checkpoint.write(tmp_path / state.NAME, found, card, checkpoint.STATE)
    fit(tiny(), sets, RECIPE, tmp_path, progress=False, resume=True)
    lamb = dataclasses.replace(RECIPE, optimizer="lamb")
    with pytest.raises(ValueError, match=r"another recipe \(optimizer was adamw and is now lamb\)"):
        fit(tiny(), sets, lamb, tmp_path, progress=False, resume=True)


def test_a_state_that_lost_a_tensor_is_refused(sets, tmp_path):
    fit(tiny(), sets, RECIPE, tmp_path, progress=False)
    found, card = checkpoint.read(tmp_path / state.NAME)
    del found["model/norm.weight"]
    checkpoint.write(tmp_path / state.NAME, found, card, checkpoint.STATE)
    with pytest.raises(ValueError, match="lacks norm.weight"):
        fit(tiny(), sets, RECIPE, tmp_path, progress=False, resume=True)


def test_a_full_disk_ends_the_run_and_keeps_what_was_saved(sets, tmp_path, monkeypatch):
    fit(tiny(), sets, RECIPE, tmp_path / "whole", progress=False, checkpoint_every=1)
    real, saves = checkpoint.save_file, []

    def full_after_a_while(tensors, path, metadata):
        saves.append(path)
        if len(saves) > 9:
            Path(path).write_bytes(b"as much as there was room for")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save_file", full_after_a_while)
    with pytest.raises(checkpoint.CheckpointError, match="No space left on device"):
        fit(tiny(), sets, RECIPE, tmp_path / "full", progress=False, checkpoint_every=1)
    monkeypatch.undo()
    fit(ViT(TINY), sets, RECIPE, tmp_path / "full", progress=False, checkpoint_every=1, resume=True)
    assert_same(tmp_path / "whole", tmp_path / "full")


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dtl_lib", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(process, folder, step):
    """Until the run has saved a state of at least `step`, or has ended."""
    while process.poll() is None:
        if (folder / state.NAME).is_file() and checkpoint.read(folder / state.NAME)[1]["progress"]["step"] >= step:
            return
        time.sleep(0.002)


@pytest.fixture
def one_thread():
    """As the processes below have: sums in another order are other sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_kill_9_at_random_steps_changes_nothing(tmp_path, one_thread):
    assert main([*TRAIN, "--output-dir", str(tmp_path / "whole")]) == 0
    folder, kills = tmp_path / "killed", 0
    for step in sorted(random.Random(5).sample(range(1, 80), 3)):
        again = ("--resume",) if (folder / state.NAME).is_file() else ()
        process = start(*TRAIN, "--output-dir", folder, *again)
        wait_for_step(process, folder, step)
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 3, "the runs ended before they could be killed: nothing was tested"
    assert main(["train", "--resume", str(folder), "--quiet"]) == 0
    assert_same(tmp_path / "whole", folder)
    assert not list(folder.glob(".*.part"))
