"""Run a grid: many small trainings beside each other, one record each; what is recorded is not run again."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .. import data, ledger
from ..ledger import Record
from .grid import Cell, Grid
from .one import train_cell

Job = tuple[Cell, int]
LOOK = 0.5  # seconds between two looks at what the runs have done


class Interrupted(ValueError):
    """Ctrl-C: what is recorded stays; the runs in flight are lost."""


def read(grid: Grid, folder: str | Path | None = None) -> dict[Job, Record]:
    """The grid's records in a folder (the ledger's own where None), by cell and seed.

    Raises:
        ValueError: where one of them is of another recipe or model than the grid's.
    """
    path = Path(folder or ledger.FOLDER) / f"{grid.experiment}.jsonl"
    records = ledger.read(grid.experiment, folder) if path.is_file() else []
    found = {}
    for record in records:
        cell = Cell.of(record.config)
        for what, theirs, ours in (
            ("recipe", record.recipe, replace(grid.recipe, seed=record.seed).to_dict()),
            ("model", record.config, cell.config(grid.config).to_dict()),
        ):
            if ledger.plain(theirs) != ledger.plain(ours):
                raise ValueError(
                    f"{path}: record {record.id} is of another {what} than this grid's: keep its runs in another folder"
                )
        found[cell, record.seed] = record
    return found


def missing(cells: Sequence[Cell], seeds: Sequence[int], done) -> list[Job]:
    """What has no record yet; every cell's first seed comes before any cell's second."""
    return [(cell, seed) for seed in seeds for cell in cells if (cell, seed) not in done]


def run(
    grid: Grid, jobs: Sequence[Job], folder: str | Path | None = None, *, command: str, workers: int = 1,
    weights: str | Path | None = None, device: str | None = None, progress: bool = True,
) -> Iterator[Record]:  # fmt: skip
    """Run the jobs and yield their records as they come, each appended to the folder's file first.

    Args:
        grid: what all share.
        jobs: (cell, seed), run in this order.
        folder: where the records go; the ledger's own where None.
        command: what to type for the same.
        workers: runs beside each other, each with its share of the cores.
        weights: where to keep every run's weights; None keeps none.
        device: as in `fit`.
        progress: whether to show a bar: runs left, and when the last will end.

    Raises:
        Interrupted: after Ctrl-C.
    """
    if not jobs:
        return
    spawn = multiprocessing.get_context("spawn")
    steps, threads = spawn.Value("l", 0), max(1, (os.cpu_count() or 1) // workers)
    total = len(jobs) * grid.recipe.steps(len(data.load(grid.data).train))
    pool = ProcessPoolExecutor(workers, spawn, initializer=_start, initargs=(steps, threads, grid.data))
    pending = {pool.submit(_work, grid, cell, seed, weights, device): (cell, seed) for cell, seed in jobs}
    bar = tqdm(total=total, unit="step", unit_scale=True, disable=not progress, dynamic_ncols=True)
    try:
        while pending:
            bar.set_description(f"{len(pending)} of {len(jobs)} runs left", refresh=False)
            bar.update(steps.value - bar.n)
            done, _ = wait(pending, timeout=LOOK, return_when=FIRST_COMPLETED)
            for future in done:
                cell, seed = pending.pop(future)
                yield _recorded(grid, cell, seed, future, folder, command, device)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped with {len(pending)} runs left; the same command goes on") from None
    finally:
        bar.close()
        for process in list((pool._processes or {}).values()) if pending else ():
            process.terminate()  # a run in flight would hold the exit for minutes
        pool.shutdown(cancel_futures=True)


def _recorded(grid: Grid, cell: Cell, seed: int, future: Future, folder, command: str, device) -> Record:
    values = future.result()
    recipe, config = replace(grid.recipe, seed=seed), cell.config(grid.config)
    about = {"n": values.pop("n"), "seed": seed, "config": config.to_dict(), "recipe": recipe.to_dict()}
    ledger.add(grid.experiment, str(cell), command, device or "cpu", values, **about, folder=folder)
    return ledger.read(grid.experiment, folder)[-1]


_SHARED: dict = {}  # of a worker process: the counter, and the data, loaded once


def _start(steps, threads: int, name: str) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(threads)
    _SHARED.update(steps=steps, name=name)


def _work(grid: Grid, cell: Cell, seed: int, weights, device) -> dict:
    if "sets" not in _SHARED:
        _SHARED["sets"] = data.load(_SHARED["name"])

    def count() -> None:
        with _SHARED["steps"].get_lock():
            _SHARED["steps"].value += 1

    return train_cell(grid, cell, seed, _SHARED["sets"], weights, device, count)[1]
