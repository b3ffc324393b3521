"""The progress bar: redrawn on a terminal, a line a minute in a log."""

import io
import subprocess
import sys
import time

import pytest

from dtl_lib import progress
from dtl_lib.progress import progress_bar


class Terminal(io.StringIO):
    """Standard error on a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("leave", [True, False])
def test_short_work_leaves_nothing_in_a_log(capsys, leave):
    with progress_bar(1000, "img", leave=leave) as bar:
        for _ in range(1000):
            bar.update(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("leave", [True, False])
def test_a_log_holds_whole_lines(capsys, monkeypatch, leave):
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    with progress_bar(4000, "img", leave=leave) as bar:
        bar.update(1000)
        with progress_bar(10, "img", leave=False) as inner:
            inner.update(5)
        bar.update(0)
    text = capsys.readouterr().err
    assert "\r" not in text and "\x1b" not in text
    assert all(line.strip() for line in text.splitlines())
    shares = [line.split("%")[0].strip() for line in text.splitlines()]
    assert shares == ["0", "25", "0", "50", "25"] + ["25"] * leave
    assert "1.00k/4.00k" in text.splitlines()[1]


def test_a_log_gets_one_line_an_interval(monkeypatch):
    """Whatever the machine's load: at most as many as intervals have passed, and one at the end."""
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.05)
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    start = time.perf_counter()
    with progress_bar(10**9, "step") as bar:
        while log.getvalue().count("\n") < 3:
            bar.update(1)
    assert log.getvalue().count("\n") == 4 <= (time.perf_counter() - start) / 0.05 + 1


def test_the_interval_is_a_minute():
    bar = progress_bar(10, "step")
    assert (bar.mininterval, bar.maxinterval, bar.delay) == (60, 60, 60)
    bar.close()


def test_a_terminal_is_redrawn(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress_bar(4, "img") as bar:
        bar.update(2)
        bar.refresh()
    assert terminal.getvalue().count("\r") >= 2 and "50%" in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_bar_that_is_not_shown_writes_nothing(monkeypatch, stream):
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    monkeypatch.setattr(sys, "stderr", stream())
    with progress_bar(4, "img", shown=False) as bar:
        bar.update(2)
    assert sys.stderr.getvalue() == ""


def test_a_notebook_keeps_its_widget(capsys, monkeypatch):
    """Its standard error is no terminal either."""
    seen = {}
    monkeypatch.setattr(progress, "tqdm", lambda **options: seen.update(options))
    progress_bar(4, "img")
    assert seen["total"] == 4 and "file" not in seen and "mininterval" not in seen


@pytest.mark.slow
def test_a_training_run_under_a_minute_writes_no_bar_to_a_pipe(tmp_path):
    model = ["--image-size", "16", "--patch-size", "8", "--dim", "8", "--depth", "1", "--heads", "1"]
    run = ["--data", "shapes", "--samples", "32", "--batch-size", "8", "--max-steps", "3", "--warmup-steps", "0"]
    command = [sys.executable, "-m", "dtl_lib", "train", *model, *run, "--output-dir", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "img" not in done.stderr
