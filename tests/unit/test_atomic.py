"""A file is written by one process at a time, and what another has made meanwhile is not replaced unasked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dtl_lib import atomic

ROOT = Path(__file__).parents[2]
WRITE = """
import sys; from pathlib import Path; from dtl_lib import atomic
def fill(file):
    file.write_text("theirs, in parts"); print("begun", flush=True); sys.stdin.readline()
atomic.replace(Path(sys.argv[1]), fill)
"""


@pytest.fixture
def other(tmp_path):
    """A process that is in the middle of writing `out`."""
    command = [sys.executable, "-c", WRITE, tmp_path / "out"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_and_takes_nothing_from_the_first(other, tmp_path):
    with pytest.raises(ValueError, match="another process is writing .*out: wait"):
        atomic.replace(tmp_path / "out", lambda file: file.write_text("mine"))
    other.communicate("\n")
    assert other.returncode == 0 and (tmp_path / "out").read_text() == "theirs, in parts"
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_killed_writer_has_left_is_in_nobodys_way(other, tmp_path):
    other.kill()
    other.wait()
    assert os.listdir(tmp_path) == [".out.part"]
    atomic.replace(tmp_path / "out", lambda file: file.write_text("mine"))
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_text() == "mine"


def test_a_file_that_has_come_meanwhile_is_kept_unless_it_may_be_replaced(tmp_path):
    def fill(file: Path) -> None:
        file.write_text("mine")
        (tmp_path / "out").write_text("another's")

    with pytest.raises(ValueError, match="out is there already, and was not when this began"):
        atomic.replace(tmp_path / "out", fill, force=False)
    assert (tmp_path / "out").read_text() == "another's" and os.listdir(tmp_path) == ["out"]
    atomic.replace(tmp_path / "out", fill)
    assert (tmp_path / "out").read_text() == "mine"
