"""What a stranger's checkpoint says about images runs nothing, fetches nothing, and is never a traceback."""

import io
import logging
import socket
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from PIL import Image

from dtl_lib import checkpoint, data
from dtl_lib.__main__ import main
from dtl_lib.cli.terminal import plain_output
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.progress import progress_bar
from dtl_lib.tokens import TokenPlan

TINY = "--image-size 16 --dim 16 --depth 1 --heads 2 --batch-size 16 --samples 40 --max-steps 1 --device cpu --quiet"
CONFIG = ViTConfig(image_size=16, patch_size=8, dim=16, depth=1, heads=2, classes=2, plan=TokenPlan.of(1))
DEEP: object = 1
for _ in range(500):
    DEEP = [DEEP]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


WAYS = ("evaluate --model_path", "train --eval --finetune", "train --resume", "train --eval --resume")


@pytest.fixture
def said_of(tmp_path, capsys, monkeypatch):
    """What a command says of a checkpoint whose card has this under `run`: a function."""
    monkeypatch.setenv("DTL_DATA", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)

    def said(run, *flags: str, way: str = WAYS[0]) -> str:
        if way == "train --resume":
            resumable(tmp_path / "run", run)
            line = ["train", "--resume", "run"]
        else:
            checkpoint.save_model(tmp_path / "best.safetensors", ViT(CONFIG), {"run": run})
            line = [*way.split(), "./best.safetensors"]
        capsys.readouterr()
        assert main([*line, "--device", "cpu", *flags]) == 2
        out, error = capsys.readouterr()
        assert error.startswith("dtl: ") and error.count("\n") == 1 and "accuracy" not in out
        return error

    return said


def resumable(folder: Path, run, recipe=None) -> None:
    assert main(["train", *TINY.split(), "--output-dir", str(folder)]) == 0
    tensors, card = checkpoint.read(folder / "state.safetensors")
    own = {key: value for key, value in card.items() if key not in ("seal", "digest")}
    path = folder / "state.safetensors"
    checkpoint.write(
        path, tensors, {**own, "run": run, "recipe": {**own["recipe"], **(recipe or {})}}, checkpoint.STATE
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("images", "says"),
    [
        ({"name": "wds/x", "path": "pipe:touch ran #"}, "its card names the data set 'wds/x'"),
        ({"name": "hfds/uoft-cs/cifar10"}, "give --data hfds/uoft-cs/cifar10 yourself"),
        ({"name": "folder", "path": "pipe:touch ran #"}, "does not exist; its card says that the images are there"),
        ({"name": "cifar10"}, "give --data cifar10 to download it"),
        ({"name": 7}, "its card does not say which images"),
    ],
    ids=str,
)
def test_whatever_reads_a_card_checks_it(said_of, tmp_path, way, images, says):
    assert says in said_of({"data": images}, way=way)
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize(
    "name",
    [
        "wds/x", "WDS/x", "hfds/uoft-cs/cifar10", "hfids/x", "tfds/mnist", "torch/mnist", "torch/image_folder",
        "hf_hub:timm/x", "https://example.org/x", "pipe:touch ran #", "", "nothing", "../folder",
    ],
)  # fmt: skip
def test_a_card_names_only_our_own_sources(said_of, tmp_path, name):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in (None, "pipe:touch ran #", str(folder)):
        error = said_of({"data": {"name": name, "path": path}})
        assert f"its card names the data set {name!r}" in error and f"give --data {name}" in error
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("name", ["folder", "wds", "imagenet", "cifar10"])
@pytest.mark.parametrize(
    "path", ["pipe:touch ran #", "http://localhost/x", "none", "~nosuchuser/x", "{a,b}", "x::y", "", "\0", "/dev/null"]
)
def test_a_card_s_path_is_a_folder_that_is_there(said_of, tmp_path, name, path):
    error = said_of({"data": {"name": name, "path": path}})
    assert "its card says that the images are there: give --data-path" in error
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize(
    "values",
    [
        {"name": 1}, {"name": None}, {"name": ["folder"]}, {"path": "x"}, {"name": "folder", "path": 1},
        {"name": "shapes", "level": "1"}, {"name": "shapes", "level": 10**400}, {"name": "shapes", "samples": 0.5},
        {"name": "shapes", "more": 1}, {"name": DEEP}, [1], "folder", 7, {"name": "x", "path": DEEP},
    ],
    ids=str,
)  # fmt: skip
def test_a_card_s_values_have_their_types(said_of, values):
    error = said_of({"data": values})
    assert "run.data" in error and "__init__" not in error and "argument" not in error


@pytest.mark.parametrize("run", [[1], "folder", 7, [{"data": 1}]], ids=str)
def test_run_itself_is_a_dictionary(said_of, run):
    assert "its card does not say which images (run.data" in said_of(run)
    assert "its card's run is no dictionary" in said_of(run, way="train --resume")


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "regnety_160.deit_in1k", "hf_hub:timm/vit_tiny_patch16_224"])
def test_a_saved_state_s_teacher_is_not_fetched(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setenv("DTL_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("dtl_lib.pretrained._cached", lambda _: None)
    resumable(tmp_path / "run", {"data": {"name": "shapes"}}, {"distill": "hard", "distill_from": name})
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert f"names the teacher {name}, which would be downloaded: " in capsys.readouterr().err


def test_a_user_may_name_what_a_card_may_not(said_of):
    card = {"data": {"name": "torch/nothing", "path": "elsewhere", "level": 1}}
    assert "torch/nothing is in elsewhere: if so, give --data-path" in said_of(card, "--data", "torch/nothing")
    error = said_of(card, "--data", "torch/nothing", "--data-path", "here")
    assert "timm cannot open torch/nothing in /" in error and "/here" in error


def test_the_folder_that_a_card_names_is_printed(tmp_path, capsys):
    for part in ("train", "val"):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (16, 16)).save(tmp_path / part / label / f"{number}.png")
    path = tmp_path / "best.safetensors"
    checkpoint.save_model(path, ViT(CONFIG), {"run": {"data": {"name": "folder", "path": str(tmp_path)}}})
    line = ["evaluate", "--model-path", str(path), "--device", "cpu", "--quiet", "--workers", "0"]
    assert main(line) == 0
    assert f"folder is read from {tmp_path}, the path on the model's card\n" in capsys.readouterr().out
    assert main([*line, "--data-path", str(tmp_path)]) == 0
    assert "the path on the model's card" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["wds/x", "wds/pipe:touch ran #", "wds/{0..9}.tar", "wds/"])
def test_no_opener_that_runs_a_path_is_reached(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (None, "pipe:touch ran #", "."):
        with pytest.raises(ValueError, match="shards in a folder are --data wds --data-path DIR"):
            data.load(name, path, samples=4)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("prefix", ["hfds", "hfids", "tfds", "torch"])
@pytest.mark.parametrize(
    "name", ["pipe:touch ran #", "https://example.org/x", "a|b", "{a,b}", "a::pipe:touch ran", "file:x", "hf://x"]
)
def test_a_reader_s_name_is_no_address(prefix, name):
    with pytest.raises(ValueError, match="holds an address, a command or a pattern"):
        data.load(f"{prefix}/{name}", samples=4)


@pytest.mark.parametrize(
    "path", ["pipe:touch ran #", "http://localhost/x", "s3://bucket/x", "~nosuchuser/x", "", "\0", 7]
)
@pytest.mark.parametrize("name", ["folder", "imagenet", "wds", "cifar10", "torch/image_folder"])
def test_a_user_s_path_is_one_of_this_machine(tmp_path, monkeypatch, name, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is an address|has no home folder here|is not a path"):
        data.load(name, path)
    assert not list(Path().iterdir())


STEERING = ["\x1b]0;mine\x07", "\x1b[2J", "\x9b2J", "a\rb", "a\bb", "\u202egnp.x", "\x7f", "\x1bP+q\x1b\\"]


@pytest.mark.parametrize("name", STEERING, ids=ascii)
def test_no_name_steers_a_terminal(tmp_path, capsys, monkeypatch, name):
    """Neither where it is printed, nor in an error, a log or a warning."""
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        for label in "ab":
            (tmp_path / name / part / label).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (16, 16)).save(tmp_path / name / part / label / f"{number}.png")
    checkpoint.save_model("best.safetensors", ViT(CONFIG), {"run": {"data": {"name": "folder", "path": f"./{name}"}}})
    line = ["evaluate", "--device", "cpu", "--quiet", "--workers", "0", "--model-path"]
    assert main([*line, "best.safetensors"]) == 0
    out, _ = capsys.readouterr()
    assert main([*line, f"{name}.safetensors"]) == 2
    _, error = capsys.readouterr()
    assert name not in out + error and "folder is read from" in out and "does not exist" in error
    assert not set(out + error) & set("\x1b\x07\x9b\r\b\u202e\x7f")
    assert any(mark in out for mark in (r"\x", r"\r", r"\u202e"))


def test_logs_are_plain_too(capsys, monkeypatch):
    def say(_):
        logging.lastResort.handle(logging.makeLogRecord({"msg": "\x1b[2J", "levelno": logging.WARNING}))

    monkeypatch.setattr("dtl_lib.cli.plan.main", say)
    assert main(["plan"]) == 0
    assert capsys.readouterr().err == "\\x1b[2J\n"


def test_a_progress_bar_may_steer_the_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    with redirect_stderr(terminal), plain_output():
        progress_bar(3, "steps", ncols=40).update(3)
        print("a\rb", file=sys.stderr)
    assert "\r" in terminal.getvalue() and "\\r" in terminal.getvalue()
