"""What a command prints: names come from strangers' files and cards, and may hold sequences that steer a terminal."""

import _thread
import signal
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from threading import Event, Thread, main_thread

from ..checks import one_line, visible

AGAIN = 0.05  # seconds


class Visible:
    """A stream whose control characters are written as escapes.

    A carriage return at either end of what is written stays: the bar of a download, another library's, begins with one.

    Attributes:
        unfiltered: the stream itself, for progress bars.
    """

    def __init__(self, stream):
        self.unfiltered = stream

    def write(self, text: str) -> int:
        """As of any stream."""
        body = text.strip("\r")
        before, _, after = text.partition(body) if body else (text, "", "")
        self.unfiltered.write(before + visible(body) + after)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """As of any stream."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self.unfiltered, name)


@contextmanager
def plain_output() -> Iterator[None]:
    """Inside, nothing that is printed, logged or warned of reaches the terminal as a control sequence."""
    with redirect_stdout(Visible(sys.stdout)), redirect_stderr(Visible(sys.stderr)):
        yield


@contextmanager
def counted(written: Sized, total: int, folder) -> Iterator[None]:
    """Whoever stops a run over a folder is told how many images' files are there by then, each of them whole."""
    try:
        yield
    except KeyboardInterrupt as stop:
        said = f"stopped: {len(written)} of {total} images written to {one_line(str(folder))}"
        raise KeyboardInterrupt(said) from stop


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, no Ctrl-C is lost. Python drops one that comes while a weak reference's callback runs, or `__del__`, and
    prints a traceback; here it comes again a moment later."""
    before, ended = sys.unraisablehook, Event()

    def interrupt(returned: Event) -> None:
        returned.wait()
        if not ended.wait(AGAIN):
            _interrupt()

    def again(lost) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            return before(lost)
        returned = Event()
        Thread(target=interrupt, args=[returned], daemon=True).start()
        returned.set()  # what comes before the end of this function would be dropped too

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
        ended.set()


def _interrupt() -> None:
    """A Ctrl-C for the main thread, which wakes it where it waits."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main_thread().ident, signal.SIGINT)
    else:  # Windows: it arrives when the wait is over
        _thread.interrupt_main()
