"""Studies: runs of models and recipes that have names, several beside each other, a record as each of them ends.

    from .study import Run, Study, main

A run that has a record of this device is not repeated, so an interrupted command continues where it stopped.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from dtl_lib import ledger
from dtl_lib.atomic import lock
from dtl_lib.checks import first_line, whole
from dtl_lib.config import ViTConfig
from dtl_lib.host import device_name, find_device
from dtl_lib.train import Recipe

from .stacked import cannot_be_stacked

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
        measure_stacked: makes runs that differ in the seed alone as one (`stacked.fit_all`), where there is a GPU; the
            values of each. None makes them one by one there, too.
    """

    experiment: str
    command: str
    runs: tuple[Run, ...]
    measure: Callable[[Run, str], dict]
    first: int = 0
    measure_stacked: Callable[[Sequence[Run], str], list[dict]] | None = None

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
        """Make the runs that are left: `carry_out` of this study alone."""
        return carry_out([self], folder, jobs, device)

    def stacks(self, runs: Sequence[Run], device: str) -> list[list[Run]]:
        """Runs that are made as one: on a GPU those that differ in the seed alone, elsewhere each by itself."""
        if self.measure_stacked is None or torch.device(device).type != "cuda":
            return [[run] for run in runs]
        alike: dict[tuple, list[Run]] = {}
        for run in runs:
            alike.setdefault((run.what, run.config, replace(run.recipe, seed=0)), []).append(run)
        return [stack for runs in alike.values() for stack in _stackable(runs)]

    def measure_all(self, runs: Sequence[Run], device: str) -> list[dict]:
        """The values of the records of runs that are made as one."""
        return self.measure_stacked(runs, device) if len(runs) > 1 else [self.measure(runs[0], device)]


class RunsFailed(RuntimeError):
    """Some runs of a study have no record; the message says how many, and why the first."""


def _stackable(runs: list[Run]) -> list[list[Run]]:
    """Runs that differ in the seed alone as one stack, or each by itself where they cannot be stacked."""
    alone = cannot_be_stacked([run.config for run in runs], [run.recipe for run in runs])
    return [[run] for run in runs] if alone else [runs]


def carry_out(
    studies: Sequence[Study], folder: str | None = None, jobs: int = 1, device: str = "cpu"
) -> Iterator[ledger.Record]:
    """Make the runs that are left of studies; yields each record once it is in its file. No process outlives it.

    Args:
        studies: the most important first.
        folder: where the records go; the library's ledger where None.
        jobs: processes, each with its share of the cores.
        device: as in `fit`.

    Raises:
        ValueError: where the records cannot be written, or another process makes runs for them.
        RunsFailed: at the end, where runs have failed: how many, and why the first.
    """
    with ExitStack() as locks:
        heads, others = [], []
        for study in studies:
            ledger.check_writable(study.experiment, folder)
            path = ledger.path(study.experiment, folder)
            busy = f"another process makes runs for {path}: let it end, or choose another folder (--folder)"
            locks.enter_context(lock(path.with_name(f".{path.stem}.lock"), busy))
            left = study.left(folder, device)
            head = [run for run in study.runs[: study.first] if run in left]
            heads += [(study, [run]) for run in head]
            others += [(study, runs) for runs in study.stacks([run for run in left if run not in head], device)]
        for work in (heads, others):
            yield from _together(work, folder, jobs, device)


def _together(work: Sequence[tuple[Study, list[Run]]], folder, jobs: int, device: str) -> Iterator[ledger.Record]:
    if not work:
        return
    jobs = min(jobs, len(work))
    threads = max(1, torch.get_num_threads() // jobs)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, spawn, initializer=torch.set_num_threads, initargs=(threads,))
    failed = []
    try:
        waiting = {pool.submit(study.measure_all, runs, device): (study, runs) for study, runs in work}
        for ended in as_completed(waiting):
            study, runs = waiting[ended]
            if error := ended.exception():
                why = f"{type(error).__name__}: {first_line(error)}"
                failed += [f"{run.what}, seed {run.seed}: {why}" for run in runs]
                continue
            yield from _records(study, runs, ended, folder, device)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():  # a run in flight would hold the exit for minutes
            process.kill()
            process.join()
    if failed:
        total = sum(len(runs) for _, runs in work)
        raise RunsFailed(f"{len(failed)} of {total} runs failed: {failed[0]}")


def _records(study: Study, runs: Sequence[Run], ended: Future, folder, device: str) -> Iterator[ledger.Record]:
    for run, found in zip(runs, ended.result()):
        values = {**found, "stacked": len(runs)} if len(runs) > 1 else dict(found)
        about = {"config": run.config.to_dict(), "recipe": run.recipe.to_dict(), "folder": folder}
        n = values.pop("n")
        yield ledger.add(study.experiment, run.what, study.command, device, values, n=n, seed=run.seed, **about)


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
    except RunsFailed as error:  # the others have their records
        raise SystemExit(f"{parser.prog}: {first_line(error)}") from None
    return options.folder


def line(record: ledger.Record) -> str:
    """What a record says, in a few words."""
    return f"{record.get('accuracy'):.1%}" if "accuracy" in record.values else "recorded"
