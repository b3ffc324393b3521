"""Run a grid: many short trainings, one record each; a run that has a record is not repeated."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ... import ledger
from ...atomic import lock
from ...checks import shortened
from ...hashing import DIGITS, plain
from ...host import find_device, machine_load
from ...ledger import Record
from ...paths import require_writable
from ...progress import progress_bar
from ...train.distributed.signals import between_steps
from ...train.recipe import Recipe
from .analysis import Level, best, means
from .grid import Cell, Grid, Job
from .workers import Workers

MENTIONED = 3  # fields that an error lists


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: records stay, the runs in flight are lost.

    Attributes:
        status: what the command should exit with, as `dtl train` does: 0 after SIGTERM, 130 after Ctrl-C.
    """

    def __init__(self, left: int, status: int = 130):
        super().__init__(f"stopped with {_runs(left)} left; the same command continues")
        self.status = status


def records_file(grid: Grid, folder: str | Path | None = None) -> Path:
    """Where a grid's records are; in the ledger's own folder where None."""
    return ledger.path(grid.experiment, folder)


def read(grid: Grid, folder: str | Path | None = None) -> dict[Job, Record]:
    """The grid's records in a folder (the ledger's own where None), by cell and seed.

    Raises:
        ValueError: where a record has another recipe or model than the grid, or a line is no record: which one.
    """
    path = records_file(grid, folder)
    records = {}
    for record in ledger.read(grid.experiment, folder, missing_ok=True):
        try:
            cell = Cell.from_config(record.config or {})
            config, recipe = cell.config(grid.config), replace(grid.recipe, seed=record.seed)
        except (ValueError, TypeError):  # no plan for this depth, or no seed
            cell, config, recipe = None, grid.config, grid.recipe
        older = record.recipe and {**Recipe().to_dict(), **record.recipe}  # a field newer than the record: its default
        for part, recorded, asked in (("model", record.config, config), ("recipe", older, recipe)):
            if cell is None or plain(recorded) != plain(asked.to_dict()):
                differ = _differences(recorded, asked.to_dict())
                raise ValueError(
                    f"{path}: record {record.id} has another {part} than this grid{differ}: keep its runs in another "
                    "folder"
                )
        records[cell, record.seed] = record
    return records


def _differences(recorded: Mapping | None, asked: Mapping) -> str:
    """The fields in which a record differs from what is asked for; not those that each cell or seed has its own of."""
    recorded, asked = plain(recorded or {}), plain(asked)
    names = [name for name in asked if recorded.get(name) != asked[name] and name not in ("plan", "pool", "seed")]
    told = [f"{name} {shortened(recorded.get(name))} instead of {shortened(asked[name])}" for name in names]
    more = [f"{len(told) - MENTIONED} more"] if len(told) > MENTIONED else []
    return f" ({', '.join(told[:MENTIONED] + more)})" if told else ""


def drop_partial_record(grid: Grid, folder: str | Path | None = None) -> str:
    """Remove a last line that was being written when the machine died; returns a note of what was removed, or ""."""
    return mend(records_file(grid, folder))


def mend(path: Path) -> str:
    """What `drop_partial_record` does to a file of records.

    Raises:
        ValueError: where another process makes runs for it: the line may be one that it is writing.
    """
    if not path.parent.is_dir():
        return ""
    with _exclusive(path):
        return _mend(path) if path.is_file() else ""


def _mend(path: Path) -> str:
    content = path.read_bytes()
    if said := half_record(path):
        with open(path, "r+b") as file:
            file.truncate(len(content) - len(_last_line(content)))
        return f"{said}, is removed; its run is repeated"
    if content and not content.endswith(b"\n"):
        path.write_bytes(content + b"\n")
    return ""


def half_record(path: Path) -> str:
    """Where a file ends in a line that was being written when the machine died: which, and how long; else ""."""
    content = path.read_bytes() if path.is_file() else b""
    last = _last_line(content)
    try:
        json.loads(last or "{}")
        return ""
    except ValueError:
        line = content.count(b"\n", 0, len(content) - 1) + 1
        return f"{path}, line {line}: half a record, {len(last):,} bytes"


def _last_line(content: bytes) -> bytes:
    return (content.splitlines(keepends=True) or [b""])[-1]


def missing(cells: Sequence[Cell], seeds: Sequence[int], done) -> list[Job]:
    """The runs without a record; every cell's first seed comes before any cell's second."""
    return [(cell, seed) for seed in seeds for cell in cells if (cell, seed) not in done]


def sweep(grid: Grid, done: Mapping[Job, Record]) -> list[Cell]:
    """The cells of the sweep over the number of registers, at the surface's best cell on held-out images; none before
    the surface is complete."""
    if not grid.sweep or missing(grid.cells(), grid.seeds, done):
        return []
    runs = {job: record for job, record in done.items() if job[1] in grid.seeds}
    place = best(Level(means(runs, "held_out", cells=grid.cells()), grid.seeds))
    return grid.sweep_cells(place) if place else []


def runs_left(grid: Grid, done: Mapping[Job, Record]) -> list[Job]:
    """The runs that can be made now: the surface's missing ones, and once it is complete the sweep's."""
    return missing(grid.cells(), grid.seeds, done) or missing(sweep(grid, done), grid.seeds, done)


def count_runs(grid: Grid, done: Mapping[Job, Record]) -> tuple[int, int]:
    """Runs left and runs in all, including those of a sweep whose cell is not known yet."""
    on_surface = {cell.num_reg for cell in grid.cells()}
    sweep_runs = len(grid.seeds) * len(set(grid.sweep) - on_surface)
    total = len(grid.cells()) * len(grid.seeds) + sweep_runs
    todo = missing(grid.cells(), grid.seeds, done)
    return (len(todo) + sweep_runs if todo else len(runs_left(grid, done))), total


def run(
    grid: Grid, folder: str | Path | None = None, *, command: str, jobs: int = 1, weights: str | Path | None = None,
    device: str | None = None, progress: bool = True,
) -> Iterator[Record]:  # fmt: skip
    """Make the runs without a record, the surface's first, then the sweep's; yields each record once it is in its file.

    Args:
        grid: which runs.
        folder: where the records go; the ledger's own where None.
        command: what to type for the same.
        jobs: runs at the same time, each with its share of the cores.
        weights: where to keep every run's weights; None keeps none.
        device: as in `fit`.
        progress: whether to show a bar: runs left, and when the last will end.

    Raises:
        ValueError: before any run begins, where the records, the data or the device do not fit.
        RunFailed: where a run fails or its process dies; records stay.
        Interrupted: after Ctrl-C or SIGTERM.
    """
    ledger.check_writable(grid.experiment, folder)
    if weights:
        require_writable(Path(weights) / ".writable", "weights")
    with _exclusive(records_file(grid, folder)):
        yield from _run(grid, folder, command, jobs, weights, device, progress)


def _run(grid: Grid, folder, command: str, jobs: int, weights, device, progress: bool) -> Iterator[Record]:
    done = read(grid, folder)
    todo, total = count_runs(grid, done)
    if not todo:
        return
    sets = grid.sets()
    device, images, data = str(find_device(device)), len(sets.train), _check_images(sets, done, grid, folder)
    grid.recipe.steps_per_epoch(images)  # a batch may be more than there is
    steps = grid.recipe.steps(images)
    bar = progress_bar(todo * steps, "step", shown=progress, smoothing=0)
    with between_steps() as stop_request, bar, Workers(min(jobs, todo), grid, weights, device) as workers:
        before = len(done)
        while ready := runs_left(grid, done):
            for result in workers.results(ready):
                if result:
                    job, values = result
                    done[job] = _recorded(grid, job, {**values, "data": data}, folder, command, device)
                    yield done[job]
                now_left = todo - len(done) + before
                bar.set_description(f"{now_left} of {_runs(total)} left", refresh=False)
                bar.update((len(done) - before) * steps + workers.steps - bar.n)
                if stop_request.stop and now_left:
                    raise Interrupted(now_left, stop_request.status)


def _check_images(sets, done: Mapping[Job, Record], grid: Grid, folder) -> list[int]:
    """The fingerprints of the three parts, as numbers; a ValueError where a record is of other images."""
    parts = [part for part in (sets.train, sets.held_out, sets.test) if len(part)]
    for record in done.values():
        recorded = record.values.get("data")  # an older record has none, and its command says where its images were
        for part, was in zip(parts, recorded or ()):
            if not part.has_fingerprint(f"{was:0{DIGITS}x}"):
                raise ValueError(
                    f"{records_file(grid, folder)}: record {record.id} is of other images than {part.name} has now "
                    f"(fingerprint {was:0{DIGITS}x} instead of {part.fingerprint()}): keep its runs in another folder"
                )
    return [int(part.fingerprint(), 16) for part in parts]


def _exclusive(path: Path):
    """Inside, no other process makes runs into the same records."""
    busy = f"another process makes runs for {path}: let it end, or choose another folder (--records)"
    return lock(path.with_name(f".{path.stem}.lock"), busy)


def _recorded(grid: Grid, job: Job, values: dict, folder, command: str, device: str) -> Record:
    cell, seed = job
    recipe, config = replace(grid.recipe, seed=seed), cell.config(grid.config)
    if load := machine_load():  # with other work beside it a run takes longer
        values = {**values, "load": list(load)}
    about = {"n": values.pop("n"), "seed": seed, "config": config.to_dict(), "recipe": recipe.to_dict()}
    return ledger.add(grid.experiment, str(cell), command, device, values, **about, folder=folder)


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"
