"""A signal that ends a run between two steps, never inside one."""

import os
import shlex
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from .errors import SilentExit

DUPLICATE_WINDOW = 1.0  # seconds: torchrun passes on a Ctrl-C that the terminal has sent to everyone already


class Stopped(KeyboardInterrupt):
    """Training was asked to stop, and its state is saved in `folder` after `step` of `total` steps.

    Attributes:
        status: what the command should exit with: 130 after Ctrl-C; 0 after SIGTERM, which is how a cluster asks, or
            where the terminal was closed.
    """

    def __init__(self, step: int, total: int, folder: Path, status: int = 130):
        quoted = shlex.quote(str(folder))
        super().__init__(f"stopped at step {step} of {total}, saved; go on with: dtl train --resume {quoted}")
        self.status = status

    def repeating(self, flags: str, processes: int) -> "Stopped":
        """Itself, which says too what the state does not hold: flags to give again, and what starts the processes."""
        launch = ", under the same torchrun or srun line" * (processes > 1)
        self.args = (f"{self}{flags and ' '}{flags}{launch}",)
        return self


class StopRequest:
    """Whether a signal has asked the run to stop, and which."""

    stop = False
    signal = signal.SIGTERM  # a process that got no signal stops with those that did, and has not failed

    @property
    def status(self) -> int:
        """The exit status that answers the signal."""
        return 130 if self.signal == signal.SIGINT else 0


@contextmanager
def between_steps(enabled: bool = True):
    """Inside, the first SIGINT, SIGTERM or SIGHUP only sets `stop` on the `StopRequest` yielded; a second one acts.

    A signal that is ignored stays ignored: nohup keeps a run going when the terminal closes, and a shell keeps Ctrl-C
    from what it started in the background.
    """
    request = StopRequest()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield request
        return
    stops = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: handler for number in stops if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    first = None

    def ask(number, frame):
        nonlocal first
        now = time.monotonic()
        if first is not None and now - first > DUPLICATE_WINDOW:
            restore()
            signal.raise_signal(number)
            return
        if first is None:
            first, request.stop, request.signal = now, True, number

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    except RuntimeError as error:
        if request.stop and "TORCHELASTIC_RUN_ID" in os.environ:
            raise SilentExit("torchrun ends every process, as one has failed") from error
        raise
    finally:
        restore()
