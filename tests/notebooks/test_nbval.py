"""How `make test` runs the chapters: every cell runs, the tagged ones give what is stored, and none may hang."""

import os
import re
import subprocess
import sys

import nbformat
from nbformat import v4

from book.tools.lint import CHECKED, RAN
from book.tools.project import ROOT
from tests.notebooks.conftest import code

FLAGS = re.findall(r"--nbval\S+", (ROOT / "Makefile").read_text("utf8"))


def validate(tmp_path, *cells, flags=FLAGS):
    """Run a notebook as `make test` does; returns the exit status and the output."""
    path = tmp_path / "chapter.ipynb"
    nbformat.write(v4.new_notebook(cells=list(cells)), str(path))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags, str(path)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True)
    return done.returncode, done.stdout


def stored(source, text, *tags):
    """A cell with a stored output."""
    cell = code(source, *tags)
    cell.execution_count = RAN
    cell.outputs = [v4.new_output("stream", text=text)]
    return cell


def test_the_flags_are_the_ones_meant():
    assert FLAGS == ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]


def test_only_tagged_cells_are_compared(tmp_path):
    good = stored("print(4)", "4\n", CHECKED)
    status, output = validate(tmp_path, good, stored("print(5)", "not five\n"))
    assert status == 0, output


def test_a_tagged_cell_that_gives_something_else_fails(tmp_path):
    status, output = validate(tmp_path, stored("print(5)", "4\n", CHECKED))
    assert status == 1
    assert "mismatch" in output


def test_a_cell_that_raises_fails(tmp_path):
    status, output = validate(tmp_path, code("assert 1 + 1 == 3"))
    assert status == 1
    assert "AssertionError" in output


def test_a_cell_that_hangs_fails(tmp_path):
    flags = [flag.replace("600", "2") for flag in FLAGS]
    status, output = validate(tmp_path, code("import time\ntime.sleep(60)"), flags=flags)
    assert status == 1
    assert "timeout" in output.lower()
