"""The commands of chapter 10, at toy size: `shapes` for data, a small teacher, and two steps."""

import re
import shlex

import pytest

from book.tools.project import Project, read
from dtl_lib import checkpoint
from dtl_lib.__main__ import main
from dtl_lib.tokens import TokenPlan

TOY = "--data shapes --samples 64 --image-size 16 --patch-size 8 --batch-size 16 --max-steps 2 --quiet"
SMALL = "--dim 16 --depth 2 --heads 2"
ONE, BOTH = TokenPlan.of(2, cls_pos=2, class_blocks=2), TokenPlan.of(2, cls_pos=2, class_blocks=2, dist=True)
MADE = {
    "cait": (ONE, None), "cait-taught": (ONE, "hard"), "cait-dist": (BOTH, "hard"), "cait-dist-384": (BOTH, "hard"),
    "deit-late": (TokenPlan.of(2, 1, dist=True), "soft"),
}  # fmt: skip


def commands() -> dict[str, list[str]]:
    """The flags of each command in the chapter, by the folder it writes to."""
    (path,) = [path for path in Project().notebooks if path.name.startswith("10_")]
    blocks = re.findall(r"```bash\n(.*?)```", "\n".join(cell.source for cell in read(path).cells), re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in "".join(blocks).replace("\\\n", "").splitlines()]
    found = [line[line.index("train") :] for line in lines if line]
    return {flags[flags.index("--output-dir") + 1].removeprefix("runs/"): flags for flags in found}


def given(flags: list[str], *without: str) -> list[str]:
    """The flags without some of them and their values."""
    kept, skip = [], False
    for flag in flags:
        if flag.startswith("--"):
            skip = flag in without
        if not skip:
            kept.append(flag)
    return kept


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    assert main(["train", *TOY.split(), *SMALL.split(), "--output-dir", str(folder / "run")]) == 0
    return str(folder / "run" / "best.safetensors")


@pytest.mark.slow
def test_every_command_does_what_the_chapter_says(teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert list(commands()) == list(MADE)
    for name, flags in commands().items():
        toy = given(flags, "--data", "--data-path", "--compile", "--image-size", "--batch-size", "--epochs")
        toy = [teacher if flag == "regnety_160" else {"6": "1"}.get(flag, flag) for flag in toy]
        toy = [*toy, *TOY.split(), "--warmup-epochs", "0", *("" if "--finetune" in toy else SMALL).split()]
        assert main(toy) == 0, capsys.readouterr().err
        model = checkpoint.load_model(tmp_path / "runs" / name / "best.safetensors")
        plan, distill = MADE[name]
        assert model.plan == plan and model.card["recipe"]["distill"] == distill, name
        assert ("teacher" in model.card) == (distill is not None)
        assert model.config.talking_heads == name.startswith("cait")
