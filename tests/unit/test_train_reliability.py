"""What machines do to a run: half-written files, full disks, clocks. It goes on, or says why it does not."""

import errno
import logging
import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

from dtl_lib import checkpoint
from dtl_lib.__main__ import main
from dtl_lib.cli import run_folder
from dtl_lib.train import fit, state
from tests.unit.disturbed import RECIPE, assert_same, cut_at, rows, tensors, tiny

WORDS = "the state before it is used, of step"


def truncated(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path: Path):
    """Of the right length: a file system that had written down the length and not yet the end."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096] + bytes(4096))


def empty(path: Path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, zeroed, empty, Path.unlink])
def test_a_state_half_written_gives_way_to_the_one_before(sets, tmp_path, undisturbed, caplog, damage):
    cut_at(9, sets, tmp_path)
    assert checkpoint.read_card(tmp_path / state.NAME)["progress"]["step"] == 8
    damage(tmp_path / state.NAME)
    fit(tiny(1), sets, RECIPE, tmp_path, progress=False, checkpoint_every=2, resume=True)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and str(tmp_path / state.NAME) in said[0] and said[0].endswith(f"{WORDS} 6"), said
    assert_same(tmp_path, undisturbed)


def test_both_states_damaged_are_refused(sets, tmp_path):
    cut_at(9, sets, tmp_path)
    truncated(tmp_path / state.NAME)
    zeroed(tmp_path / state.PREVIOUS)
    with pytest.raises(checkpoint.CheckpointError, match="state.before.safetensors is damaged"):
        fit(tiny(), sets, RECIPE, tmp_path, progress=False, resume=True)


def test_the_command_line_says_it_once(tmp_path, caplog, capsys):
    tiny_run = "train --samples 64 --image-size 16 --dim 16 --depth 2 --heads 2 --batch-size 16 --max-steps 6 --quiet"
    folder = tmp_path / "run"
    assert main([*tiny_run.split(), "--checkpoint-every", "2", "--eval-every", "9", "--output-dir", str(folder)]) == 0
    truncated(folder / state.NAME)
    assert main(["train", "--resume", str(folder), "--quiet"]) == 0
    assert [record.levelno for record in caplog.records if WORDS in record.getMessage()] == [logging.WARNING]
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [truncated, zeroed, Path.unlink])
def test_without_the_best_weights_training_goes_on_and_keeps_new_ones(sets, tmp_path, undisturbed, caplog, damage):
    cut_at(9, sets, tmp_path)
    damage(tmp_path / "best.safetensors")
    result = fit(tiny(1), sets, RECIPE, tmp_path, progress=False, checkpoint_every=2, resume=True)
    assert sum("best.safetensors" in record.getMessage() for record in caplog.records) == 1
    expected = max((row for row in rows(undisturbed) if row["step"] >= 10 and "n" in row), key=lambda r: r["accuracy"])
    assert (result.best["step"], result.best["accuracy"]) == (expected["step"], expected["accuracy"])
    assert checkpoint.read_card(tmp_path / "best.safetensors")["held_out"]["step"] == expected["step"]
    a, b = tensors(tmp_path), tensors(undisturbed)
    assert all(torch.equal(a[key], b[key]) for key in b)


def test_a_run_that_is_done_and_has_lost_its_best_keeps_its_last(sets, tmp_path):
    fit(tiny(), sets, RECIPE, tmp_path, progress=False)
    truncated(tmp_path / "best.safetensors")
    result = fit(tiny(1), sets, RECIPE, tmp_path, progress=False, resume=True)
    assert result.best["step"] == 14
    average = {key.partition("/")[2]: value for key, value in tensors(tmp_path).items() if key.startswith("average/")}
    found = tensors(tmp_path, "best.safetensors")
    assert all(torch.equal(found[key], value) for key, value in average.items())


def test_a_clock_that_goes_backwards_changes_nothing(sets, tmp_path, monkeypatch, undisturbed):
    now = [datetime(2030, 1, 1)]

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            now[0] -= timedelta(hours=1)
            return now[0].replace(tzinfo=tz)

    clock = iter(range(10**9, 0, -3600))
    for module in (run_folder, checkpoint):
        monkeypatch.setattr(module, "datetime", Backwards)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    cut_at(9, sets, tmp_path / "run")
    result = fit(tiny(1), sets, RECIPE, tmp_path / "run", progress=False, checkpoint_every=2, resume=True)
    assert_same(tmp_path / "run", undisturbed)
    assert 0 < result.seconds < 600 and result.images_per_s > 0


def test_two_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    class Still(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2030, 1, 1, 12, 0, 0)

    monkeypatch.setattr(run_folder, "datetime", Still)
    monkeypatch.chdir(tmp_path)
    assert [run_folder.new_folder() for _ in range(3)] == [f"runs/20300101-120000{end}" for end in ("", "-2", "-3")]


def test_a_folder_that_cannot_be_written_is_known_before_the_work(sets, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("this user may write everywhere (root): the folder cannot be closed to it")
    tmp_path.chmod(0o500)
    with pytest.raises(checkpoint.CheckpointError, match="could not be written"):
        fit(tiny(), sets, RECIPE, tmp_path / "run", progress=False, on_step=lambda *_: pytest.fail("it has trained"))


@pytest.mark.parametrize("last", ["state", "best"])
def test_a_disk_that_fills_up_leaves_the_state_before(sets, tmp_path, monkeypatch, undisturbed, last):
    real, saves = checkpoint.save_file, []

    def full(found, path, metadata):
        saves.append(path)
        if len(saves) > 5 and last in Path(path).name:
            Path(path).write_bytes(b"as much as there was room for")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(found, path, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left on device\); the one before it is untouched"):
        fit(tiny(), sets, RECIPE, tmp_path, progress=False, checkpoint_every=2)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*"))
    fit(tiny(1), sets, RECIPE, tmp_path, progress=False, checkpoint_every=2, resume=True)
    assert_same(tmp_path, undisturbed)
