"""Ctrl-C that ends a run between two steps, never inside one."""

import shlex
import signal
import threading
from contextlib import contextmanager
from pathlib import Path


class Stopped(KeyboardInterrupt):
    """Training was asked to stop, and its state is saved in `folder` after `step` of `total` steps."""

    def __init__(self, step: int, total: int, folder: Path):
        quoted = shlex.quote(str(folder))
        super().__init__(f"stopped at step {step} of {total}, saved; go on with: dtl train --resume {quoted}")


class Asked:
    """Whether a signal to stop has come."""

    stop = False


@contextmanager
def between_steps(enabled: bool = True):
    """Inside, the first SIGINT or SIGTERM only sets `stop` on what is yielded; the second does what it always did."""
    asked = Asked()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number, frame):
        asked.stop = True
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        restore()
