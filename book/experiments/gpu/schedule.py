"""Tasks in order, as many as there is time for: what is recorded is left out, what fails does not stop the others."""

import gc
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dtl_lib.checks import first_line

LIMITS = {1: 130.0, 2: 150.0}  # seconds that a part may take in one call
RESERVE = 8.0  # seconds before the end at which a task is interrupted: the process has to leave, too
AGAIN = 5.0  # seconds after which it is interrupted again, where a library has swallowed it


class OutOfTime(BaseException):
    """The minutes are up. No `Exception`: nothing on the way may take it for a failure that it can handle."""


class NotNow(Exception):
    """A task has found out that it does not fit; it says why."""


@dataclass(frozen=True)
class Task:
    """One measurement, or a few that belong together.

    Attributes:
        part: its number.
        name: for the plan.
        seconds: gives how long it will take at most.
        done: whether its records are there.
        run: measures, and writes the records.
    """

    part: int
    name: str
    seconds: Callable[[], float]
    done: Callable[[], bool]
    run: Callable[[], None]


class Deadline:
    """When everything has to have ended.

    Args:
        seconds: from the start.
        start: by `time.monotonic`.
    """

    def __init__(self, seconds: float, start: float):
        self._end = start + seconds - min(RESERVE, seconds / 10)

    def left(self) -> float:
        """Seconds that tasks may still take; 0 or less when there are none."""
        return self._end - time.monotonic()

    @contextmanager
    def watched(self):
        """Inside, `OutOfTime` is raised when the time is up, wherever the program is."""
        if self.left() <= 0 or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_):
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, self.left(), AGAIN)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def run(tasks: Sequence[Task], deadline: Deadline) -> int:
    """Run the tasks that have no record and fit; returns how many have failed."""
    _print_plan(tasks, deadline)
    failed, spent = 0, Counter()
    for task in tasks:
        begun = time.monotonic()
        try:
            _attempt(task, min(deadline.left(), LIMITS.get(task.part, float("inf")) - spent[task.part]), deadline)
        except OutOfTime:
            _say(deadline, f"out of time; what it has not recorded is lost: {task.name}")
            break
        except NotNow as why:
            _say(deadline, f"left out, {why}: {task.name}")
        except Exception as error:  # whatever it is: the next task is worth as much
            failed += 1
            print(f"{task.name}: {type(error).__name__}: {first_line(error, 2)}", file=sys.stderr, flush=True)
        spent[task.part] += time.monotonic() - begun
    _say(deadline, f"the end: {sum(task.done() for task in tasks)} of {len(tasks)} tasks are recorded, {failed} failed")
    return failed


def _attempt(task: Task, left: float, deadline: Deadline) -> None:
    if task.done():
        return
    if (needed := task.seconds()) > left:
        raise NotNow(f"{needed:.0f} s do not fit into {max(0, left):.0f} s")
    _say(deadline, f"part {task.part}: {task.name}, about {needed:.0f} s")
    try:
        with deadline.watched():
            task.run()
    finally:
        _release()


def _print_plan(tasks: Sequence[Task], deadline: Deadline) -> None:
    for task in tasks:
        state = "recorded" if task.done() else f"about {task.seconds():.0f} s"
        print(f"  part {task.part}  {state:>12}  {task.name}")
    _say(deadline, "the plan; what does not fit waits for the next call")


def _say(deadline: Deadline, what: str) -> None:
    print(f"[{max(0, deadline.left()):4.0f} s left] {what}", flush=True)


def _release() -> None:
    """Let go of what a task has left on the GPU and in the compiler, which falls back to eager after a few models."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
