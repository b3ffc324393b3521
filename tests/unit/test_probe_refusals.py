"""`dtl probe QUESTION`: what cannot be read or asked is said in one line, and nothing is lost or overwritten."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from dtl_lib import checkpoint, probes, record
from dtl_lib.cli.main import main
from dtl_lib.cli.probe import QUESTIONS
from tests.unit.asked import CONFIG, IMAGES, ask, pictures, read, saved


@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path)


def test_what_cannot_be_read_is_left_out_and_said(tmp_path, folder, capsys):
    model, path = saved(tmp_path)
    (folder / "b.jpg").write_bytes(b"no image")
    (folder / "sub" / "c.png").write_bytes((folder / "a.png").read_bytes()[:300])
    out, left = tmp_path / "out", [f"rollout_{s}.{e}" for s in ("a", "sub_a", "sub_deep_d") for e in ("npz", "png")]
    for workers in ("0", "2"):
        flags = ["--output-dir", str(out), "--quiet", "--device", "cpu", "--batch-size", "1", "--force"]
        assert main(["probe", "rollout", path, str(folder), *flags, "--workers", workers]) == 2
        said = capsys.readouterr().err
        assert "2 images could not be read" in said and len(said.splitlines()) == 1
        assert "b.jpg" in said and "c.png" in said
        assert sorted(os.listdir(out)) == left
    with torch.no_grad(), record(model) as tape:
        model(read(model, folder, "sub/deep/d.png"))
    last = np.load(out / "rollout_sub_deep_d.npz")["map"]
    np.testing.assert_allclose(last, probes.rollout(tape)[0], rtol=1e-4)
    for question in ("distance", "outliers"):
        assert ask(question, path, folder, folder=tmp_path) == 2 and "2 images could not" in capsys.readouterr().err
        assert np.load(tmp_path / f"{question}_model.npz")["n"] == 3
    assert ask("distance", path, folder, "--force", "--max-corrupt", 0.5, folder=tmp_path) == 0
    assert "2 images could not be read" in capsys.readouterr().out
    assert ask("distance", path, folder, "--force", "--max-corrupt", 0.1, folder=tmp_path) == 2
    assert "more than the 10.0% that may be" in capsys.readouterr().err


@pytest.mark.parametrize("question", IMAGES)
def test_where_nothing_can_be_read_it_is_one_line(question, tmp_path, folder, capsys):
    _, path = saved(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    for name in ("x.png", "y.png"):
        (tmp_path / "bad" / name).write_bytes(b"no image")
    for words, said in (
        ([tmp_path / "empty"], "empty holds no images"),
        ([tmp_path / "bad"], "none of the 2 images of"),
        ([tmp_path / "bad" / "x.png"], "x.png is not an image that can be read"),
        ([folder / "notes.txt"], "notes.txt is not an image that can be read"),
        ([folder / "a.png", tmp_path / "nowhere.png"], "nowhere.png does not exist; name an image, or a folder"),
        ([folder, "--data", "shapes"], "name images, or give --data and --data-path, not both"),
    ):
        assert ask(question, path, *words, folder=tmp_path / "out") == 2
        out, err = capsys.readouterr()
        assert said in err and len(err.splitlines()) == 1 and not out
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_nothing_is_overwritten_without_force(tmp_path, folder, capsys):
    _, path = saved(tmp_path)
    (tmp_path / "rollout_sub_a.npz").write_text("mine")
    assert ask("rollout", path, folder, folder=tmp_path) == 2
    assert "rollout_sub_a.npz is there already: --force replaces it" in capsys.readouterr().err
    assert (tmp_path / "rollout_sub_a.npz").read_text() == "mine" and not (tmp_path / "rollout_a.png").exists()
    assert ask("rollout", path, folder, "--force", folder=tmp_path) == 0
    assert ask("rollout", path, folder, folder=tmp_path) == 2
    assert "and 9 more files are there already: --force replaces them" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert ask("positions", path, folder=tmp_path / "file") == 2 and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("question", [name for name in QUESTIONS if name != "entry"])
def test_damaged_weights_are_said_and_not_drawn(question, tmp_path, capsys):
    model, _ = saved(tmp_path)
    with torch.no_grad():
        model.patch_embed.project.weight[0, 0, 0, 0] = float("nan")
    path = str(checkpoint.save_model(tmp_path / "model.safetensors", model, {}))
    assert ask(question, path, folder=tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "patch_embed.project.weight of the model holds non-finite values" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rollout --original", "--original is a flag of dtl probe distance: leave it out"),
        ("distance --query cls", "--query is a flag of dtl probe rollout, gradient-rollout and relevance"),
        ("rollout --bias drop", "--bias is a flag of dtl probe pca and lost: leave it out"),
        ("lost --features o", "--features: invalid choice"),
        ("rollout --group reg", "--group is a flag of dtl probe entry"),
        ("flow --record places", "--record is a flag of dtl probe entry"),
        ("rollout --query reg", "name one of its tokens, such as reg:0"),
        ("rollout --query reg:7", "reg has tokens 0 … 1, not 7"),
        ("rollout --query patch:9,9", "there is no patch (9, 9)"),
        ("rollout --query late", "this plan has no late"),
        ("rollout --query reg:x", "--query: a query is cls, dist, patches (their mean), reg, reg:2 or patch:4,7"),
        ("rollout --part train", "--part is of a data set, and these are images by themselves: leave it out"),
        ("distance --level 2", "--level is of a data set, and these are images by themselves"),
        ("rollout --discard 1", "--discard: give a number from 0 to below 1, not '1'"),
        ("rollout --residual 1.5", "--residual: give a number from 0 to 1, not '1.5'"),
        ("relevance --class bird", "no class of the model is called 'bird'"),
        ("relevance --class 3", "the model has classes 0 … 2, not 3"),
        ("lens --class o", "is in the names of 2 classes: give the number (1 dog, 2 owl)"),
        ("filters", "filters reads the weights alone: name no images"),
        ("rollout --format jpg", "--format: invalid choice"),
        ("rollout --image-size 15", "does not divide into patches of 8"),
        ("rollout --samples 0", "--samples: give a whole number"),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path, folder, capsys):
    _, path = saved(tmp_path)
    question, *flags = words.split()
    assert ask(question, path, folder / "a.png", *flags, folder=tmp_path / "out") == 2
    out, err = capsys.readouterr()
    assert said in err and len(err.splitlines()) == 1 and not out
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


@pytest.mark.parametrize("words", ["filters --samples 5", "positions --part train", "filters --image-size 16 24"])
def test_what_asks_the_weights_alone_takes_no_flags_of_images(words, tmp_path, capsys):
    question, flag, *values = words.split()
    _, path = saved(tmp_path)
    assert ask(question, path, flag, *values, folder=tmp_path / "out") == 2
    assert f"{question} looks at no images: leave {flag} out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_classes(tmp_path, folder, capsys):
    model, path = saved(tmp_path, replace(CONFIG, classes=0), classes=None)
    for question, said in (("lens", "has no classes"), ("relevance", "this model has none: rollout needs no class")):
        assert ask(question, path, folder / "a.png", folder=tmp_path) == 2 and said in capsys.readouterr().err
    for question in ("rollout", "distance", "flow"):
        assert ask(question, path, folder / "a.png", folder=tmp_path) == 0
