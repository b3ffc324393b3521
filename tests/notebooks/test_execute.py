"""Running notebooks: what is kept, what is run again, what fails, and what it takes."""

import dataclasses
import os
import subprocess
import sys
import textwrap
import time

import nbformat
import pytest

from book.tools import execute, meter
from book.tools.execute import Cache, NotebookFailed, refresh
from book.tools.meter import delay
from tests.notebooks.conftest import markdown

BUSY = "import time\n\nend = time.process_time() + 2\nwhile time.process_time() < end:\n    pass"
HELLO = "from part import value\n\nprint(value)"


@pytest.fixture
def chapter(project, add, notebook, monkeypatch):
    """A project with one chapter that prints a value of the library; returns its path."""
    monkeypatch.setenv("PYTHONPATH", str(project.root / "dtl_lib"))
    return add("01_a.ipynb", notebook(markdown("# A"), HELLO))


def printed(project, chapter):
    """What the cached notebook's last cell put out."""
    return Cache(project).executed(chapter).cells[-1].outputs[0].text


def count_runs(monkeypatch):
    """Counts the notebooks that are run."""
    runs, real = [], execute.execute
    monkeypatch.setattr(execute, "execute", lambda path: runs.append(path.name) or real(path))
    return runs


def test_outputs_are_kept_until_something_changes(project, chapter, monkeypatch):
    runs = count_runs(monkeypatch)
    assert refresh(project) == []
    assert refresh(project) == []
    assert runs == ["01_a.ipynb"]
    assert printed(project, chapter) == "1\n"

    doctrees = project.built / ".doctrees"
    doctrees.mkdir()
    (project.root / "dtl_lib" / "part.py").write_text("value = 2\n")
    changed = dataclasses.replace(project)
    assert Cache(changed).executed(chapter) is None
    assert refresh(changed) == []
    assert printed(changed, chapter) == "2\n"
    assert not doctrees.exists()

    (project.root / "requirements.txt").write_text("einops\n")
    assert Cache(dataclasses.replace(project)).executed(chapter) is None


def test_changed_text_is_not_run_again(project, chapter, monkeypatch):
    refresh(project)
    runs = count_runs(monkeypatch)
    changed = nbformat.read(str(chapter), as_version=4)
    changed.cells[0].source = "# B"
    nbformat.write(changed, str(chapter))
    assert refresh(project) == []
    assert runs == []
    assert Cache(project).executed(chapter).cells[0].source == "# B"


def test_an_error_shows_the_cell_and_the_traceback(project, add, notebook):
    add("01_a.ipynb", notebook("def divide(x):\n    return 1 / x", "divide(0)"))
    (problem,) = refresh(project)
    for part in ("01_a.ipynb stops", "divide(0)", "return 1 / x", "ZeroDivisionError"):
        assert part in problem
    assert Cache(project).runs() == {}


def test_a_cell_that_hangs_is_ended(project, add, notebook, monkeypatch):
    monkeypatch.setattr(execute, "CELL_LIMIT", 1)
    path = add("01_a.ipynb", notebook("import time\ntime.sleep(60)"))
    with pytest.raises(NotebookFailed, match=r"time\.sleep\(60\)"):
        execute.execute(path)


def test_the_cost_of_a_run(project, add, notebook):
    hold = "held = bytearray(400_000_000)\n" + BUSY
    _, cost = execute.execute(add("01_a.ipynb", notebook(hold)))
    assert cost.cpu > 2
    assert cost.wall > 2
    assert 400e6 < cost.memory < 1000e6
    assert cost.downloaded == 0
    assert "downloads nothing" in str(cost)


DOWNLOAD = """
    import http.server, socket, threading, urllib.request

    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.connect(("192.0.2.1", 1))
    host = probe.getsockname()[0]
    for name in (HOSTS):
        urllib.request.urlopen(f"http://{name}:{server.server_port}/big").read()
"""


BURN = "import os, sys, time; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile {condition}: pass"


def test_a_process_that_shares_its_core_is_delayed():
    """With two others that never pause: by more than it computes, and by less than it lasts, whatever else runs."""
    if not delay(os.getpid()):
        pytest.skip("this system does not say how long a process waited for a CPU")
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", BURN.format(core=core, condition=True)]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for other in others:
            other.stdout.readline()
        code = BURN.format(core=core, condition="time.process_time() < 1") + "\nprint(flush=True)\ninput()"
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in ("begun", "ended"):
            process.stdout.readline()
        delayed, lasted = delay(process.pid), time.perf_counter() - start
        process.communicate(b"\n")
    finally:
        for other in others:
            other.kill()
            other.communicate()
    assert 0.5 < delayed < lasted


def test_time_the_machine_gives_to_others_does_not_count(project, add, notebook, monkeypatch):
    monkeypatch.setattr(meter, "delay", lambda pid: 1.5)
    _, cost = execute.execute(add("01_a.ipynb", notebook("import time\ntime.sleep(3)")))
    assert cost.delayed == 1.5 and cost.seconds == max(cost.cpu, cost.wall - 1.5) < cost.wall


@pytest.mark.parametrize(("hosts", "counted"), [("host,", 300_000), ("'127.0.0.1',", 0)])
def test_downloads_from_other_machines_are_counted(project, add, notebook, hosts, counted):
    (project.root / "notebooks" / "big").write_bytes(bytes(300_000))
    source = textwrap.dedent(DOWNLOAD).replace("(HOSTS)", f"({hosts})")
    try:
        _, cost = execute.execute(add("01_a.ipynb", notebook(source)))
    except NotebookFailed as error:
        if "Network is unreachable" in str(error):
            pytest.skip("this machine has no address but its own")
        raise
    assert counted <= cost.downloaded <= 3 * counted


MEET = """
    import time
    from pathlib import Path

    Path("{mine}").touch()
    end = time.monotonic() + 100
    while not Path("{other}").exists():
        assert time.monotonic() < end, "the other did not come"
        time.sleep(0.05)
"""


def test_notebooks_run_two_at_a_time(project, add, notebook):
    for name, mine, other in (("01_a.ipynb", "a", "b"), ("02_b.ipynb", "b", "a")):
        add(name, notebook(textwrap.dedent(MEET).format(mine=mine, other=other)))
    assert refresh(project) == []
