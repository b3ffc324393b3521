"""The command for a GPU, at its toy size: what it records, leaves out, survives, and when it ends."""

import os
import sys
import time
from argparse import Namespace
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import pytest
from torch import nn

from book.experiments import cait
from book.experiments.gpu import __main__ as command
from book.experiments.gpu import beside as gpu_beside
from book.experiments.gpu import cifar, correctness, exchange, schedule, sizes, times, training
from dtl_lib import ledger
from dtl_lib.lab import atlas
from dtl_lib.train import Recipe
from tests.unit.tiny_atlas import Here

EXPERIMENTS = {"gpu_tests": 1, "step_speed": 7, "step_time": 3, "gpu_steps": 11, "cifar10_gpu": 4, "atlas_toy": 1}
EXPERIMENTS |= {"gpu_beside": 1, "atlas_toy_10": 2, "atlas_toy_5": 2}
OF_CHAPTERS = cait.study("toy")  # one study for all of them: the others have tests of their own
EXPERIMENTS[OF_CHAPTERS.experiment] = len(OF_CHAPTERS.runs)
TASKS = 18
PASSED = "tests/gpu/test_gpu.py::test_one[bf16] PASSED [ 50%]\ntests/gpu/test_gpu.py::test_other SKIPPED (why)\n"


def dry(folder, *more) -> int:
    return command.main(["--dry", "--minutes", "30", "--folder", str(folder), *more])


@pytest.fixture(autouse=True)
def one_study(monkeypatch):
    monkeypatch.setattr(sizes, "STUDIES", (cait.study,))


@pytest.fixture
def quick(monkeypatch):
    """No process for tests and atlas, and nothing compiled."""
    monkeypatch.setattr(correctness, "run_tests", lambda *_: (PASSED, False))
    monkeypatch.setattr(sys.modules["dtl_lib.lab.atlas.run"], "Workers", Here)
    monkeypatch.setattr(nn.Module, "compile", lambda module, **how: None)
    monkeypatch.setattr(gpu_beside, "measure", lambda *_: None)


@pytest.mark.slow
def test_every_part_records_and_a_second_call_measures_nothing(tmp_path, capsys):
    assert dry(tmp_path) == 0
    said = capsys.readouterr().out
    assert f"{TASKS} of {TASKS} tasks are recorded, 0 failed" in said and "s left] the plan" in said
    assert {path.stem for path in tmp_path.iterdir()} == EXPERIMENTS.keys()
    records = {name: ledger.read(name, tmp_path) for name in EXPERIMENTS}
    assert {name: len(found) for name, found in records.items()} == EXPERIMENTS
    assert all(
        r.command == "python -m book.experiments.gpu --minutes 30 --dry"
        for f in records.values()
        for r in f
        if r.experiment != OF_CHAPTERS.experiment
    )
    (tests,) = records["gpu_tests"]
    assert tests.get("passed") == tests.n > 1 and tests.get("failed") == tests.get("timed_out") == 0
    assert [run.what.split(", ", 1)[1].split(":")[0] for run in records["step_speed"]] == list(times.CHANGES)
    kinds = Counter(run.what.partition(":")[0] for run in records["gpu_steps"])
    assert kinds == {"batch size": 4, "peak memory": 4, "ours against timm": 2, "looking inside": 1}
    assert [run.seed for run in records["cifar10_gpu"]] == [0, 1, 0, 1]
    beside = records["gpu_beside"][0]
    assert beside.get("processes") == [1, 2] and all(rate > 0 for rate in beside.get("images_per_s"))
    looked = next(run for run in records["gpu_steps"] if "looking" in run.what)
    assert looked.get("class_token_of_every_block")[0] > 0

    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert dry(tmp_path) == 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert capsys.readouterr().out.count("recorded  ") == TASKS


def test_as_many_runs_beside_each_other_as_are_worth_it(tmp_path):
    options = Namespace(device="cpu", folder=tmp_path, command="none", jobs=None)
    assert gpu_beside.best(options, 4) == 4, "where nothing is measured"
    values = {"processes": [1, 3, 6, 9], "images_per_s": [10.0, 30.0, 58.0, 60.0]}
    ledger.add(gpu_beside.EXPERIMENT, "toy", "none", "cpu", values, n=1, seed=None, folder=tmp_path)
    assert gpu_beside.best(options, 4) == 6
    assert gpu_beside.best(Namespace(**{**vars(options), "jobs": 2}), 4) == 2


@pytest.mark.slow
def test_how_many_go_beside_each_other_is_not_measured_where_it_is_given(tmp_path, capsys):
    assert dry(tmp_path, "--parts", "5", "--jobs", "1") == 0
    assert not ledger.read(gpu_beside.EXPERIMENT, tmp_path, missing_ok=True)
    assert len(ledger.read("atlas_toy_10", tmp_path)) == 2


def test_without_a_folder_nothing_stays(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(ledger, "FOLDER", tmp_path)
    assert command.main(["--dry", "--parts", "1", "3"]) == 0
    assert not list(tmp_path.iterdir())


def test_the_minutes_are_kept(quick, tmp_path, capsys):
    assert dry(tmp_path, "--minutes", "0.01") == 0
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir()) and said.count("do not fit into") == TASKS


@pytest.mark.slow
def test_a_task_is_interrupted_when_the_minutes_are_up(tmp_path, capsys):
    """Wherever it is, also where something on its way takes every exception for its own."""
    done = []

    def hang():
        while True:
            try:
                time.sleep(5)
            except Exception:
                done.append("swallowed")

    def task(name, run):
        return schedule.Task(2, name, lambda: 0.1, lambda: name in done, run)

    tasks = [task("first", lambda: done.append("first")), task("hangs", hang), task("after", 0)]
    schedule.run(tasks[:1], schedule.Deadline(60, time.monotonic()))  # the first call imports the compiler
    done.clear()
    assert schedule.run(tasks, schedule.Deadline(10.0, time.monotonic())) == 0
    assert done == ["first"] and "out of time" in capsys.readouterr().out


@pytest.mark.slow
def test_what_fails_does_not_stop_the_others(quick, monkeypatch, tmp_path, capsys):
    def broken(*_):
        raise RuntimeError("no such kernel\nat line 3")

    look_inside = times.look_inside
    monkeypatch.setattr(times, "look_inside", broken)
    monkeypatch.setattr(correctness, "run_tests", lambda *_: (PASSED.replace("PASSED", "FAILED"), False))
    assert dry(tmp_path) == 1
    err = capsys.readouterr().err
    assert "recording and maps: RuntimeError: no such kernel at line 3" in err and "failed: test_one[bf16]" in err
    assert {path.stem for path in tmp_path.iterdir()} == EXPERIMENTS.keys() - {gpu_beside.EXPERIMENT}
    assert not any("looking" in run.what for run in ledger.read("gpu_steps", tmp_path))
    assert ledger.read("gpu_tests", tmp_path)[0].get("failed") == 1
    monkeypatch.setattr(times, "look_inside", look_inside)
    monkeypatch.setattr(correctness, "run_tests", lambda *_: (PASSED, False))
    assert dry(tmp_path, "--parts", "1", "2") == 0, "what has failed is measured again"
    assert [run.get("failed") for run in ledger.read("gpu_tests", tmp_path)] == [1, 0]


def test_tests_that_do_not_end_are_recorded_as_such(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(correctness, "run_tests", lambda *_: (PASSED, True))
    assert dry(tmp_path, "--parts", "1") == 1 and "not ended in time" in capsys.readouterr().err
    assert ledger.read("gpu_tests", tmp_path)[0].get("timed_out") == 1
    monkeypatch.undo()
    output, timed_out = correctness.run_tests("cpu", seconds=0.2)
    assert timed_out and "passed" not in output


def test_part_2_has_a_limit_of_its_own(monkeypatch, capsys):
    monkeypatch.setitem(schedule.LIMITS, 2, 1.0)
    done = []
    tasks = [
        schedule.Task(part, f"{part}.{number}", lambda: 0.6, lambda: False, lambda: (done.append(1), time.sleep(0.6)))
        for part, number in ((2, 1), (2, 2), (3, 1))
    ]
    schedule.run(tasks, schedule.Deadline(60, time.monotonic()))
    assert len(done) == 2 and "left out, 1 s do not fit into 0 s: 2.2" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--minutes", "0"], ["--minutes", "soon"], ["--parts", "8"], ["--gpu"]])
def test_bad_flags(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(flags)
    assert stopped.value.code == 2 and capsys.readouterr().err.count("error:") == 1


def test_bad_places(tmp_path, capsys):
    assert dry(tmp_path, "--data-path", str(tmp_path / "nowhere")) == 2
    assert command.main(["--minutes", "1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "nowhere: neither cifar-10-batches-py/data_batch_1 nor unpack.py is there" in lines[0]
    assert lines[1:] == ["there is no GPU here; --dry tries every part at a toy size on the CPU"]


class TestCifar:
    """Where the images are."""

    SCRIPT = (
        "import pathlib, sys\n"
        "here, there = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[1]) / 'cifar-10-batches-py'\n"
        "there.mkdir()\n"
        "(there / 'data_batch_1').write_bytes((here / 'mosaic').read_bytes())\n"
    )

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("DTL_DATA", str(tmp_path / "empty"))

    @pytest.mark.parametrize("inside", [".", "data"])
    def test_a_folder_of_mosaics(self, inside, tmp_path):
        (tmp_path / inside).mkdir(exist_ok=True)
        (tmp_path / inside / "unpack.py").write_text(self.SCRIPT)
        (tmp_path / inside / "mosaic").write_bytes(b"pixels")
        with ExitStack() as stack:
            found = cifar.Cifar(str(tmp_path), stack)
            assert found.is_there
            folder = found.folder()
            assert (folder / "cifar-10-batches-py" / "data_batch_1").read_bytes() == b"pixels"
            assert os.environ["DTL_DATA"] == str(folder) and found.folder() == folder
        assert not folder.exists()

    @pytest.mark.parametrize("inside", ["", "cifar-10-batches-py", "CIFAR10/cifar-10-batches-py"])
    def test_the_python_version(self, inside, tmp_path):
        (tmp_path / inside).mkdir(parents=True, exist_ok=True)
        (tmp_path / inside / "data_batch_1").touch()
        folder = cifar.Cifar(str(tmp_path), ExitStack()).folder()
        assert (tmp_path / inside).is_relative_to(folder) and "DTL_DATA" in os.environ

    def test_nothing_was_given(self):
        found = cifar.Cifar(None, ExitStack())
        assert not found.is_there and "--data-path" in str(found)
        options = Namespace(folder=None, device="cpu")
        assert not training.tasks(replace(sizes.toy(), compiled=True), found.folder, False, options, None)

    def test_a_script_that_fails_is_run_once(self, tmp_path):
        (tmp_path / "unpack.py").write_text("open('count', 'a').write('1'); raise SystemExit('no Pillow here')")
        with ExitStack() as stack:
            found = cifar.Cifar(str(tmp_path), stack)
            os.chdir(tmp_path)
            for _ in range(2):
                with pytest.raises(ValueError, match="no Pillow here"):
                    found.folder()
        assert (tmp_path / "count").read_text() == "1"


class TestShortened:
    """The long recipe, made to fit."""

    def job(self, tmp_path, left: float, seed: int = 0):
        size, options = sizes.toy(), Namespace(device="cpu", folder=tmp_path, command="none", sizes=(32,))
        name, config, recipe = size.full
        recipe = replace(recipe, epochs=300, warmup_epochs=10, seed=seed)
        deadline = schedule.Deadline(left, time.monotonic())
        return training.Job(name, config, recipe, True, size, sizes.noise, options, deadline)

    @pytest.fixture(autouse=True)
    def rate(self, monkeypatch):
        """64 images train in a second, and are evaluated in half of one."""
        self.trained = []

        def train(job, recipe):
            self.trained.append(recipe)
            found = was(job, replace(recipe, max_steps=2))
            return replace(found, images_per_s=64.0, test=replace(found.test, seconds=0.5))

        was = training.train
        monkeypatch.setattr(training, "train", train)

    def test_as_many_epochs_as_fit(self, tmp_path):
        recipe = training.shortened(self.job(tmp_path, 100))
        assert 35 <= recipe.epochs <= (100 - 15) / 1.5 / 1.15 and recipe.warmup_epochs == recipe.epochs / 10

    def test_the_whole_recipe_where_it_fits(self, tmp_path):
        assert training.shortened(self.job(tmp_path, 3000)).epochs == 300

    def test_too_few_are_not_begun(self, tmp_path):
        with pytest.raises(schedule.NotNow, match="0 epochs fit, and 1 are wanted"):
            training.shortened(self.job(tmp_path, 10))

    def test_the_other_seeds_have_the_first_ones_epochs(self, tmp_path):
        self.job(tmp_path, 100).run()
        self.job(tmp_path, 1000, seed=1).run()
        first, second = ledger.read("cifar10_gpu", tmp_path)
        assert first.what == second.what and "of its 300 epochs" in first.what and second.seed == 1
        assert replace(Recipe.from_dict(first.recipe), seed=1) == Recipe.from_dict(second.recipe)
        assert len(self.trained) == 3, "the second seed needs no trial"


def test_the_atlas_begins_with_what_can_be_tested():
    grid = atlas.grids()["gpu"]
    corner, kinds, whole = atlas.stages(grid)
    assert whole == grid and set(corner.cells()) < set(kinds.cells()) < set(grid.cells())
    assert (len(corner.cells()), len(kinds.cells())) == (4, 8) and corner.seeds == grid.seeds
    names = [contrast.name for contrast in atlas.contrasts(corner)]
    assert names[:2] == ["class token late − early", "registers − none"] and len(names) == 3
    assert len(atlas.contrasts(grid)) == 6 > len(atlas.contrasts(kinds)) == 5


def test_records_travel_to_another_machine_and_back(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ledger, "FOLDER", tmp_path / "ledger")
    assert dry(tmp_path / "first", "--parts", "3") == 0
    assert command.main(["--take", str(tmp_path / "first")]) == 0
    assert command.main(["--take", str(tmp_path / "first")]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "new records" in line] == [
        f"{count} new records from {tmp_path / 'first'}" for count in (2, 0)
    ]
    other = replace(ledger.read("cifar10_gpu")[0], device="NVIDIA H100 80GB HBM3", id="")
    ledger.append(other)
    assert exchange.bring(str(tmp_path / "second"), "cpu") == 2
    assert ledger.read("cifar10_gpu", tmp_path / "second") == ledger.read("cifar10_gpu", tmp_path / "first")
    assert dry(tmp_path / "second", "--parts", "3") == 0 and "2 of 2 tasks are recorded" in capsys.readouterr().out
    assert len(ledger.read("cifar10_gpu", tmp_path / "second")) == 2
    assert command.main(["--take", str(tmp_path / "nowhere")]) == 2 and "no records of" in capsys.readouterr().err


def test_it_starts_without_torch():
    """The minutes count from the start, so `--help` and the clock come before the import of torch."""
    import subprocess

    program = "import sys, book.experiments.gpu.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=correctness.ROOT).returncode == 0
