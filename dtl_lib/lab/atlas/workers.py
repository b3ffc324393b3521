"""Processes that train cells beside each other; none outlives the one that started it."""

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

LOOK = 0.5  # seconds between two looks at what the runs have done
SIGNALS = {signal.SIGINT, signal.SIGTERM}


class RunFailed(ValueError):
    """A run has failed or its process has died: which cell, which seed, and why."""


class Workers:
    """As many processes as asked for, each with its share of the cores; a context that ends them.

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
            worker.kill()  # a run in flight would hold the exit for minutes

    @property
    def steps(self) -> int:
        """Steps that the runs in flight have done."""
        return sum(worker.steps for worker in self._workers)

    def results(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, dict] | None]:
        """Start the jobs in this order; yields (job, values) as they end, and None at least every half second.

        Raises:
            RunFailed: where one does not end as it should.
        """
        waiting, busy = deque(jobs), []
        while waiting or busy:
            for worker in self._workers:
                if worker.job is None and waiting:
                    worker.begin(waiting.popleft())
            busy = [worker for worker in self._workers if worker.job]
            ready = connection.wait([worker.pipe for worker in busy], LOOK)
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
        self.pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(theirs, self._step, *shared))
        with _deaf():
            self._process.start()
        theirs.close()  # then the pipe ends when the process does

    @property
    def steps(self) -> int:
        return self._step.value if self.job else 0

    def begin(self, job: Job) -> None:
        self.job, self._step.value = job, 0
        with suppress(BrokenPipeError):  # it has died already: `result` says so
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

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def _death(self) -> str:
        self._process.join()
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return "its process was killed, as happens where memory runs out: lower --jobs"
        return f"its process ended with {f'signal {-code}' if code < 0 else f'status {code}'}"


@contextmanager
def _deaf():
    """A process started inside hears neither Ctrl-C nor SIGTERM, from its first moment: its parent decides."""
    resource_tracker.ensure_running()  # or it is started inside too, and unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe, step, grid: Grid, weights, device: str, threads: int) -> None:
    """What a worker does: jobs from the pipe, their values or what went wrong back into it."""
    threading.Thread(target=_leave_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_memory()
    sets = None

    def count(number: int) -> None:
        step.value = number

    while True:
        try:
            cell, seed = pipe.recv()
        except EOFError:  # the parent has gone
            return
        try:
            sets = sets or grid.sets()
            pipe.send((train_cell(grid, cell, seed, sets, weights, device, count)[1], None))
        except Exception as error:
            pipe.send((None, f"{type(error).__name__}: {first_line(error)}"))


def _leave_with(parent) -> None:
    parent.join()
    os._exit(1)
