"""Worker processes that train cells in parallel; none outlives the process that started it.

Not `concurrent.futures`: its pool waits for runs in flight when it is shut down (it can kill its workers from Python
3.14 on), and where one worker dies it fails every job with the same BrokenProcessPool, without saying whose died.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker

import torch

from ...checks import first_line
from ...host import keep_memory
from .grid import Grid, Job
from .train_cell import train_cell

POLL = 0.5  # seconds between two updates of the progress
LEAVING = 5  # seconds that a worker without a run has to leave
SIGNALS = {signal.SIGINT, signal.SIGTERM}


class RunFailed(ValueError):
    """A run has failed or its process has died: which cell, which seed, and why."""


class Workers:
    """Worker processes, each with its share of the cores; a context that ends them.

    Args:
        count: processes.
        grid: what all runs share.
        weights: where to keep every run's weights; None keeps none.
        device: as in `fit`.
    """

    def __init__(self, count: int, grid: Grid, weights, device: str):
        threads = max(1, torch.get_num_threads() // count)
        self._workers = [_Worker(grid, weights, device, threads) for _ in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for worker in self._workers:
            worker.end()

    @property
    def steps(self) -> int:
        """Steps that the runs in flight have done."""
        return sum(worker.steps for worker in self._workers)

    def results(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, dict] | None]:
        """Start the jobs in this order; yields (job, values) as they end, and None at least every half second.

        Raises:
            RunFailed: where a run fails or its process dies.
        """
        waiting, busy = deque(jobs), []
        while waiting or busy:
            for worker in self._workers:
                if worker.job is None and waiting:
                    worker.begin(waiting.popleft())
            busy = [worker for worker in self._workers if worker.job]
            ready = connection.wait([worker.pipe for worker in busy], POLL)
            for worker in busy:
                if worker.pipe in ready:
                    yield worker.result()
            yield None
            busy = [worker for worker in busy if worker.job]


class _Worker:
    """One process, and the job it has."""

    def __init__(self, *shared):
        spawn = multiprocessing.get_context("spawn")
        self.job: Job | None = None
        self._step = spawn.RawValue("l", 0)  # without a lock: a process that is killed would keep it
        self.pipe, child_end = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(child_end, self._step, *shared))
        with _signals_blocked():
            self._process.start()
        child_end.close()  # then the pipe ends when the process does

    @property
    def steps(self) -> int:
        return self._step.value if self.job else 0

    def begin(self, job: Job) -> None:
        self.job, self._step.value = job, 0
        with suppress(BrokenPipeError):  # it has died already: `result` reports it
            self.pipe.send(job)

    def result(self) -> tuple[Job, dict]:
        (cell, seed), job = self.job, self.job
        try:
            values, error = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            values, error = None, self._death()
        if error:
            raise RunFailed(f"{cell}, seed {seed}: {error}")
        self.job = None
        return job, values

    def end(self) -> None:
        """Let it leave where it has nothing to do; else kill it: a run in flight would hold the exit for minutes."""
        self.pipe.close()
        if self.job is None:
            self._process.join(LEAVING)  # its semaphores go with it, of which Python would warn
        self._process.kill()
        self._process.join()

    def _death(self) -> str:
        self._process.join()
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return "its process was killed, as happens where memory runs out: lower --jobs"
        return f"its process ended with {f'signal {-code}' if code < 0 else f'status {code}'}"


@contextmanager
def _signals_blocked():
    """A process started inside never receives Ctrl-C or SIGTERM: its parent decides when it ends."""
    resource_tracker.ensure_running()  # started inside, it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe, step, grid: Grid, weights, device: str, threads: int) -> None:
    """The worker's loop: receives jobs through the pipe, sends back their values or an error."""
    threading.Thread(target=_exit_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_memory()
    sets = None

    def show_progress(number: int) -> None:
        step.value = number

    while True:
        try:
            cell, seed = pipe.recv()
        except EOFError:  # the parent has gone
            return
        try:
            sets = sets or grid.sets()
            pipe.send((train_cell(grid, cell, seed, sets, weights, device, show_progress)[1], None))
        except Exception as error:
            pipe.send((None, f"{type(error).__name__}: {first_line(error)}"))


def _exit_with(parent) -> None:
    parent.join()
    os._exit(1)
