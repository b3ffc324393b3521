"""README.md: its tables say what notebooks and ledger say, its example runs, its commands are spelled right."""

import re
import shlex

import pytest

from book.tools import readme
from book.tools.project import Project
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
