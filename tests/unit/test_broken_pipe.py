"""`dtl … | head -1`: whoever reads on no more is no error."""

import os
import subprocess
import sys

import pytest
from PIL import Image

LINES = {
    "plan": ["plan"],
    "zoo": ["zoo"],
    "a card": ["zoo", "zoo/shapes_depth6"],
    "help": ["train", "--help"],
    "predict": ["predict", *["cat.png"] * 2, "--model", "zoo/shapes_depth6", "--device", "cpu"],
    "atlas": ["atlas", "show"],
}


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
@pytest.mark.slow
def test_a_reader_that_leaves_ends_it_without_a_word(tmp_path, line, buffered):
    Image.new("RGB", (32, 32)).save(tmp_path / "cat.png")
    reading, writing = os.pipe()
    os.close(reading)  # before the first line is written
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "dtl_lib", *line]
    found = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True)
    os.close(writing)
    assert found.returncode in (141, 0) and not found.stderr, found  # argparse itself ends --help so, with 0


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
