"""The time of a run: how long it takes, and how long of that it trains."""

import time

import torch


class Clock:
    """Counts into a run's `Progress`.

    A GPU is still busy when a step returns, so it is waited for before anything else is timed. The first step, in which
    things are compiled and chosen, says nothing of the others and is left out of the rate.

    Args:
        run: the `Run`.
    """

    def __init__(self, run):
        self.run, self._mark, self._begun = run, None, False

    def start(self) -> None:
        """Now."""
        self._mark = time.perf_counter()

    def step(self) -> None:
        """One more step has been given to the device."""
        if self._begun:
            self._count(training=True)
            return
        self._begun = True
        self.run.progress.untimed += 1
        self._wait()
        self._count(training=False)

    def finish(self) -> None:
        """Wait until the device has made the steps it was given: that is training too."""
        self._wait()
        self._count(training=True)

    def rest(self) -> None:
        """What has come since was not training."""
        self._count(training=False)

    def images_per_s(self) -> float:
        """Training images a second over all processes, from the second step on."""
        now = self.run.progress
        steps, seconds = now.step - now.untimed, now.training_seconds
        if not steps:
            steps, seconds = now.step, now.seconds
        return steps * self.run.recipe.batch_size / seconds

    def _wait(self) -> None:
        if self.run.device.type == "cuda":
            torch.cuda.synchronize(self.run.device)

    def _count(self, training: bool) -> None:
        if self._mark is not None:  # else it has not started
            before, self._mark = self._mark, time.perf_counter()
            self.run.progress.seconds += self._mark - before
            self.run.progress.training_seconds += (self._mark - before) * training
