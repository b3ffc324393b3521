"""CONTRIBUTING's lists of files are enough: one of each kind is added to a copy, as the lists say, and works there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("dtl_lib", "book", "notebooks", "tests")
NAME = "novel"

PROBE = '''"""How long is the longest token?"""

from torch import Tensor

from ..tape import Tape


def longest(tape: Tape, block: int) -> Tensor:
    """The length of the longest token after a block, of each image: `(batch,)`."""
    return tape.tokens(block).float().norm(dim=-1).amax(dim=1)
'''
PROBE_TEST = """
import numpy as np

from dtl_lib import data, load_pretrained, probes, record
from dtl_lib.cli.main import main
from dtl_lib.data.splits import subset


def test_novel(tmp_path):
    model, test = load_pretrained("zoo/shapes_depth6"), data.load("shapes").test
    with record(model) as tape:
        model(test.batch(subset(len(test), 2))[0])
    longest = probes.longest(tape, 1)
    assert longest.tolist() == [tape.norms(1)["patches"][0].max(), tape.norms(1)["patches"][1].max()]
    flags = ["--samples", "2", "--output-dir", str(tmp_path), "--quiet", "--device", "cpu"]
    assert main(["probe", "novel", "zoo/shapes_depth6", *flags]) == 0
    found = np.load(tmp_path / "novel_shapes_depth6.npz")
    assert np.allclose(found["length"][1], longest.mean().item())
"""
PROBE_ROW = """    "novel": OverImages(
        "how long the longest token is",
        (),
        lambda tape, args: {("length", block): probes.longest(tape, block) for block in range(tape.plan.blocks)},
        "length",
    ),
"""
COMMAND = '''"""`dtl novel`: say a word."""

from argparse import Namespace

from .parser import Parser

SUMMARY = "Say a word a number of times."


def flags(parser: Parser) -> None:
    """How often."""
    parser.add_argument("--times", type=int, default=1, help="how often")


def main(args: Namespace) -> None:
    """Print it."""
    print("novel " * args.times)
'''
COMMAND_TEST = """
from dtl_lib.cli.main import main


def test_novel(capsys):
    main(["novel", "--times", "2"])
    assert capsys.readouterr().out.split() == ["novel", "novel"]
"""
FIGURE = '''"""A line."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .style import styled


@styled
def show_novel(values) -> Figure:
    """Values as a line."""
    figure, axis = plt.subplots()
    axis.plot(values)
    return figure
'''
MODEL_TEST = """
from dtl_lib import ViT


def test_novel():
    assert ViT.build("vit_novel_patch8_32").config.dim == 48
"""
SOURCE = '''"""Grey pictures."""

import torch

from ..images import InMemory, Sets


def load(samples: int | None = None) -> Sets:
    """Three parts of grey pictures, two classes."""
    return Sets(*(_part(name, count) for name, count in (("train", samples or 8), ("held out", 4), ("test", 4))))


def _part(name: str, count: int) -> InMemory:
    pixels = torch.full((count, 3, 32, 32), 128, dtype=torch.uint8)
    return InMemory(f"novel, {name}", ("dark", "bright"), (0.5,) * 3, (0.25,) * 3, pixels, torch.arange(count) % 2)
'''
SOURCE_TEST = """
from dtl_lib import data
from dtl_lib.cli.main import main


def test_novel(tmp_path):
    sets = data.load("novel", samples=16)
    assert len(sets.train) == 16 and sets.test.batch([0, 1])[0].shape == (2, 3, 32, 32)
    short = "--data novel --batch-size 8 --max-steps 1 --samples 16".split()
    assert main(["train", *short, "--output-dir", str(tmp_path)]) == 0
"""
RECIPE_TEST = """
from dtl_lib.train import recipes


def test_novel():
    assert recipes()["novel"].max_steps == 3
"""
EXPERIMENT = '''"""One and one."""

from dtl_lib import ledger


def main() -> None:
    """Measure it, and record it."""
    ledger.add("novel", "one and one", "python -m book.experiments.novel", "cpu", {"sum": 2}, n=1, seed=None)


if __name__ == "__main__":
    main()
'''
EXPERIMENT_TEST = """
from book.experiments import novel
from book.tools import records
from dtl_lib import ledger


def test_novel():
    novel.main()
    assert [record.get("sum") for record in ledger.read("novel")] == [2]
    assert "one and one" in records.tables(ledger.FOLDER.parents[1])
"""


NOVEL_RECIPE = '        "novel": Recipe(max_steps=3),\n'


def new(text: str):
    """A file that is not there yet."""

    def write(path: Path) -> None:
        assert not path.exists()
        path.write_text(text, encoding="utf-8")

    return write


def row(*pairs: tuple[str, str]):
    """What is put right after the first place of a text, in a file that is there."""

    def insert(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        for place, more in pairs:
            assert place in text, f"{path} has no {place!r}"
            text = text.replace(place, place + more, 1)
        path.write_text(text, encoding="utf-8")

    return insert


ADDED = {
    "a probe": {
        "dtl_lib/probes/NAME.py": new(PROBE),
        "tests/unit/test_probes_NAME.py": new(PROBE_TEST),
        "dtl_lib/probes/__init__.pyi": row(
            ("from . import objects as objects\n", "from .novel import longest as longest\n")
        ),
        "dtl_lib/cli/probe.py": row(("QUESTIONS: dict[str, Question] = {\n", PROBE_ROW)),
        "book/api/probes.md": row(
            (".. automodule:: dtl_lib.probes.norms\n", "\n.. automodule:: dtl_lib.probes.novel\n")
        ),
    },
    "a command": {
        "dtl_lib/cli/NAME.py": new(COMMAND),
        "tests/unit/test_NAME_command.py": new(COMMAND_TEST),
        "dtl_lib/cli/commands.py": row(("from . import (\n", "    novel,\n"), ("COMMANDS = {", '"novel": novel, ')),
    },
    "a figure": {
        "dtl_lib/figures/NAME.py": new(FIGURE),
        "dtl_lib/figures/__init__.py": row(
            ("__all__ = [\n", '    "show_novel",\n'),
            ("from .style import COLOURS, styled, token_colours\n", "from .novel import show_novel\n"),
        ),
        "tests/unit/test_figures.py": row(("DRAWN = {\n", '    "novel": lambda: figures.show_novel([1, 2]),\n')),
    },
    "a model": {
        "tests/unit/test_model_NAME.py": new(MODEL_TEST),
        "dtl_lib/architectures.py": row(
            ("    table = {}\n", '    table["vit_novel_patch8_32"] = ViTConfig(32, 8, dim=48, depth=2, heads=4)\n')
        ),
    },
    "a data source": {
        "dtl_lib/data/sources/NAME.py": new(SOURCE),
        "tests/unit/test_data_NAME.py": new(SOURCE_TEST),
        "dtl_lib/data/sources/__init__.py": row(
            ("SOURCES = {\n", '    "novel": Source("novel", "vit_shapes_patch8_32", "shapes", in_files=False),\n')
        ),
    },
    "a recipe": {
        "tests/unit/test_recipe_NAME.py": new(RECIPE_TEST),
        "dtl_lib/train/recipe.py": row(
            ('"shapes": Recipe(max_steps=1100, batch_size=32, lr=2e-3, warmup_steps=50),\n', NOVEL_RECIPE)
        ),
    },
    "an experiment": {
        "book/experiments/NAME.py": new(EXPERIMENT),
        "tests/unit/test_NAME.py": new(EXPERIMENT_TEST),
    },
}
WRITTEN = {"an experiment": {"dtl_lib/ledger/NAME.jsonl"}}  # by running it


def listed() -> dict[str, set[str]]:
    """CONTRIBUTING's table: what can be added, and the files that it names for each."""
    section = (ROOT / "CONTRIBUTING.md").read_text("utf8").partition("## Something new\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if re.match(r"\| an? ", line)]
    return {line.split("|")[1].strip(): set(re.findall(r"`([\w./]+/[\w./]+)`", line)) for line in lines}


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The repository with one of each kind added."""
    root = tmp_path_factory.mktemp("repository")
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, root)
    for files in ADDED.values():
        for path, write in files.items():
            write(root / path.replace("NAME", NAME))
    return root


def run(copy: Path, *command: str) -> str:
    """What a Python command prints there; it must succeed."""
    done = subprocess.run([sys.executable, *command], cwd=copy, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_lists_are_what_is_added():
    assert listed() == {kind: {*files} | WRITTEN.get(kind, set()) for kind, files in ADDED.items()}


@pytest.mark.slow
def test_one_of_each_passes_the_checks(copy):
    for command in (("check", "--fix"), ("format",)):  # make format, which goes on where a line is still too long
        subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", "."], cwd=copy, capture_output=True)
    run(copy, "-m", "ruff", "check", "--quiet", ".")
    run(copy, "-m", "book.tools.lint")
    assert "--times" in run(copy, "-m", "dtl_lib", "novel", "--help")
    added = [path.replace("NAME", NAME) for files in ADDED.values() for path in files if path.startswith("tests/")]
    holds = ["tests/unit/test_rooms.py", "tests/unit/test_front_door.py", "tests/notebooks/test_pages.py"]
    options = ["-k", "novel or stub or room or command_line", "-q", "-p", "no:cacheprovider"]
    summary = run(copy, "-m", "pytest", *added, *holds, *options)
    assert int(re.search(r"(\d+) passed", summary)[1]) > len(ADDED)


@pytest.mark.slow
def test_its_pages_name_it(copy):
    code = "from book.tools.command_line import reference; import dtl_lib; print(dtl_lib.__file__); print(reference())"
    page = run(copy, "-c", code)
    assert str(copy) in page and "`dtl novel`" in page and "how often" in page
    assert "dtl_lib.probes.novel" in (copy / "book" / "api" / "probes.md").read_text("utf8")
