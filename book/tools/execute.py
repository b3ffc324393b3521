"""Runs the notebooks whose outputs are missing or stale, two at a time, into the cache the book is rendered from."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from book.tools.meter import IN_KERNEL, Cost, Meter
from book.tools.project import Project, read

MATPLOTLIBRC = Path(__file__).with_name("matplotlibrc")
CELL_LIMIT = 600  # seconds; far above any budget: it only ends what hangs
COLOURS = re.compile(r"\x1b\[[\d;]*m")


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
        extra_arguments=[
            f"--IPKernelApp.exec_files={IN_KERNEL}",
            "--IPKernelApp.log_level=ERROR",
            "--InlineBackend.figure_formats={'svg'}",  # assets.inline_figures makes them right in light and dark
        ],
        record_timing=False,
        coalesce_streams=True,  # a line printed in two halves is one output
    )
    try:
        with Meter() as meter:
            client.execute(env=meter.environment | {"MATPLOTLIBRC": str(MATPLOTLIBRC)})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookFailed(f"{notebook.name} stops:\n{COLOURS.sub('', str(error))}") from None
    return fresh, meter.cost


def refresh(project: Project, say=print) -> list[str]:
    """Run every notebook whose outputs are missing or stale; returns which failed and how, one message a notebook."""
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
    return problems
