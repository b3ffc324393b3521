"""README.md: its tables say what notebooks and ledger say, its example runs, its commands are spelled right."""

import json
import re
import shlex

import pytest

from book.tools import readme
from book.tools.project import Project
from dtl_lib import ledger
from dtl_lib.__main__ import parser
from dtl_lib.cli.parser import hyphenated
from dtl_lib.config import named

PROJECT = Project()
TEXT = (PROJECT.root / "README.md").read_text("utf8")


def test_the_tables_are_in_step():
    assert readme.written(PROJECT, TEXT) == TEXT, "run: python -m book.tools.readme"


def test_a_table_that_has_drifted_is_seen():
    drifted = re.sub(r"\d\d\.\d % ±", "12.3 % ±", TEXT, count=1)
    assert drifted != TEXT and readme.written(PROJECT, drifted) == TEXT


def test_the_example_runs(monkeypatch):
    import dtl_lib
    from dtl_lib.models import ViT

    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.setattr(dtl_lib, "load_pretrained", lambda name: ViT.build(name).eval())
    names = {}
    exec(example, names)
    tape = names["tape"]
    assert tape.maps(5, of="cls").shape == (1, 3, 14, 14)
    assert tape.norms(11)["patches"].shape == (1, 14, 14)


LINES = [line for line in TEXT.replace("\\\n", " ").splitlines() if line.startswith(("dtl ", "torchrun "))]
COMMANDS = [line.partition("-m dtl_lib ")[2] or line.removeprefix("dtl ") for line in LINES]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_are_spelled_right(line):
    args = parser().parse_args(hyphenated(shlex.split(line)))
    if model := getattr(args, "model", None):
        named(model)


def test_there_are_commands_for_one_gpu_for_many_and_for_two_hosts():
    assert any("--nproc_per_node=8" in line for line in TEXT.splitlines())
    assert any("--nnodes=2" in line for line in TEXT.splitlines())


def test_what_a_gpu_has_shown_has_rows(tmp_path, monkeypatch):
    """Made-up records of a GPU beside the ledger's own of CPUs: each kind has its row, and the CPU's rows stay."""
    for path in ledger.FOLDER.glob("*.jsonl"):
        (tmp_path / path.name).write_text(
            "".join(one for one in path.open() if ledger.CPU in json.loads(one)["device"])
        )
    monkeypatch.setattr(ledger, "FOLDER", tmp_path)
    assert "no GPU was at hand" in readme.results()
    about = {
        "command": "python -m book.experiments.gpu --minutes 9", "date": "2026-01-31T12:00:00+00:00", "n": 20,
        "device": "NVIDIA H100 80GB HBM3", "library": "0.1.0", "torch": "2.14.1",
    }  # fmt: skip
    fast, long = (f"vit_cifar_{name}" for name in ("small_patch4_32 by cifar10_fast", "patch2_32 by cifar10_full"))
    long += ", shortened to 40 of its 300 epochs"
    made = [
        ("cifar10_gpu", fast, seed, {"accuracy": 0.9 + seed / 100, "held_out": 0.9, "seconds_to_90": 30.0 + seed})
        for seed in range(3)
    ]
    made += [("cifar10_gpu", long, 0, {"accuracy": 0.95, "held_out": 0.951})]
    made += [("step_speed", "vit_cifar_patch4_32, bf16, compiled: 512 images a step", None, {"speed": [3, 2.5, 3.5]})]
    how = "batches of 256, bf16, compiled"
    made += [
        (
            "gpu_steps",
            f"ours against timm: deit_small_patch16_224: training step, {how}",
            None,
            {"speed": [1.1, 1, 1.2]},
        )
    ]
    for experiment, what, seed, values in made:
        ledger.append({"experiment": experiment, "what": what, "seed": seed, "values": values, **about})
    rows = [line for line in readme.results().splitlines() if "H100" in line]
    assert len(rows) == 5 and "no GPU was at hand" not in readme.results()
    assert "91.0 % ± 2.5 | 3 seeds" in rows[0] and "31.0 s ± 2.5" in rows[1] and "95.0 % | 1 seed" in rows[2]
    assert "shortened to 40 of its 300 epochs" in rows[2] and "3.00 [2.50, 3.50]" in rows[3] and how in rows[4]
    assert readme.results().count("AMD EPYC") == TEXT.count("AMD EPYC")
    slow = {"experiment": "cifar10_gpu", "what": fast, "seed": 3, "values": {"accuracy": 0.8, "held_out": 0.81}}
    ledger.append({**slow, **about})
    assert "not reached by all" in next(line for line in readme.results().splitlines() if "seconds to 90" in line)
