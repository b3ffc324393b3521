"""Names of files are bytes: what carries one in a record, a card or a log can be written, and read again."""

import dataclasses
import json
import os

import pytest

from dtl_lib import checkpoint, ledger
from dtl_lib.__main__ import main
from dtl_lib.train import fit
from tests.unit.disturbed import RECIPE, rows, small_sets, tiny

LATIN = os.fsdecode(b"caf\xe9")  # no UTF-8
ODD = ["two\u2028lines", "two\u2029lines", LATIN]


@pytest.mark.parametrize("name", ODD)
def test_a_record_is_read_again(tmp_path, name):
    given = ledger.add("e", "what", f"dtl evaluate {name}", "cpu", {"x": 1.0}, n=1, seed=0, folder=tmp_path)
    assert ledger.read("e", tmp_path) == [given]
    assert len((tmp_path / "e.jsonl").read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.parametrize("name", ODD)
def test_a_run_on_a_folder_of_that_name_goes_on_and_keeps_its_log(tmp_path, name):
    sets = small_sets()
    sets.train.name = f"{name} 1"
    recipe = dataclasses.replace(RECIPE, max_steps=2, log_every=1)
    fit(tiny(), sets, recipe, tmp_path, progress=False, card={"command": f"dtl train {name}"})
    before = rows(tmp_path)
    fit(tiny(), sets, dataclasses.replace(recipe, max_steps=3), tmp_path, progress=False, resume=True)
    assert rows(tmp_path)[: len(before) - 1] == before[:-1] and len(rows(tmp_path)) == 3
    assert json.loads((tmp_path / "best.json").read_text(encoding="utf-8"))["data"]["name"] == f"{name} 1"
    assert checkpoint.read(tmp_path / "best.safetensors")[1]["data"]["name"] == f"{name} 1"


@pytest.mark.parametrize("name", ODD)
@pytest.mark.slow
def test_a_command_with_such_a_folder(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    short = ["--max-steps", "1", "--samples", "32", "--batch-size", "8", "--quiet"]
    assert main(["train", "--output-dir", name, *short]) == 0
    assert main(["evaluate", "--model-path", f"{name}/best.safetensors"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    text = (tmp_path / name / "best.json").read_text(encoding="utf-8")
    assert json.loads(text)["command"].encode()  # plain text, for the book's page


@pytest.mark.parametrize("line", ["[" * 100_000, '{"step": ' + "1" * 5000 + "}", "null", '{"step": "1"}'])
def test_a_line_of_the_log_that_is_no_row_is_dropped(tmp_path, line):
    sets, recipe = small_sets(), dataclasses.replace(RECIPE, max_steps=2, log_every=1)
    fit(tiny(), sets, recipe, tmp_path, progress=False)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write(f"{line}\n")
    fit(tiny(), sets, dataclasses.replace(recipe, max_steps=3), tmp_path, progress=False, resume=True)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
