"""Nothing that a run has kept is overwritten, emptied or taken for something else."""

import builtins
import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dtl_lib import atomic, checkpoint, ledger
from dtl_lib.__main__ import main
from dtl_lib.lab import atlas
from dtl_lib.train import fit, state
from tests.unit.disturbed import RECIPE, Cut, cut_at, small_sets, tensors, tiny
from tests.unit.tiny_atlas import Here
from tests.unit.tiny_atlas import tiny as tiny_atlas

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sets():
    return small_sets()


@pytest.fixture(scope="module")
def finished(sets, tmp_path_factory):
    """A run's folder, whole."""
    folder = tmp_path_factory.mktemp("run")
    fit(tiny(), sets, RECIPE, folder, progress=False)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to spoil."""
    for path in finished.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["log.jsonl", "best.json", "best.safetensors", "events.out.tfevents.1.host"])
def test_a_run_does_not_begin_over_what_another_has_left(sets, tmp_path, name):
    (tmp_path / name).write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match=f"holds {name} of another run, which would be overwritten: choose another"):
        fit(tiny(), sets, RECIPE, tmp_path, progress=False)
    assert contents(tmp_path) == {name: b'{"step": 1}\n'}


def test_a_folder_of_other_things_is_not_refused(sets, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fit(tiny(), sets, dataclasses.replace(RECIPE, max_steps=1), tmp_path, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("name", ["best.safetensors", "state.safetensors"])
def test_what_cannot_be_read_just_now_is_not_replaced(sets, run, monkeypatch, name, number):
    """Not even by an earlier state: the file may be whole."""
    before, real = contents(run), builtins.open

    def refusing(file, *args, **how):
        if str(file) == str(run / name):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, *args, **how)

    monkeypatch.setattr(builtins, "open", refusing)
    with pytest.raises(checkpoint.AccessError, match=f"{name} cannot be read .*: nothing is put in its place"):
        fit(tiny(), sets, RECIPE, run, progress=False, resume=True)
    monkeypatch.undo()
    assert contents(run) == before


def test_best_weights_that_are_missing_or_damaged_are_replaced(sets, tmp_path):
    for number, spoil in enumerate((Path.unlink, lambda path: path.write_bytes(b"no weights"))):
        folder = tmp_path / str(number)
        cut_at(9, sets, folder)
        spoil(folder / "best.safetensors")
        fit(tiny(1), sets, RECIPE, folder, progress=False, resume=True)
        assert checkpoint.load_model(folder / "best.safetensors")


@pytest.mark.parametrize("name", ["state.safetensors", "best.safetensors", "best.json", "log.jsonl"])
def test_what_a_kill_in_the_last_save_has_left_is_removed(sets, run, name):
    left, own = run / f".{name}.part", run / ".mine.part"
    left.mkdir()
    (left / name).write_bytes(b"half")
    own.write_text("not ours")
    fit(tiny(), sets, RECIPE, run, progress=False, resume=True)
    assert not left.exists() and own.read_text() == "not ours"


READ = """
import sys
from dtl_lib import checkpoint
print("ready", flush=True)
refused = 0
for _ in range(150):
    try:
        checkpoint.read(sys.argv[1])
    except checkpoint.CheckpointError:
        refused += 1
print(refused)
"""


def test_a_checkpoint_that_is_cut_short_while_it_is_read_is_refused(tmp_path):
    """Mapped, it would end the process with SIGBUS."""
    path, big = tmp_path / "best.safetensors", tiny()
    big.extra = torch.nn.Parameter(torch.zeros(2**21))
    checkpoint.save_model(path, big)
    whole = path.read_bytes()
    reader = subprocess.Popen([sys.executable, "-c", READ, path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert reader.stdout.readline() == "ready\n"
    while reader.poll() is None:
        os.truncate(path, len(whole) // 3)
        with open(path, "r+b") as file:
            file.write(whole)
    assert reader.returncode == 0 and reader.stdout.read().strip().isdigit(), "it read or refused all 150 times"


class Untouched:
    """Workers that must not be started."""

    def __init__(self, *_):
        raise AssertionError("the work has begun")


@pytest.mark.slow
def test_two_processes_do_not_make_one_grid_s_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["dtl_lib.lab.atlas.run"], "Workers", Here)
    first = atlas.run(tiny_atlas(), tmp_path, command="none", progress=False)
    next(first)
    again = "from tests.unit.tiny_atlas import tiny; from dtl_lib.lab import atlas; import sys\n"
    for call in ("list(atlas.run(tiny(), sys.argv[1], command='none', progress=False))",
                 "atlas.drop_partial_record(tiny(), sys.argv[1])"):  # fmt: skip
        other = subprocess.run([sys.executable, "-c", again + call, tmp_path], cwd=ROOT, capture_output=True, text=True)
        assert "ValueError: another process makes runs for" in other.stderr, other.stderr
    assert len(list(first)) == 9 and len(ledger.read("tiny", tmp_path)) == 10
    assert list(atlas.run(tiny_atlas(), tmp_path, command="none", progress=False)) == []


@pytest.mark.parametrize("what", ["records", "weights"])
def test_what_cannot_be_written_is_known_before_the_first_run(tmp_path, monkeypatch, what):
    monkeypatch.setattr(sys.modules["dtl_lib.lab.atlas.run"], "Workers", Untouched)
    (tmp_path / "file").write_text("")
    folders = {"records": tmp_path / "records", "weights": None} | {what: tmp_path / "file/inside"}
    with pytest.raises(ValueError, match=f"{what} cannot be written to .*file is a file, not a folder$"):
        list(atlas.run(tiny_atlas(), folders["records"], command="none", weights=folders["weights"], progress=False))


@pytest.mark.parametrize(
    "line",
    [
        "train --max-steps 1 --record some --output-dir run",
        "evaluate --model zoo/registers_0 --record some",
        "bench --steps 1 --record some",
    ],
)
def test_a_ledger_that_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(ledger, "FOLDER", tmp_path / "file")
    assert main(line.split()) == 2
    out, error = capsys.readouterr()
    assert out == "" and "records cannot be written to" in error and not (tmp_path / "run").exists()


def test_a_finished_run_can_be_extended(sets, run, caplog):
    first = tensors(run)
    fit(tiny(1), sets, RECIPE, run, progress=False, resume=True)
    assert "the run is complete, 14 of 14 steps; a larger --max-steps or --epochs extends it" in caplog.text
    longer = dataclasses.replace(RECIPE, max_steps=20)
    result = fit(tiny(1), sets, longer, run, progress=False, resume=True)
    assert "the run is extended from 14 to 20 steps: from step 14 on its learning rate" in caplog.text
    assert result.history[-1]["step"] == 20 and [row["step"] for row in result.history][:2] == [3, 5]
    assert not torch.equal(first["model/tokens.cls"], tensors(run)["model/tokens.cls"])
    with pytest.raises(ValueError, match="is a run of 20 steps, and 14 would be fewer"):
        fit(tiny(1), sets, RECIPE, run, progress=False, resume=True)


def test_a_run_that_was_cut_can_be_extended(sets, tmp_path):
    """What remains is a run of the longer schedule from there, to the last bit, however often it is cut."""
    longer = dataclasses.replace(RECIPE, max_steps=20)
    for folder in ("one", "two"):
        cut_at(9, sets, tmp_path / folder)
    fit(tiny(1), sets, longer, tmp_path / "one", progress=False, resume=True)
    with pytest.raises(Cut):
        cut_on(15, sets, tmp_path / "two", longer)
    fit(tiny(2), sets, longer, tmp_path / "two", progress=False, resume=True)
    one, two = (tensors(tmp_path / folder) for folder in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def cut_on(step: int, sets, folder, recipe) -> None:
    """The same as `cut_at`, of a run that goes on."""

    def die(number, *_):
        if number == step:
            raise Cut

    fit(tiny(1), sets, recipe, folder, progress=False, resume=True, checkpoint_every=2, on_step=die)


@pytest.mark.parametrize(
    ("begun", "given", "steps"),
    [
        ("--max-steps 2", "--max-steps 4", 4),
        ("--max-steps 2", "--epochs 2", 4),
        ("--epochs 1", "--epochs 2", 4),
        ("--epochs 1", "--max-steps 3", 3),
    ],
)
def test_extending_on_the_command_line(tmp_path, monkeypatch, capsys, begun, given, steps):
    monkeypatch.chdir(tmp_path)
    small = "--samples 40 --image-size 16 --dim 16 --depth 1 --heads 2 --batch-size 20 --eval-every 9 --device cpu"
    assert main(["train", *f"{small} {begun} --quiet --output-dir run".split()]) == 0
    assert main(["train", *f"--resume run {given} --quiet".split()]) == 0
    assert state.read_card("run")["progress"]["step"] == steps


@pytest.mark.parametrize("warmup", [{"warmup_steps": 14}, {"warmup_steps": 99}, {"warmup_epochs": 5.0}])
def test_a_warm_up_that_does_not_end_is_said(sets, caplog, warmup):
    fit(tiny(), sets, dataclasses.replace(RECIPE, max_steps=3, eval_every=3, **warmup), progress=False)
    assert "does not end within the run's 3: lr rises to" in caplog.text


def test_a_warm_up_that_ends_is_not_mentioned(sets, caplog):
    fit(tiny(), sets, dataclasses.replace(RECIPE, max_steps=3, eval_every=3, warmup_steps=2), progress=False)
    assert "warm-up" not in caplog.text


def test_a_lock_is_held_by_one_process_at_a_time(tmp_path):
    take = "import sys; from pathlib import Path; from dtl_lib import atomic\n"
    take += "with atomic.lock(Path(sys.argv[1]), 'busy'): print('taken')"
    with atomic.lock(tmp_path / "l", "busy"):
        other = subprocess.run([sys.executable, "-c", take, tmp_path / "l"], cwd=ROOT, capture_output=True, text=True)
        assert other.stdout == "" and other.stderr.endswith("ValueError: busy\n")
    other = subprocess.run([sys.executable, "-c", take, tmp_path / "l"], cwd=ROOT, capture_output=True, text=True)
    assert other.stdout == "taken\n"
