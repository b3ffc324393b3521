"""Runs the notebooks whose outputs are not at hand, two at a time, into the cache that the book is rendered from."""

import json
import re
import shutil
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from book.tools.meter import IN_KERNEL, Cost, Meter
from book.tools.project import Project, read

CELL_LIMIT = 120  # seconds; far above any budget: it only ends what hangs
BUDGET, MEDIAN = 30.0, 15.0  # seconds, of one notebook and of the median notebook
COLOURS = re.compile(r"\x1b\[[\d;]*m")
NOISE = 1.5  # a busy machine also slows what waits for children or disks: the clock may show this many times the budget


class NotebookFailed(Exception):
    """A notebook that raised; the message holds the cell and its traceback."""


@dataclass(frozen=True)
class Run:
    """The run that made the outputs in the cache: the key it ran under, and what it took."""

    key: str
    cost: Cost


class Cache:
    """`_build/.jupyter_cache` (outputs, read when the book is rendered) and `_build/runs.json` (keys and costs)."""

    def __init__(self, project: Project):
        self.project = project
        self.outputs = get_cache(project.built / ".jupyter_cache")
        self._file = project.built / "runs.json"

    def runs(self) -> dict[str, Run]:
        """The recorded runs by notebook name."""
        try:
            rows = json.loads(self._file.read_text("utf8"))
            return {name: Run(row["key"], Cost(**row["cost"])) for name, row in rows.items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or written by another version
            return {}

    def executed(self, notebook: Path):
        """The notebook with the cached outputs, or None where they are missing or were made by other code."""
        run = self.runs().get(notebook.name)
        if run is None or run.key != self.project.key(notebook):
            return None
        try:
            return self.outputs.merge_match_into_notebook(read(notebook))[1]
        except KeyError:
            return None

    def store(self, notebook: Path, executed, run: Run) -> None:
        """Keep a run; pages rendered from older outputs are forgotten, since Sphinx would not notice."""
        bundle = CacheBundleIn(executed, str(notebook), data={"execution_seconds": run.cost.wall})
        self.outputs.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        rows = {name: asdict(old) for name, old in self.runs().items() if (notebook.parent / name).exists()}
        rows[notebook.name] = asdict(run)
        self._file.write_text(json.dumps(rows, indent=1), "utf8")
        shutil.rmtree(self.project.built / ".doctrees", ignore_errors=True)


def execute(notebook: Path) -> tuple[object, Cost]:
    """Run one notebook in a kernel of its own, with one thread, and measure it.

    Raises:
        NotebookFailed: with the cell and the traceback, where a cell raises or takes longer than `CELL_LIMIT`.
    """
    fresh = read(notebook)
    client = NotebookClient(
        fresh,
        timeout=CELL_LIMIT,
        kernel_name="python3",
        resources={"metadata": {"path": str(notebook.parent)}},
        extra_arguments=[f"--IPKernelApp.exec_files={IN_KERNEL}", "--IPKernelApp.log_level=ERROR"],
        record_timing=False,
        coalesce_streams=True,  # a line printed in two halves is one output
    )
    try:
        with Meter() as meter:
            client.execute(env=meter.environment)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookFailed(f"{notebook.name} stops:\n{COLOURS.sub('', str(error))}") from None
    return fresh, meter.cost


def over_budget(cost: Cost, budget: float = BUDGET) -> bool:
    """Whether a run was too slow whatever else the machine was doing."""
    return cost.cpu > budget or cost.seconds > NOISE * budget


def refresh(project: Project, budget: float = BUDGET, say=print) -> list[str]:
    """Run every notebook whose outputs are not at hand; returns what went wrong, one message a notebook."""
    cache = Cache(project)
    due = [notebook for notebook in project.notebooks if cache.executed(notebook) is None]
    problems = []
    with ThreadPoolExecutor(2) as pool:
        pending = [(notebook, pool.submit(execute, notebook)) for notebook in due]
        for notebook, future in pending:
            try:
                executed, cost = future.result()
            except NotebookFailed as error:
                problems.append(str(error))
                continue
            cache.store(notebook, executed, Run(project.key(notebook), cost))
            say(f"{notebook.name}: {cost}")
    return problems + slow(cache, budget)


def slow(cache: Cache, budget: float = BUDGET) -> list[str]:
    """Which notebooks are over budget, after a second chance alone; and whether the median is."""
    problems = []
    for notebook in cache.project.notebooks:
        run = cache.runs().get(notebook.name)
        if run is None or not over_budget(run.cost, budget):
            continue
        executed, cost = execute(notebook)
        if cost.seconds < run.cost.seconds:
            cache.store(notebook, executed, Run(run.key, cost))
        if over_budget(cost, budget):
            problems.append(
                f"{notebook.name} took {cost.seconds:.0f} s ({cost.cpu:.0f} s of CPU time); it has {budget:.0f}: "
                "compute less in it, or compute it by the command line and read the result from the ledger"
            )
    costs = [run.cost for run in cache.runs().values()]
    if not problems and costs and over_budget(_median(costs), budget * MEDIAN / BUDGET):
        problems.append(
            f"the median notebook takes {_median(costs).seconds:.0f} s; it has {budget * MEDIAN / BUDGET:.0f} s"
        )
    return problems


def _median(costs: list[Cost]) -> Cost:
    wall, cpu = (statistics.median(getattr(cost, name) for cost in costs) for name in ("seconds", "cpu"))
    return Cost(wall, cpu, delayed=0, memory=0, downloaded=0)
