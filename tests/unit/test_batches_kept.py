"""Processes that read images are started once for all evaluations of a run: starting them takes seconds."""

import copy
import dataclasses
import multiprocessing
import os
import types

import pytest
import torch

from dtl_lib.data import Sets
from dtl_lib.train import fit
from tests.unit.disturbed import RECIPE, rows, small_sets, tensors, tiny

OFTEN = dataclasses.replace(RECIPE, max_steps=6, eval_every=1, log_every=1)


def noting(images, file):
    """The images, whose readers write down which process they are in."""
    images, read = copy.copy(images), images.raw

    def raw(self, indices):
        with open(file, "a") as opened:
            opened.write(f"{os.getpid()}\n")
        return read(indices)

    images.raw = types.MethodType(raw, images)
    return images


def readers(file) -> set[str]:
    return set(file.read_text().split()) - {str(os.getpid())}


def test_a_run_starts_them_once_for_each_part(tmp_path):
    sets, names = small_sets(), ("train", "held_out", "test")
    files = {name: tmp_path / name for name in names}
    noted = Sets(*(noting(getattr(sets, name), files[name]) for name in names))
    fit(tiny(), noted, OFTEN, tmp_path / "kept", progress=False, workers=2)
    started = {name: len(readers(file)) for name, file in files.items()}
    assert started["train"] <= 2 and started["held_out"] <= 2 and started["test"] <= 2, started
    fit(tiny(), sets, OFTEN, tmp_path / "none", progress=False, workers=0)
    for name, value in tensors(tmp_path / "none").items():
        assert torch.equal(value, tensors(tmp_path / "kept")[name]), name
    assert rows(tmp_path / "none") == rows(tmp_path / "kept")


@pytest.mark.slow
def test_spawned_ones_are_started_once_too(tmp_path, monkeypatch):
    """There each takes seconds."""
    start, started = multiprocessing.process.BaseProcess.start, []

    def counted(self):
        started.append(self)
        start(self)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", counted)
    method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        fit(tiny(), small_sets(), dataclasses.replace(OFTEN, max_steps=3), progress=False, workers=1)
    finally:
        multiprocessing.set_start_method(method, force=True)
    assert len(started) == 3, "one to train, one to choose and one to test"


def test_they_end_with_the_run_also_where_it_fails(tmp_path):
    sets = small_sets()
    noted = dataclasses.replace(sets, held_out=noting(sets.held_out, tmp_path / "pids"))

    def fail(step, *_):
        if step == 3:
            raise KeyError("the tea is cold")

    with pytest.raises(KeyError):
        fit(tiny(), noted, OFTEN, progress=False, workers=1, on_step=fail)
    for pid in readers(tmp_path / "pids"):
        assert not os.path.exists(f"/proc/{pid}") or "Z" in open(f"/proc/{pid}/stat").read().split()[2]
