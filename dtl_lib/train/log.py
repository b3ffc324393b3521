"""What a run logs: rows, the mean loss since the last one, and the time it takes."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..atomic import replace
from ..hashing import to_json
from .state import TrainState

NAME = "log.jsonl"


class Log:
    """Rows in memory, and where there is a folder in `log.jsonl` (and in TensorBoard's file when asked).

    Args:
        folder: of the run; None keeps rows in memory alone.
        about: plan, recipe, seed, library version, …: every row in the file carries them.
        step: rows of the file after this step belong to steps that a killed run has lost, and are dropped.
        tensorboard: whether curves are written as well.
    """

    def __init__(self, folder: Path | None, about: Mapping, step: int = 0, tensorboard: bool = False):
        self.about = dict(about)
        self.path = None if folder is None else folder / NAME
        self.rows = self._read_rows(step) if self.path else []
        self._curves = self._open_curves(folder, step) if tensorboard else None

    def write(self, row: Mapping) -> None:
        """Add one row; its numbers become curves. A ValueError where the file cannot be written."""
        self.rows.append(dict(row))
        if self.path:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(to_json({**row, **self.about}) + "\n")
            except OSError as error:
                raise ValueError(
                    f"{self.path} could not be written ({error.strerror}): make room, and go on with "
                    f"--resume {self.path.parent}"
                ) from None
        if self._curves:
            for name, value in row.items():
                for part, number in value.items() if isinstance(value, Mapping) else ((None, value),):
                    if isinstance(number, int | float):
                        self._curves.add_scalar(name if part is None else f"{name}/{part}", number, row["step"])

    def close(self) -> None:
        """Flush what TensorBoard holds back."""
        if self._curves:
            self._curves.close()

    def _read_rows(self, step: int) -> list[dict]:
        """The rows up to `step` that the file holds; the file is cut to them. A ValueError where it is damaged."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path} is damaged (byte {error.start} is no UTF-8): repair it, or move it away and go on without"
            ) from None
        kept = [(line, row) for line in lines if (row := _parse_row(line)) and row["step"] <= step and step]
        if lines:
            replace(self.path, lambda file: file.write_text("".join(f"{line}\n" for line, _ in kept), encoding="utf-8"))
        return [{name: value for name, value in row.items() if name not in self.about} for _, row in kept]

    @staticmethod
    def _open_curves(folder: Path | None, step: int):
        if folder is None:
            raise ValueError("tensorboard writes files: give an output_dir")
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=step or None)


def _parse_row(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # the line a killed process was writing, or no row of ours
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


@dataclass
class Losses:
    """Losses of the steps since the last row, on this process's images.

    Attributes:
        total: added up, on the device: asking for the number would wait for it.
        steps: how many.
    """

    total: float | Tensor = 0.0
    steps: int = 0

    @classmethod
    def of(cls, totals: Sequence[float], steps: int, processes) -> "Losses":
        """This process's own of those that were saved; where another number of processes saved them, their mean."""
        if len(totals) == processes.world_size:
            return cls(totals[processes.rank], steps)
        return cls(sum(totals) / max(1, len(totals)), steps)

    def add(self, loss: Tensor) -> None:
        """One more step's."""
        self.total, self.steps = self.total + loss, self.steps + 1

    def mean(self, processes) -> float | None:
        """Over the steps and the processes; None where every step was skipped."""
        total = float(processes.sum(torch.as_tensor(self.total)))
        return total / self.steps / processes.world_size if self.steps else None

    def gathered(self, processes) -> list[float]:
        """The total of every process, by rank."""
        return processes.gather(float(self.total))


class Clock:
    """Counts the seconds of a run, and how many of them it trains, into its `TrainState`.

    A GPU is still busy when a step returns, so it is waited for before anything else is timed. The first step, in which
    things are compiled and chosen, says nothing of the others and is left out of the rate.

    Args:
        train_state: what it counts into.
        device: of the model.
        batch_size: images in a step, over all processes.
    """

    def __init__(self, train_state: TrainState, device: torch.device, batch_size: int):
        self.train_state, self.device, self.batch_size = train_state, device, batch_size
        self._mark, self._first_done = None, False

    def start(self) -> None:
        """Now."""
        self._mark = time.perf_counter()

    def step(self) -> None:
        """One more step has been given to the device."""
        if self._first_done:
            self._count(training=True)
            return
        self._first_done = True
        self.train_state.untimed += 1
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
        """Training images a second over all processes, from the second step on; 0 where no time was counted."""
        state = self.train_state
        steps, seconds = state.step - state.untimed, state.training_seconds
        if not steps:
            steps, seconds = state.step, state.seconds
        return steps * self.batch_size / seconds if seconds else 0.0

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _count(self, training: bool) -> None:
        if self._mark is not None:  # else it has not started
            before, self._mark = self._mark, time.perf_counter()
            self.train_state.seconds += self._mark - before
            self.train_state.training_seconds += (self._mark - before) * training
