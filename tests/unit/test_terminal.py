"""Progress bars of other libraries still return to the start of their line, and no name does; no Ctrl-C is lost."""

import io
import signal
import sys
import time
import weakref

import pytest
from tqdm import tqdm

from dtl_lib.cli.terminal import AGAIN, Visible, stoppable


def test_a_bar_returns_to_the_start_of_its_line_and_no_name_does():
    stream = io.StringIO()
    for _ in tqdm(range(3), file=Visible(stream), mininterval=0):
        pass
    assert stream.getvalue().count("\r") >= 3 and "3/3" in stream.getvalue() and "\\r" not in stream.getvalue()
    for text, written in {
        "\rone\rtwo\x1b[A\r": "\rone\\rtwo\\x1b[A\r", "\r\r": "\r\r", "": "", "a": "a", "x\r\ny": "x\\r\ny",
    }.items():  # fmt: skip
        stream = io.StringIO()
        Visible(stream).write(text)
        assert stream.getvalue() == written


class Kept:
    """What a weak reference can point to."""


def test_a_ctrl_c_that_python_drops_comes_again(monkeypatch, capsys):
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    with stoppable(), pytest.raises(KeyboardInterrupt):
        kept = Kept()
        reference = weakref.ref(kept, lambda _: signal.raise_signal(signal.SIGINT))
        begin = time.monotonic()
        del kept  # the callback runs here, and what it raises goes no further
        time.sleep(3)
    assert time.monotonic() - begin < 2, "who waits is woken"
    assert reference() is None and not dropped and not capsys.readouterr().err
    assert sys.unraisablehook == dropped.append


def test_a_ctrl_c_that_python_drops_at_the_end_does_not_come_after_it(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: None)
    with stoppable():
        kept = Kept()
        reference = weakref.ref(kept, lambda _: signal.raise_signal(signal.SIGINT))
        del kept
    time.sleep(5 * AGAIN)
    assert reference() is None


def test_another_error_that_python_drops_is_still_said(monkeypatch):
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    with stoppable():
        kept = Kept()
        reference = weakref.ref(kept, lambda _: 1 / 0)
        del kept
    assert reference() is None and [lost.exc_type for lost in dropped] == [ZeroDivisionError]
