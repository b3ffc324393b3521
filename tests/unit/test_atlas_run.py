"""Runs of an atlas: killed, stopped, damaged and failed; what is recorded stays, and the rest is run again."""

import json
import multiprocessing
import os
import re
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dtl_lib import ledger
from dtl_lib.checkpoint import load_model
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import POOLING, Cell, workers
from dtl_lib.lab.atlas.train_cell import fresh
from tests.processes import launch
from tests.unit import tiny_atlas
from tests.unit.tiny_atlas import Here, tiny

RUN = sys.modules["dtl_lib.lab.atlas.run"]  # whose name is the function's in the package
KILLED = [sys.executable, "-c", "from tests.unit.tiny_atlas import main; main()", "1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RUN, "Workers", Here)
        list(atlas.run(tiny(), folder, command="none", weights=folder / "weights", progress=False))
    return folder


def values(folder) -> dict:
    """By cell, seed and name, without what the clock and other work decide."""
    runs = atlas.read(tiny(), folder).items()
    return {
        (*job, name): value
        for job, run in runs
        for name, value in run.values.items()
        if name not in ("seconds", "load")
    }


def lines(folder) -> list[str]:
    return (folder / "tiny.jsonl").read_text().splitlines()


def test_the_surface_comes_first_then_the_sweep_at_its_best_cell(undisturbed):
    grid, records = tiny(), atlas.read(tiny(), undisturbed)
    surface = [(cell, seed) for seed in (0, 1) for cell in grid.cells()]
    assert list(records) == [*surface, (Cell(0, 1, 1), 0), (Cell(0, 1, 1), 1)]
    assert atlas.runs_left(grid, records) == [] and atlas.count_runs(grid, records) == (0, 10)
    for (cell, seed), run in records.items():
        assert run.n == 40 and run.seed == seed and run.what == str(cell)
        assert run.values["multiply_adds"] == cell.config(grid.config).cost().total
        assert len(run.values["norm_98"]) == 2 and run.values["norm_98"] > run.values["norm_50"]
        assert ("entropy" in run.values, "on_registers" in run.values) == (
            cell.cls != POOLING,
            cell.cls != POOLING and cell.reg is not None,
        )
        weights = f"{cell}_seed{seed}".replace(",", "").replace(" ", "_")
        assert load_model(undisturbed / "weights" / f"{weights}.safetensors").plan == cell.plan(2)


@pytest.mark.slow
def test_killed_damaged_and_resumed_is_undisturbed(undisturbed, tmp_path):
    process = launch.start([*KILLED, tmp_path, tmp_path / "mark"])  # one worker hangs
    status, out, _ = launch.finished(process)
    workers = [int(pid) for pid in out.split()]
    assert status == -signal.SIGKILL and len(workers) == 2
    launch.wait_for(lambda: not any(map(tiny_atlas.lives, workers)), "end of the workers")
    first = lines(tmp_path)
    assert len(first) == 1

    with open(tmp_path / "tiny.jsonl", "a") as file:  # and the machine dies while it appends
        file.write(first[0][:700])
    with pytest.raises(ValueError, match="line 2"):
        atlas.read(tiny(), tmp_path)
    assert "line 2: half a record, 700 bytes" in atlas.drop_partial_record(tiny(), tmp_path)
    assert lines(tmp_path) == first and atlas.drop_partial_record(tiny(), tmp_path) == ""

    resumed = list(atlas.run(tiny(), tmp_path, command="none", progress=False))
    assert len(resumed) == 9 and lines(tmp_path)[0] == first[0]
    recorded, expected = values(tmp_path), values(undisturbed)
    assert recorded.keys() == expected.keys()
    for name, value in recorded.items():  # in another process a sum may be rounded otherwise
        assert value == pytest.approx(expected[name], rel=1e-5), name
    assert list(atlas.run(tiny(), tmp_path, command="none", progress=False)) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_stops_between_two_looks(undisturbed, tmp_path, capsys, monkeypatch, number, status):
    (tmp_path / "tiny.jsonl").write_text("\n".join(lines(undisturbed)[:2]) + "\n")
    monkeypatch.setattr(RUN, "Workers", Here)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = signal.getsignal(number)
    running = atlas.run(tiny(), tmp_path, command="none")
    next(running)
    os.kill(os.getpid(), number)
    with pytest.raises(atlas.Interrupted, match="^stopped with 7 runs left; the same command continues$") as stopped:
        next(running)
    assert stopped.value.status == status and len(lines(tmp_path)) == 3 and signal.getsignal(number) == before
    bar = capsys.readouterr().err
    assert "7 of 10 runs left" in bar and "2.00/16.0" in bar  # steps of this command: two a run


def test_a_process_that_dies_is_named(undisturbed, tmp_path):
    kept = lines(undisturbed)[:2]
    (tmp_path / "tiny.jsonl").write_text("\n".join(kept) + "\n")
    with pytest.raises(
        atlas.RunFailed, match="^average pooling, no registers, seed 0: its process was killed, .*memory"
    ):
        list(atlas.run(tiny("killed"), tmp_path, command="none", progress=False))
    assert lines(tmp_path) == kept and multiprocessing.active_children() == []


def test_a_run_that_raises_is_named(monkeypatch):
    class Pipe(list):
        recv = list.pop

        def send(self, values):
            monkeypatch.setattr(worker, "pipe", SimpleNamespace(recv=lambda: values))
            raise EOFError

    worker = object.__new__(workers._Worker)
    worker.job, worker.pipe = (Cell(0), 1), None
    monkeypatch.setattr(workers, "_exit_with", lambda parent: None)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "one")
    with pytest.raises(EOFError):
        workers._work(Pipe([worker.job]), None, tiny("no such file\nand more"), None, "cpu", torch.get_num_threads())
    with pytest.raises(atlas.RunFailed, match="^class token at 0, no registers, seed 1: RuntimeError: no such file$"):
        worker.result()


class TestRecords:
    @pytest.fixture
    def folder(self, undisturbed, tmp_path):
        (tmp_path / "tiny.jsonl").write_text((undisturbed / "tiny.jsonl").read_text())
        return tmp_path

    def change(self, folder, line, **fields):
        records = [json.loads(text) for text in lines(folder)]
        records[line].update(fields)
        (folder / "tiny.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
        return records[line]

    def test_of_another_recipe_or_model(self, folder):
        with pytest.raises(
            ValueError, match=r"another recipe than this grid \(lr 0.001 instead of 0.5\): keep its runs in"
        ):
            atlas.read(replace(tiny(), recipe=replace(tiny().recipe, lr=0.5)), folder)
        with pytest.raises(ValueError, match=r"another model than this grid \(dim 16 instead of 32\)"):
            atlas.read(replace(tiny(), config=replace(tiny().config, dim=32)), folder)
        with pytest.raises(ValueError, match=r"another model than this grid \(depth 2 instead of 3\)"):
            atlas.read(replace(tiny(), config=replace(tiny().config, depth=3, plan=None)), folder)

    def test_changed_by_hand(self, folder):
        self.change(folder, 3, what="class token at 7")
        with pytest.raises(ValueError, match=r"tiny.jsonl, line 4: id has to be \w{12} for this record"):
            atlas.read(tiny(), folder)

    def test_without_a_model(self, folder):
        self.change(folder, 0, config=None, id="")
        with pytest.raises(ValueError, match="another model"):
            atlas.read(tiny(), folder)

    def test_a_whole_line_without_its_end_is_kept(self, folder):
        path = folder / "tiny.jsonl"
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        assert atlas.drop_partial_record(tiny(), folder) == "" and path.read_bytes() == content

    def test_only_the_last_line_is_cut_off(self, folder):
        damaged = lines(folder)
        damaged[1] = damaged[1][:50]
        (folder / "tiny.jsonl").write_text("\n".join(damaged) + "\n")
        assert atlas.drop_partial_record(tiny(), folder) == "" and lines(folder) == damaged
        with pytest.raises(ValueError, match="line 2"):
            atlas.read(tiny(), folder)

    def test_nothing_to_mend(self, tmp_path):
        assert atlas.drop_partial_record(tiny(), tmp_path) == "" and not list(tmp_path.iterdir())
        (tmp_path / "tiny.jsonl").write_bytes(b"\0" * 30)
        assert "line 1: half a record, 30 bytes" in atlas.drop_partial_record(tiny(), tmp_path)
        assert atlas.read(tiny(), tmp_path) == {}

    def test_what_is_left(self, folder):
        grid, records = tiny(), atlas.read(tiny(), folder)
        last = (Cell(POOLING, 1, 2), 1)
        without = {job: run for job, run in records.items() if job != last}
        assert atlas.runs_left(grid, without) == [last]
        assert atlas.count_runs(grid, without) == (3, 10)  # the sweep may move
        surface = dict(list(records.items())[:8])
        assert atlas.runs_left(grid, surface) == [(Cell(0, 1, 1), 0), (Cell(0, 1, 1), 1)]
        assert atlas.count_runs(grid, surface) == (2, 10) and atlas.count_runs(grid, {}) == (10, 10)
        assert atlas.count_runs(replace(grid, sweep=()), surface) == (0, 8)


def test_what_does_not_fit_is_said_before_any_worker_starts(tmp_path, monkeypatch):
    def start(*args):
        raise AssertionError("a worker has been started")

    monkeypatch.setattr(RUN, "Workers", start)
    begin = {"command": "none", "progress": False}
    nowhere = atlas.Grid("tiny", "nowhere", tiny_atlas.CONFIG, tiny_atlas.RECIPE, (0,), (None, 1))
    with pytest.raises(ValueError, match="there is no data set 'nowhere'"):
        next(atlas.run(nowhere, tmp_path, **begin))
    with pytest.raises(ValueError, match="there is no device 'abacus' here"):
        next(atlas.run(tiny(), tmp_path, device="abacus", **begin))
    with pytest.raises(ValueError, match="batch_size=97 is more than the 96 training images there are"):
        next(atlas.run(replace(tiny(), recipe=replace(tiny().recipe, batch_size=97)), tmp_path, **begin))
    with pytest.raises(AssertionError, match="a worker"):
        next(atlas.run(tiny(), tmp_path, **begin))


class TestFresh:
    def test_cells_of_a_seed_begin_alike_and_seeds_differ(self):
        grid = tiny(cls=(0, 1, atlas.ATTENTION, POOLING))
        models = {cell: fresh(grid, cell, 3).state_dict() for cell in grid.cells()}
        standard = models[Cell(0)]
        for cell, weights in models.items():
            shared = [name for name in weights if name in standard and weights[name].shape == standard[name].shape]
            assert len(shared) > 20 and all(torch.equal(weights[name], standard[name]) for name in shared), cell
        pooled = models[Cell(POOLING)]
        (name,) = (name for name in pooled if re.fullmatch(r"classifiers.patches.weight", name))
        assert torch.equal(pooled[name], standard["classifiers.cls.weight"])
        other = fresh(grid, Cell(0), 4).state_dict()
        assert not torch.equal(other["classifiers.cls.weight"], standard["classifiers.cls.weight"])

    def test_and_the_generator_of_who_calls_decides_nothing(self):
        torch.manual_seed(1)
        first = fresh(tiny(), Cell(0, 1, 2), 0).state_dict()
        torch.manual_seed(2)
        second = fresh(tiny(), Cell(0, 1, 2), 0).state_dict()
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_ledger_s_own_records_cover_every_cell():
    grid = atlas.grids()["cpu"]
    records = atlas.read(grid)
    assert atlas.runs_left(grid, records) == [] and atlas.count_runs(grid, records) == (0, 84)
    assert len(records) == len(ledger.read(grid.experiment))  # none twice
    assert {seed for _, seed in records} == {0, 1, 2}
