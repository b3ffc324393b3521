"""Wrong input on the command line: one line that says what is wrong and what would be right, and exit status 2."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dtl_lib import checkpoint
from dtl_lib.__main__ import main
from dtl_lib.checkpoint import save_model
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.train import Stopped
from dtl_lib.train.distributed.errors import PeerLost, RankError, SilentExit

ROOT = Path(__file__).parents[2]
TINY = "--image-size 16 --dim 16 --depth 2 --heads 2 --max-steps 2 --batch-size 16 --samples 64 --device cpu --quiet"


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Runs a command that has to be refused, and gives the one line it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DTL_DATA", str(tmp_path / "data"))

    def run(arguments):
        assert main(arguments.split() if isinstance(arguments, str) else arguments) == 2
        out, err = capsys.readouterr()
        assert err.startswith("dtl: ") and len(err.splitlines()) == 1, err
        assert "Traceback" not in err and "usage:" not in err + out
        return err.strip()

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "COMMAND"),
        ("trian", "no command 'trian' (choose from plan, train"),
        ("train --lerning-rate 3", "train has no flag --lerning-rate; did you mean --lr?"),
        ("train --learning_rate=3", "train has no flag --learning-rate=3; did you mean --lr?"),
        ("plan --num_registers 4", "did you mean --num-reg"),
        ("plan --learning-rate 3", "plan has no flag --learning-rate; see dtl plan --help"),
        ("train --batchsize 3", "did you mean --batch-size"),
        ("train --batch 3", "--batch-size"),
        ("train 3", "unexpected argument '3'; see dtl train --help"),
        ("train --lr", "--lr: expected one argument"),
        ("train --lr fast", "--lr: give a number, not 'fast'"),
        ("train --epochs 1.x", "--epochs: give a number or none, not '1.x'"),
        ("train --batch-size 1.5", "--batch-size: give a whole number, not '1.5'"),
        ("train --batch-size 0", "batch_size is 1 or more, not 0"),
        ("train --checkpoint-every 0", "--checkpoint-every: give a whole number, 1 or more, not '0'"),
        ("train --batch-size 70000", "more than the 50000 training images"),
        ("train --lr -1", "lr is above 0, not -1"),
        ("train --smoothing 2", "smoothing is from 0 to 1"),
        ("train --amp half", "amp is one of auto, off, bf16, fp16"),
        ("train --randaugment 9 --three-augment", "choose one"),
        ("train --model vit_tiny_patch16", "did you mean vit_tiny_patch16_224"),
        ("plan --model resnet50", "no configuration is called 'resnet50'; did you mean "),
        ("plan --cls_pos 13", "choose a block from 0 to 11"),
        ("plan --cls_pos -1", "0 or more, not -1"),
        ("plan --cls_pos last", "--cls-pos: give a whole number or none, not 'last'"),
        ("plan --reg_pos 3", "reg_pos=3 needs num_reg"),
        ("plan --num_reg 3", "num_reg=3 needs reg_pos"),
        ("plan --cls_pos none --dist", "needs a class token"),
        ("plan --heads 5", "dim has to be divisible by heads: 192 is not divisible by 5"),
        ("plan --image-size 100", "nearest that does is 96×96"),
        ("plan --image-size 1 2 3", "one number or two, not 3"),
        ("plan --pool mean", "pool is one of cls, patches"),
        ("train --data mnist", "no data set 'mnist'; there are shapes, cifar10"),
        ("train --level 4", "level is 4; shapes come in levels 1, 2, 3"),
        ("train --data imagenet --data-path nowhere", "nowhere is not a folder"),
        ("train --data-path somewhere", "say what somewhere holds: --data NAME, such as cifar10"),
        ("train --samples 0", "--samples: give a whole number, 1 or more"),
        ("train --device abacus", "no device 'abacus' here"),
        ("train --device meta", "no device 'meta' here"),
        ("train --dim 100000000 --heads 1", "dim is a whole number, at most 65,536"),
        ("train --resume", "say which run to resume: --resume DIR"),
        ("train --resume nowhere", "nowhere holds no state.safetensors to resume from"),
        ("train --resume a --output-dir b", "leave out --output-dir"),
        ("train --resume a --finetune b", "--resume continues with a run's own weights, --finetune starts from others"),
        ("train --epochs 1e308 --device cpu", "epochs is at most 1,000,000,000,000"),
        ("plan --layer-scale -1", "layer_scale is 0 or more, or none, not -1"),
        ("train --finetune nowhere.safetensors", "nowhere.safetensors does not exist"),
        ("train --finetune zoo/nothing", "the zoo has no 'zoo/nothing'"),
        ("probe", "say what to ask, and which model: dtl probe entry MODEL --data-path DIR"),
        ("probe entry", "say which model: dtl probe entry MODEL --data-path DIR"),
        ("probe lost", "say which model: dtl probe lost MODEL IMAGE|DIR"),
        ("probe filters", "say which model: dtl probe filters MODEL"),
        ("audit a.safetensors b.jpg --quiet", "unexpected argument 'b.jpg'; see dtl audit --help"),
        ("probe lost M a.jpg --wieghts F", "probe has no flag --wieghts; did you mean --weights?"),
        ("evaluate", "say which model: --model-path best.safetensors"),
        ("evaluate --model deit_tiny_patch16_224", "has random weights: add --pretrained"),
        ("evaluate --model nonsense --pretrained", "'nonsense' is no timm model"),
        ("evaluate --model-path nowhere.safetensors", "nowhere.safetensors does not exist"),
        ("evaluate --model-path a --model b", "give --model-path or --model, not both"),
        ("evaluate --model-path a --pretrained", "--pretrained means the published weights of --model"),
        ("predict a.jpg --model-path a --pretrained", "--pretrained means the published weights of --model"),
        ("evaluate --model zoo/shapes_depth6 --data folder --level 2", "--level is how difficult shapes are"),
        ("train --level 2 --data cifar10", "--level is how difficult shapes are, and the images are cifar10"),
        ("train --allow-partial", "--allow-partial is about the weights of --finetune"),
        ("train --allow-partial --resume a", "--allow-partial is about the weights of --finetune"),
        ("train --allow-partial --eval --resume a", "--allow-partial is about the weights of --finetune"),
        ("train --distillation-alpha 0.3", "--distill-weight does nothing without --distill-from"),
        ("train --distill-temperature 2", "--distill-temperature does nothing without --distill-from"),
        ("train --scale 0.5 --crop 0", "--scale does nothing without --crop"),
        ("evaluate --part all", "--part: invalid choice: 'all' (choose from test, held_out, train)"),
        ("evaluate --batch-size 0", "1 or more, not '0'"),
        ("train --eval", "--eval evaluates weights: give --resume DIR, or --finetune with a timm name"),
        ("train --eval --resume nowhere", "nowhere/best.safetensors does not exist"),
        ("train --eval --resume lr0.001", "lr0.001/best.safetensors does not exist"),
        ("train --eval --finetune zoo/x --depth 3 --cls_pos 1", "as they are: leave --cls-pos, --depth out"),
        ("train --optimizer sgd", "optimizer is one of adamw, lamb, not 'sgd'"),
        ("train --distill soft", "distill='soft' needs a teacher: give distill_from"),
        ("train --recipe nothing", "--recipe: invalid choice: 'nothing' (choose from shapes, cifar10"),
        ("plan --depth 99999999999999999999999", "depth is a whole number, at most 1,000"),
        ("plan --class-blocks 100000000", "class_blocks is a whole number, at most 1,000"),
        ("train --depth 100000", "depth is a whole number, at most 1,000"),
        ("plan --num-reg 99999999 --reg-pos 0", "reg: tokens is a whole number, at most 65,536"),
        ("plan --layer-scale 1e300", "layer_scale is at most 1,000,000,000,000"),
        ("train --distill-temperature 1e300", "distill_temperature is at most 1,000,000,000,000"),
        ("plan --mlp-ratio 1e308", "mlp_ratio is at most 1,000,000,000,000"),
        ("plan --image-size 999999999999999999999999999999", "image_size is"),
        ("train --max-steps 99999999999999999999999", "max_steps is at most 9,223,372,036,854,775,807"),
        ("bench --epochs inf", "epochs is a number, not inf"),
        ("bench --epochs nan", "epochs is a number, not nan"),
        ("bench --within nan", "a bandwidth, in bytes a second, is a number above 0, not nan"),
        ("bench --images 99999999999999999999999999999", "images is a whole number, at most"),
        ("bench --dim 65536 --heads 64 --depth 1000", "training a model of 51,540.6 G parameters takes"),
        ("train --dim 65536 --heads 64 --depth 100", "training a model of 5,154.1 G parameters takes"),
    ],
)
def test_one_line_says_what_would_be_right(refused, arguments, said):
    assert said in refused(arguments)


@pytest.mark.parametrize("folder", ["file", "file/deeper"])
def test_a_file_where_the_output_folder_should_be_is_said(refused, tmp_path, folder):
    (tmp_path / "file").write_text("mine")
    assert "file is a file, not a folder" in refused(f"probe filters zoo/shapes_depth6 --output-dir {folder}")
    test_time = "registers test-time zoo/shapes_depth6 --output"
    assert "file is a file, not a folder" in refused(f"{test_time} {folder}/x.safetensors")
    assert (tmp_path / "file").read_text() == "mine" and os.listdir(tmp_path) == ["file"]


def test_weights_that_are_words_are_said_to_be_damaged_and_no_more(refused, tmp_path):
    (tmp_path / "junk.pth").write_text("junk\n")
    said = refused("probe filters vit_tiny_patch16_224 --weights junk.pth")
    assert said.endswith("junk.pth is neither safetensors nor a whole file of torch.save: fetch it again")


def test_weights_that_are_not_there_name_the_place_to_put_them(refused, monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("no network\nat all")

    monkeypatch.setattr("timm.create_model", offline)
    line = refused("evaluate --model deit_tiny_patch16_224 --pretrained --data shapes")
    assert f"put them at {tmp_path}/data/weights/deit_tiny_patch16_224" in line


def test_an_output_folder_that_cannot_be_made(refused, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(f"train {TINY} --output-dir {tmp_path}/file/run")
    assert "could not be written" in line and "state.safetensors" in line


def test_checkpoints_that_are_none(refused, tmp_path):
    model = ViT(ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=3))
    good = save_model(tmp_path / "good.safetensors", model)
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:3000])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with open(tmp_path / "old.pth", "wb") as file:
        pickle.dump({"weights": 1}, file)
    torch.save(model.state_dict(), tmp_path / "renamed.safetensors")
    assert "cut short" in refused("evaluate --model-path cut.safetensors")
    assert "is empty" in refused("evaluate --model-path empty.safetensors")
    assert "is a pickle" in refused("evaluate --model-path old.pth")
    assert "is a pickle" in refused("evaluate --model-path renamed.safetensors")
    assert "is a folder" in refused(f"evaluate --model-path {tmp_path}")
    assert "say which images: --data" in refused("evaluate --model-path good.safetensors")
    assert "the model has 3 classes" in refused("evaluate --model-path good.safetensors --data shapes")
    assert "no training state" in refused("train --resume good.safetensors")


def test_a_state_that_is_cut_short(refused, tmp_path):
    assert main(["train", *TINY.split(), "--output-dir", str(tmp_path / "run")]) == 0
    state = tmp_path / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    state.with_name("state.before.safetensors").unlink()
    assert "state.safetensors is no safetensors file, or cut short" in refused(f"train --resume {tmp_path}/run")


def test_a_data_folder_without_classes(refused, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").write_bytes(b"no image")
    assert "holds no classes" in refused(f"train --data folder --data-path {tmp_path}/pictures")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_no_image(refused, tmp_path, workers):
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            folder = tmp_path / "pictures" / part / label
            folder.mkdir(parents=True)
            for number in range(20):
                (folder / f"{number}.png").write_bytes(b"no image")
    line = refused(
        f"train {TINY} --data folder --data-path {tmp_path}/pictures --workers {workers}".replace("--samples 64", "")
    )
    assert ".png" in line and "image" in line


def test_the_exit_status_and_the_stream_of_a_real_process(tmp_path):
    command = [sys.executable, "-m", "dtl_lib", "plan", "--cls_pos", "99"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "dtl: cls enters at block 99, after the end: choose a block from 0 to 11, or class_blocks ≥ 1\n"
    )


@pytest.mark.parametrize("part", ["config", "recipe", "data", "progress", "scaler"])
def test_a_state_whose_card_has_been_changed(refused, tmp_path, part):
    assert main(["train", *TINY.split(), "--output-dir", str(tmp_path / "run")]) == 0
    path = tmp_path / "run" / "state.safetensors"
    tensors, card = checkpoint.read(path)
    checkpoint.write(path, tensors, {**card, part: None}, checkpoint.STATE)
    assert f"its card has no {part}" in refused(f"train --resume {tmp_path}/run")
    checkpoint.write(path, tensors, {**card, "progress": {"step": 1, "colour": 2}}, checkpoint.STATE)
    assert "its progress has colour, which is not known" in refused(f"train --resume {tmp_path}/run")


def test_a_card_that_is_nested_too_deeply(refused, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "deep.safetensors", metadata={"card": "[" * 100_000})
    assert "has no card that says which model it is" in refused("evaluate --model-path deep.safetensors --data shapes")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory: lower --batch-size"),
        (np.empty, "out of memory: lower --batch-size"),  # NumPy's own kind of MemoryError
        (torch.OutOfMemoryError("CUDA out of memory"), "out of GPU memory: lower --batch-size"),
        (RankError("process 1 of 2 on here: the tea is cold"), "process 1 of 2 on here: the tea is cold"),
    ],
)
def test_errors_are_told_apart_by_their_class(refused, monkeypatch, error, said):
    def fail(args):
        if error is np.empty:
            np.empty(1 << 55)
        raise error

    monkeypatch.setattr("dtl_lib.cli.plan.main", fail)
    assert said in refused("plan")


@pytest.mark.parametrize(
    "error", [KeyError("surprise"), RuntimeError("PeerLost"), type("SilentExit", (Exception,), {})()]
)
def test_a_bug_keeps_its_traceback_whatever_it_is_called(monkeypatch, error):
    def fail(args):
        raise error

    monkeypatch.setattr("dtl_lib.cli.plan.main", fail)
    with pytest.raises(type(error)):
        main(["plan"])


@pytest.mark.parametrize(("error", "printed"), [(PeerLost("process 1 is gone"), 1), (SilentExit("it has"), 0)])
def test_a_lost_process_is_one_line_and_who_ends_with_it_is_silent(monkeypatch, capsys, error, printed):
    def fail(args):
        raise error

    monkeypatch.setattr("dtl_lib.cli.plan.main", fail)
    assert main(["plan"]) == 1
    assert capsys.readouterr().err.count("dtl: process 1 is gone\n") == printed


def test_an_experiment_that_is_no_word_is_refused_before_the_work(refused):
    assert "give one word" in refused("train --record two-words")


def test_the_command_to_go_on_with_is_quoted():
    assert str(Stopped(1, 2, Path("run c"))).endswith("dtl train --resume 'run c'")
