"""A study makes each run once, in parallel, and leaves no process."""

import multiprocessing
from dataclasses import replace

import pytest

from book.experiments import study
from dtl_lib import ledger
from dtl_lib.config import ViTConfig
from dtl_lib.train import Recipe

CONFIG = ViTConfig(16, 8, dim=24, depth=2, heads=3, classes=5)


def measure(run: study.Run, device: str) -> dict:
    if run.what == "broken":
        raise RuntimeError("no such kernel")
    return {"n": 3, "accuracy": run.seed / 10, "steps": run.recipe.max_steps}


def made(*names: str, first: int = 0) -> study.Study:
    runs = tuple(study.Run(name, seed, CONFIG, Recipe(max_steps=7, seed=seed)) for seed in (0, 1) for name in names)
    return study.Study("made_up", "python -m made_up", runs, measure, first)


@pytest.mark.slow
def test_every_run_has_one_record_and_none_is_repeated(tmp_path, capsys):
    study.main(lambda scale: made("late", "early"), ["--jobs", "2", "--device", "cpu", "--folder", str(tmp_path)])
    records = ledger.read("made_up", tmp_path)
    assert {(r.what, r.seed) for r in records} == {(n, s) for n in ("late", "early") for s in (0, 1)}
    assert all((r.n, r.get("accuracy"), r.get("recipe.seed")) == (3, r.seed / 10, r.seed) for r in records)
    assert all("n" not in r.values and r.get("steps") == 7 for r in records)
    assert capsys.readouterr().out.count("made_up: ") == 4
    assert not list(made("late", "early").carry_out(str(tmp_path)))
    assert len(list(made("late", "new").carry_out(str(tmp_path)))) == 2
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_what_comes_first_ends_before_the_others_begin(tmp_path):
    records = list(made("teacher", "student", first=1).carry_out(str(tmp_path), jobs=3))
    assert (records[0].what, records[0].seed) == ("teacher", 0) and len(records) == 4


def test_two_at_once_do_not_make_the_same_runs(tmp_path):
    one = made("late", "early").carry_out(str(tmp_path))
    next(one)
    with pytest.raises(ValueError, match="another process makes runs for .*made_up.jsonl: let it end, or choose"):
        next(made("late", "early").carry_out(str(tmp_path)))
    assert len([*one]) == 3 and not list(made("late", "early").carry_out(str(tmp_path)))


def test_bad_input_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        study.main(lambda scale: made("late"), ["--jobs", "0", "--folder", str(tmp_path)])
    assert (
        stopped.value.code == 2
        and "jobs is a whole number, 1 or more, not 0" in capsys.readouterr().err.splitlines()[-1]
    )


def test_runs_that_fail_are_one_line_of_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2 of 4 runs failed: broken, seed [01]: RuntimeError: no such kernel"):
        study.main(lambda scale: made("broken", "late"), ["--device", "cpu", "--folder", str(tmp_path)])
    assert capsys.readouterr().out.count("made_up: late") == 2


def test_a_run_that_fails_is_told_once_the_others_have_ended(tmp_path):
    with pytest.raises(RuntimeError, match="2 of 4 runs failed: broken, seed [01]: RuntimeError: no such kernel"):
        list(made("broken", "late").carry_out(str(tmp_path), jobs=2))
    assert len(ledger.read("made_up", tmp_path)) == 2 and not multiprocessing.active_children()


@pytest.mark.slow
def test_studies_share_one_pool_and_keep_their_own_records(tmp_path):
    other = replace(made("plain"), experiment="another")
    records = list(study.carry_out([made("late", "early"), other], str(tmp_path), jobs=2))
    assert len(records) == 6 and not multiprocessing.active_children()
    assert [len(ledger.read(name, tmp_path)) for name in ("made_up", "another")] == [4, 2]
    assert not list(study.carry_out([made("late", "early"), other], str(tmp_path)))
    with pytest.raises(RuntimeError, match="2 of 4 runs failed: broken"):
        list(study.carry_out([made("broken"), replace(made("new"), experiment="another")], str(tmp_path)))
    assert len(ledger.read("another", tmp_path)) == 4
