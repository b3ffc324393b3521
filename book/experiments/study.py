"""Studies: runs of models and recipes that have names, several beside each other, a record as each of them ends.

    from .study import Run, Study, main

A run that has a record of this device is not repeated, so an interrupted command continues where it stopped.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch

from dtl_lib import ledger
from dtl_lib.atomic import lock
from dtl_lib.checks import first_line, whole
from dtl_lib.config import ViTConfig
from dtl_lib.host import device_name, find_device
from dtl_lib.train import Recipe

SCALES = ("cpu", "gpu", "toy")


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        what: the name that its record has; runs that differ in the seed alone share it.
        seed: of the run.
        config, recipe: of its model and training, as its record keeps them.
    """

    what: str
    seed: int
    config: ViTConfig
    recipe: Recipe


@dataclass(frozen=True)
class Study:
    """The runs of one experiment, in the order to make them.

    Attributes:
        experiment: the ledger's file for its records.
        command: what to type for the same.
        runs: each what and seed once.
        measure: makes a run on a device, in a process of its own; the values of its record with `n`, the test images.
            A function of a module: it is found there by name.
        first: how many runs at the head have to end before any other begins, such as a teacher's.
    """

    experiment: str
    command: str
    runs: tuple[Run, ...]
    measure: Callable[[Run, str], dict]
    first: int = 0

    def left(self, folder: str | None, device: str) -> list[Run]:
        """The runs that have no record of this device."""
        name = device_name(device)
        done = {
            (record.what, record.seed)
            for record in ledger.read(self.experiment, folder, missing_ok=True)
            if record.device == name
        }
        return [run for run in self.runs if (run.what, run.seed) not in done]

    def carry_out(self, folder: str | None = None, jobs: int = 1, device: str = "cpu") -> Iterator[ledger.Record]:
        """Make the runs that are left; yields each record once it is in its file. When it ends, no process is left.

        Args:
            folder: where the records go; the library's ledger where None.
            jobs: processes, each with its share of the cores.
            device: as in `fit`.

        Raises:
            ValueError: where the records cannot be written, or another process makes runs for them.
            RuntimeError: at the end, where runs have failed: how many, and why the first.
        """
        ledger.check_writable(self.experiment, folder)
        path = ledger.path(self.experiment, folder)
        busy = f"another process makes runs for {path}: let it end, or choose another folder (--folder)"
        with lock(path.with_name(f".{path.stem}.lock"), busy):
            left = self.left(folder, device)
            head = [run for run in self.runs[: self.first] if run in left]
            for runs in (head, [run for run in left if run not in head]):
                yield from self._together(runs, folder, jobs, device)

    def _together(self, runs: Sequence[Run], folder: str | None, jobs: int, device: str) -> Iterator[ledger.Record]:
        if not runs:
            return
        jobs = min(jobs, len(runs))
        threads = max(1, torch.get_num_threads() // jobs)
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, spawn, initializer=torch.set_num_threads, initargs=(threads,))
        failed = []
        try:
            waiting = {pool.submit(self.measure, run, device): run for run in runs}
            for ended in as_completed(waiting):
                run = waiting[ended]
                if error := ended.exception():
                    failed.append(f"{run.what}, seed {run.seed}: {type(error).__name__}: {first_line(error)}")
                    continue
                values = dict(ended.result())
                about = {"config": run.config.to_dict(), "recipe": run.recipe.to_dict(), "folder": folder}
                n = values.pop("n")
                yield ledger.add(
                    self.experiment, run.what, self.command, device, values, n=n, seed=run.seed, **about
                )  # fmt: skip
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():  # a run in flight would hold the exit for minutes
                process.kill()
                process.join()
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(runs)} runs failed: {failed[0]}")


def main(made: Callable[[str], Study], arguments: Sequence[str] | None = None, about: str = "") -> str | None:
    """The command line of a study: a line for each run as it ends. Returns the folder of its records, as given.

    Args:
        made: gives the study at a scale.
        about: for the help; the first line of the module's docstring.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--scale", choices=SCALES, default="cpu", help="of models and data (default: cpu)")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other (default: 1)")
    parser.add_argument("--device", help="as in dtl train; the GPU where there is one")
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    options = parser.parse_args(arguments)
    try:
        jobs, device = whole("jobs", options.jobs, 1), str(find_device(options.device))
        for record in made(options.scale).carry_out(options.folder, jobs, device):
            print(f"{record.experiment}: {record.what}, seed {record.seed}: {line(record)}", flush=True)
    except ValueError as error:
        parser.error(first_line(error))
    return options.folder


def line(record: ledger.Record) -> str:
    """What a record says, in a few words."""
    return f"{record.get('accuracy'):.1%}" if "accuracy" in record.values else "recorded"
