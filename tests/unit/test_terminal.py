"""Progress bars of other libraries still return to the start of their line, and no name does."""

import io

from tqdm import tqdm

from dtl_lib.cli.terminal import Visible


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
