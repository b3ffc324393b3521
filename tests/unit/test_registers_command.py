"""`dtl registers`: a checkpoint out that loads like any other, on a model whose outliers were planted."""

import json
import os
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import Group, checkpoint, load_pretrained, probes, record
from dtl_lib.cli.main import main
from dtl_lib.data.sources.folder import every_image
from dtl_lib.train import registers as training
from tests.unit.test_registers import BLOCK, WRITER, planted


@pytest.fixture
def given(tmp_path):
    """A checkpoint with planted outliers, and a folder of photos each with one red patch."""
    folder, draw = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(8):
        pixels = draw.integers(120, 132, (32, 32, 3), dtype=np.uint8)
        row, column = 8 * (number % 4), 8 * ((2 * number + 1) % 4)
        pixels[row : row + 8, column : column + 8, 0] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
    model = planted(mean=(0.49, 0.49, 0.49), std=(0.5, 0.5, 0.5), crop=1.0)
    path = checkpoint.save_model(tmp_path / "model.safetensors", model, {"classes": list("abcde")})
    return model, str(path), str(folder)


def pixels_of(model, folder):
    return every_image(folder, 32, model.config).batch(range(8))[0]


def longest(model, x) -> float:
    with torch.no_grad(), record(model) as tape:
        model(x)
    lengths = tape.norms(BLOCK)["patches"]
    return float(lengths.max() / lengths.median())


def test_planted_outliers_are_moved_and_the_checkpoint_holds_it(given, tmp_path, capsys):
    model, path, folder = given
    out, x = tmp_path / "moved.safetensors", pixels_of(model, folder)
    assert main(["registers", "test-time", path, "--images", folder, "--n", "2", "--output", str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"neuron {WRITER} of block {BLOCK}" in shown and "8 of 128 patches are outliers" in shown
    assert re.search(r"patches longer than .* 8 images: 8 before, 0 now", shown)
    moved = load_pretrained(str(out))
    assert longest(moved, x) < 10 < 100 < longest(model, x) and moved.plan.group("test") == Group("test", 2, BLOCK)
    assert moved.card["classes"] == list("abcde") and moved.card["neurons"][0]["neuron"] == WRITER
    assert moved.card["command"].startswith("dtl registers test-time")
    assert main(["predict", f"{folder}/0.png", "--model-path", str(out), "--device", "cpu"]) == 0


def test_registers_are_trained_and_nothing_else_has_changed(given, tmp_path, capsys):
    model, path, folder = given
    out = tmp_path / "added.safetensors"
    line = ["registers", "add", path, "--data-path", folder, "--n", "3", "--at", "1", "--leave", "3", "--steps", "6"]
    assert main([*line, "--batch-size", "4", "--output", str(out), "--quiet", "--device", "cpu"]) == 0
    assert "6 steps of 4 images; loss" in capsys.readouterr().out
    added = load_pretrained(str(out))
    assert added.plan.group("reg") == Group("reg", 3, 1, 3) and added.tokens["reg"].any()
    before = model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in added.state_dict().items() if name in before)
    assert (
        not list(tmp_path.glob("*.state.*")) and json.loads(out.with_suffix(".json").read_text())["registers"] == "add"
    )
    assert main([*line, "--norms", "--output", str(out), "--quiet"]) == 2
    assert "is there already: add --force" in capsys.readouterr().err
    assert main([*line, "--norms", "--batch-size", "4", "--output", str(out), "--quiet", "--force"]) == 0
    normed = load_pretrained(str(out)).state_dict()
    assert {name for name, value in normed.items() if name in before and not torch.equal(value, before[name])} <= {
        name for name in normed if ".norm" in name
    }


def test_a_training_that_was_stopped_goes_on(given, tmp_path, capsys, monkeypatch):
    _, path, folder = given
    whole, out, steps = tmp_path / "whole.safetensors", tmp_path / "out.safetensors", []
    line = ["registers", "add", path, "--data-path", folder, "--epochs", "3", "--batch-size", "4", "--quiet"]
    assert main([*line, "--output", str(whole)]) == 0
    step = training._step

    def stopping(*given):
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*given)

    monkeypatch.setattr(training, "_step", stopping)
    assert main([*line, "--output", str(out)]) == 130
    err = capsys.readouterr().err
    assert "stopped at step 2 of 6, saved in" in err and "--resume" in err and not out.exists()
    assert main([*line, "--output", str(out)]) == 2 and "add --resume" in capsys.readouterr().err
    assert main([*line, "--output", str(out), "--lr", "0.1", "--resume"]) == 2
    assert "other recipe" in capsys.readouterr().err
    assert main([*line, "--output", str(out), "--resume"]) == 0 and len(steps) == 6
    first, second = (load_pretrained(str(file)).state_dict() for file in (whole, out))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "--output"),
        ("--output x.pt --data-path {folder}", "call it x.safetensors"),
        ("--output x.safetensors", "say on which images to train: --data-path DIR"),
        ("--output x.safetensors --data-path {folder}/nothing", "nothing"),
        ("--output x.safetensors --data-path {folder} --at 4", "choose a block from 0 to 3"),
        ("--output x.safetensors --data-path {folder} --at 2 --leave 2", "leave has to be from 3 to 4"),
        ("--output x.safetensors --data-path {folder} --steps 0", "--steps: give a whole number, 1 or more"),
        ("--output x.safetensors --data-path {folder} --steps 3 --epochs 1", "give one of them"),
        ("--output x.safetensors --data-path {folder} --lr 0", "lr is above 0"),
        ("--output x.safetensors --data-path {folder} --epochs 0", "--epochs is a number above 0"),
        ("--output x.safetensors --data-path {folder} --epochs nan", "--epochs is a number above 0"),
        ("--output x.safetensors --data-path {folder} --epochs 0.1", "steps is 1 or more"),
        ("--output x.safetensors --data-path {folder} --batch-size 9", "fewer than the 9 of a step"),
        ("--output x.safetensors --data-path {folder} --resume", "no training to go on with"),
        ("--output x.safetensors --data-path {folder} --registers 3", "registers has no flag --registers"),
    ],
)
def test_bad_input_is_one_line(given, tmp_path, monkeypatch, capsys, more, said):
    _, path, folder = given
    monkeypatch.chdir(tmp_path)
    assert main(["registers", "add", path, *more.format(folder=folder).split()]) == 2
    out, err = capsys.readouterr()
    assert said in err and len(err.splitlines()) == 1 and err.startswith("dtl: ")
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize("way", ["add", "test-time"])
def test_one_corrupt_file_among_many_is_read_around_and_said(given, tmp_path, capsys, way):
    model, path, folder = given
    with open(f"{folder}/5_.png", "wb") as file:
        file.write(open(f"{folder}/5.png", "rb").read()[:80])
    line = ["registers", way, path, "--data-path", folder, "--output", str(tmp_path / "out.safetensors")]
    line += ["--steps", "5", "--batch-size", "4", "--quiet"] if way == "add" else []
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "8 of 128 patches are outliers" in said and said.endswith("5_.png; others stood in\n")
    assert load_pretrained(str(tmp_path / "out.safetensors")).plan.group("reg" if way == "add" else "test")
    for number in range(8):
        with open(f"{folder}/{number}.png", "wb") as file:
            file.write(b"no image")
    assert main([*line, "--force"]) == 2 and "cannot be read, more than the 0.1%" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["model.safetensors/out.safetensors", "folder.safetensors"])
def test_an_output_that_cannot_be_is_said_before_any_work(given, tmp_path, capsys, where, monkeypatch):
    _, path, folder = given
    (tmp_path / "folder.safetensors").mkdir()
    monkeypatch.setattr("dtl_lib.pretrained.load_pretrained", None)
    line = ["registers", "test-time", path, "--images", folder, "--output", str(tmp_path / where), "--force"]
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert not out and "a checkpoint cannot be written to" in err and len(err.splitlines()) == 1


def test_what_test_time_has_no_use_for_and_a_clean_model(given, tmp_path, capsys):
    _, path, folder = given
    line = ["registers", "test-time", path, "--images", folder, "--output", str(tmp_path / "out.safetensors")]
    for flags, said in (
        (["--norms"], "--norms is about training"),
        (["--lr", "0.1"], "--lr is about training"),
        (["--at", "3"], "have to enter before block 2"),
    ):
        assert main([*line, *flags]) == 2 and said in capsys.readouterr().err
    assert main(["registers", "remove", path, "--output", "x.safetensors"]) == 2
    clean = ["registers", "test-time", "zoo/shapes_depth6", "--output", str(tmp_path / "out.safetensors")]
    assert main(clean) == 2
    assert "is an outlier after any block: there is nothing to clean" in capsys.readouterr().err
    left_out = probes.Outliers((None,) * 6, {4: None, 5: None}, {}, (16, 8, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "find_outliers", lambda tape: left_out)
        assert main(clean) == 2
    assert "counts as an outlier: some are long after block 4, but so are the patches" in capsys.readouterr().err
    assert main(line) == 0 and main([*line, "--force"]) == 0
    capsys.readouterr()
    again = [*line[:2], line[-1], *line[3:-1], str(tmp_path / "twice.safetensors")]
    assert main(again) == 2
    assert "has test-time registers already" in capsys.readouterr().err
