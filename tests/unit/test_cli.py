"""The command line: its spellings, what it prints, and how fast it answers."""

import os
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from dtl_lib import data, ledger
from dtl_lib.__main__ import main, parser
from dtl_lib.checkpoint import load_model, read, save_model
from dtl_lib.cli.commands import COMMANDS
from dtl_lib.cli.parser import hyphenated
from dtl_lib.cli.shared_flags import CONFIG, PLAN, configured
from dtl_lib.config import ViTConfig, named
from dtl_lib.data.shapes import generator as shapes
from dtl_lib.models import ViT
from dtl_lib.tokens import Group, TokenPlan
from dtl_lib.train import Recipe, evaluate, recipes

ROOT = Path(__file__).parents[2]
SHORT = (
    "--data shapes --samples 64 --image-size 16 --dim 16 --depth 2 --heads 2 --batch-size 16 --max-steps 4 "
    "--device cpu --quiet"
).split()


@pytest.fixture
def trained(tmp_path, capsys):
    assert main(["train", *SHORT, "--output-dir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_tokens_that_leave_are_not_dropped_by_a_flag():
    leaving = TokenPlan(4, (Group("cls", 1), Group("reg", 4, enter=0, leave=2)))
    base = named("vit_shapes_patch8_32").with_plan(leaving)
    assert configured(base, Namespace(heads=2)).plan == leaving
    for changed in ({"num_reg": 2, "reg_pos": 1}, {"depth": 6}):
        with pytest.raises(ValueError, match="flags cannot express: leave out --.* in Python"):
            configured(base, Namespace(**changed))


def test_plan_prints_the_timeline_and_the_cost_beside_the_standard(capsys):
    assert main("plan --depth 12 --cls_pos 6 --reg_pos 3 --num_reg 4".split()) == 0
    out = capsys.readouterr().out
    plan = TokenPlan.of(12, 6, 3, 4)
    ours, usual = (named("vit_tiny_patch16_224").with_plan(p).cost() for p in (plan, TokenPlan.of(12)))
    assert out.startswith(str(plan))
    line = next(line for line in out.splitlines() if "multiply" in line)
    assert f"{ours.total / 1e6:,.2f}" in line and f"{usual.total / 1e6:,.2f}" in line
    assert f"{ours.total / usual.total:.4f}" in line


@pytest.mark.parametrize(
    ("arguments", "plan"),
    [
        ("--cls-pos 3", TokenPlan.of(12, 3)),
        ("--cls_pos=3", TokenPlan.of(12, 3)),
        ("--cls_pos none", TokenPlan.of(12, None)),
        ("--dist --cls-pos 2", TokenPlan.of(12, 2, dist=True)),
        ("--model deit_tiny_distilled_patch16_224 --no-dist", TokenPlan.of(12)),
        ("--model cait_xxs24_224 --depth 6", TokenPlan.of(6, 6, class_blocks=2)),
        ("--model vit_small_patch14_reg4_dinov2 --reg_pos 5", TokenPlan.of(12, 0, 5, 4)),
        ("--model vit_small_patch14_reg4_dinov2 --num_reg 0 --reg_pos none", TokenPlan.of(12)),
        ("--model vit_little_patch16_reg4_gap_256 --cls_pos 2", TokenPlan.of(14, 2, 0, 4)),
    ],
)
def test_a_plan_s_flags_change_the_model_s_own_plan(arguments, plan, capsys):
    assert main(["plan", *arguments.split()]) == 0
    assert capsys.readouterr().out.startswith(str(plan))


def test_underscores_in_flags_alone():
    assert hyphenated(["train", "--data_path", "a_b", "--cls_pos=none", "--x_y=a_b", "-x_y"]) == [
        "train", "--data-path", "a_b", "--cls-pos=none", "--x-y=a_b", "-x_y"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("probe pca M --weights F a.jpg b.jpg", {"model": "M", "weights": "F", "images": ["a.jpg", "b.jpg"]}),
        ("probe pca --weights F M a.jpg", {"question": "pca", "model": "M", "images": ["a.jpg"]}),
        ("probe pca M a.jpg --quiet b.jpg", {"images": ["a.jpg", "b.jpg"], "quiet": True}),
        ("probe pca M a.jpg --weights F -- -b.jpg", {"images": ["a.jpg", "-b.jpg"], "weights": "F"}),
        ("probe pca M", {"model": "M", "images": []}),
        ("registers test-time --output F M", {"way": "test-time", "model": "M", "output": "F"}),
        ("attention a.jpg --quiet b.jpg", {"images": ["a.jpg", "b.jpg"]}),
        ("predict a.jpg --model-path F b.jpg", {"images": ["a.jpg", "b.jpg"], "model_path": "F"}),
    ],
)
def test_flags_may_stand_among_the_words(line, expected):
    args = vars(parser(line.split()[0]).parse_args(line.split()))
    assert {name: args[name] for name in expected} == expected


def test_every_field_is_a_flag():
    known = parser().parse_args(["train"])
    assert not any(hasattr(known, field.name) for field in fields(Recipe))
    for name in [field.name for field in fields(Recipe)] + list(PLAN) + list(CONFIG):
        sub = next(action for action in parser()._actions if isinstance(action.choices, dict)).choices["train"]
        assert f"--{name.replace('_', '-')}" in sub._option_string_actions
    given = parser().parse_args("train --betas 0.8 0.9 --clip none --flip --epochs 2.5 --image-size 32 48".split())
    assert (given.betas, given.clip, given.flip, given.epochs, given.image_size) == (
        [0.8, 0.9],
        None,
        True,
        2.5,
        (32, 48),
    )


@pytest.mark.parametrize("arguments", [["plan", "--cls_pos", "3"], ["zoo"], ["train", "--lr", "fast"], ["--help"]])
def test_what_needs_no_torch_does_not_wait_for_it(arguments):
    code = f"""
        import sys
        from dtl_lib.__main__ import main
        try:
            main({arguments})
        except SystemExit:
            pass
        sys.exit(", ".join({{'torch', 'numpy', 'matplotlib', 'timm'}} & sys.modules.keys()) or 0)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout + done.stderr, done


def test_no_command_s_help_waits_for_torch():
    code = f"""
        import sys
        from dtl_lib.__main__ import main, parser
        for command in {[*COMMANDS]}:
            try:
                main([command, "--help"])
            except SystemExit as left:
                assert left.code == 0
            parser().parse_args([command, *(["run"] if command == "atlas" else [])])
            assert not {{"torch", "numpy", "matplotlib", "timm"}} & sys.modules.keys(), command
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS.values():
        assert " ".join(command.SUMMARY.split()) in " ".join(done.stdout.split())


def test_train_measures_saves_and_says_so(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["train", *SHORT, "--num_reg", "2", "--reg_pos", "1", "--seed", "5", "--output-dir", str(folder)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    model = load_model(folder / "best.safetensors")
    assert model.plan == TokenPlan.of(2, 0, 1, 2)
    test = model.card["test"]
    assert test["n"] == 10_000 and f"test accuracy {test['accuracy']:.1%} ± " in out and "(n = 10,000)" in out
    assert re.search(r"\d+ s, [\d,]+ images/s on .*CPU core", out)
    assert (
        f"saved in {folder}: best.json, best.safetensors, log.jsonl, state.before.safetensors, state.safetensors" in out
    )
    assert model.card["command"].startswith("dtl train --data shapes") and model.card["seed"] == 5
    assert Recipe.from_dict(model.card["recipe"]).lr == recipes()["shapes"].lr
    assert (model.config.mean, model.config.classes) == (shapes.MEAN, 10)


def test_evaluate_repeats_what_training_said(trained, capsys):
    test = read(trained / "best.safetensors")[1]["test"]
    assert main(["evaluate", "--model_path", str(trained / "best.safetensors"), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert f"shapes level 1 test: {test['accuracy']:.1%}" in out and "(n = 10,000)" in out and "images/s" in out
    assert main(["evaluate", "--model_path", str(trained / "best.safetensors"), "--part", "held_out"]) == 0
    assert "(n = 2,000)" in capsys.readouterr().out
    assert main(["evaluate", "--model", str(trained / "best.safetensors"), "--level", "3"]) == 0
    assert "shapes level 3 test" in capsys.readouterr().out


def test_the_seed_decides_the_first_weights(tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        torch.rand(3)
        assert main(["train", *SHORT, "--seed", seed, "--lr", "1e-12", "--output-dir", str(tmp_path / name)]) == 0
    a, b, c = (load_model(tmp_path / name / "best.safetensors").state_dict() for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["positions"], c["positions"])


def test_train_eval_is_evaluate(trained, capsys):
    accuracy = re.compile(r"shapes level 1 test: .*")
    assert main(["evaluate", "--model-path", str(trained / "best.safetensors"), "--quiet"]) == 0
    expected = accuracy.search(capsys.readouterr().out)[0]
    before = {path: path.read_bytes() for path in trained.iterdir()}
    for weights in (["--resume", str(trained)], ["--resume", "--output-dir", str(trained)],
                    ["--finetune", str(trained / "best.safetensors"), "--batch-size", "64"]):  # fmt: skip
        assert main(["train", "--eval", *weights, "--quiet"]) == 0
        out = capsys.readouterr().out
        assert accuracy.search(out)[0] == expected and "images/s" in out
    assert before == {path: path.read_bytes() for path in trained.iterdir()}  # nothing was trained or saved


def test_resume_takes_everything_from_the_state(trained, capsys):
    assert main(["train", "--resume", str(trained), "--quiet"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert main(["train", *SHORT, "--resume", "--output-dir", str(trained)]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", str(trained), "--cls_pos", "1", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert "plan was [cls×1@0] and is now [cls×1@1]" in err and len(err.splitlines()) == 1
    assert main(["train", *SHORT, "--output-dir", str(trained)]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_finetune_loads_what_is_shared_and_lists_the_rest(trained, tmp_path, capsys):
    source = load_model(trained / "best.safetensors")
    folder = tmp_path / "tuned"
    arguments = ["--finetune", str(trained / "best.safetensors"), "--num_reg", "2", "--reg_pos", "1", "--lr", "1e-12"]
    keep = [
        "--data",
        "shapes",
        "--samples",
        "64",
        "--batch-size",
        "16",
        "--max-steps",
        "1",
        "--quiet",
        "--device",
        "cpu",
    ]
    assert main(["train", *keep, *arguments, "--output-dir", str(folder)]) == 0
    assert "initialised: tokens.reg" in capsys.readouterr().out
    tuned = load_model(folder / "best.safetensors")
    assert tuned.plan == TokenPlan.of(2, 0, 1, 2)
    torch.testing.assert_close(tuned.blocks[1].mlp.expand.weight, source.blocks[1].mlp.expand.weight, atol=1e-9, rtol=0)
    larger = tmp_path / "larger"
    arguments = ["--finetune", str(trained / "best.safetensors"), "--image_size", "32", "--lr", "1e-12"]
    assert main(["train", *keep, *arguments, "--output-dir", str(larger)]) == 0
    assert "initialised" not in capsys.readouterr().out
    positions = load_model(larger / "best.safetensors").positions
    assert positions.shape == (4, 4, 16)
    torch.testing.assert_close(positions.mean((0, 1)), source.positions.mean((0, 1)), atol=0.01, rtol=0)


def test_a_run_and_an_evaluation_can_be_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "FOLDER", tmp_path / "ledger")
    folder = tmp_path / "run"
    assert main(["train", *SHORT, "--output-dir", str(folder), "--record", "tries", "--seed", "3"]) == 0
    assert main(["evaluate", "--model-path", str(folder / "best.safetensors"), "--record", "tries"]) == 0
    first, second = ledger.read("tries")
    assert first.seed == 3 and first.get("recipe.max_steps") == 4 and first.get("config.plan.depth") == 2
    assert first.command.startswith("dtl train --data shapes") and first.values["accuracy"] == second.values["accuracy"]
    assert first.n == second.n == 10_000


def test_torchrun_s_spelling_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["train", *SHORT, "--distributed", "--output_dir", str(tmp_path / "run")]) == 0


def test_evaluate_normalises_as_the_model_expects(tmp_path, capsys):
    """Weights made for other means see the images they know, whatever data set brings them."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=10, mean=(0.9,) * 3, std=(0.1,) * 3)).eval()
    images = data.load("shapes", image_size=16).test
    images.length = 50
    x = (images.raw(range(50)) / 255 - 0.9) / 0.1
    loss = torch.nn.functional.cross_entropy(model(x), images.labels(range(50))).item()
    assert evaluate(model, images).loss == pytest.approx(loss, rel=1e-5)
    assert images.mean == shapes.MEAN
    save_model(tmp_path / "x.safetensors", model)
    assert main(["evaluate", "--model-path", str(tmp_path / "x.safetensors"), "--data", "shapes"]) == 0


CIFAR = Path(os.environ.get("DTL_DATA", "nowhere")) / "cifar-10-batches-py"


@pytest.mark.skipif(not CIFAR.is_dir(), reason="CIFAR-10 is not here: set DTL_DATA to the folder that holds it")
def test_cifar_10_from_training_to_evaluation(tmp_path, capsys):
    small = "--dim 16 --depth 1 --heads 2 --patch-size 8 --max-steps 30 --batch-size 64 --lr 3e-3 --warmup-steps 5"
    run = tmp_path / "run"
    assert main(["train", "--data", "cifar10", *small.split(), "--quiet", "--output-dir", str(run)]) == 0
    out = capsys.readouterr().out
    test = load_model(run / "best.safetensors").card["test"]
    assert test["n"] == 10_000 and test["accuracy"] > 0.12
    assert f"test accuracy {test['accuracy']:.1%}" in out and "5,000 held-out images" in out
    assert main(["evaluate", "--data_path", str(CIFAR), "--model_path", str(run / "best.safetensors"), "--quiet"]) == 0
    assert f"cifar10 test: {test['accuracy']:.1%}" in capsys.readouterr().out
