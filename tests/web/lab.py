"""JupyterLab or Notebook 7, started on this machine with notebooks, for as long as a test takes."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

from book.tools.project import ROOT

PATIENCE = 180  # seconds until the server has started, however busy the machine
PLACES = {
    "jupyterlab": "lab/workspaces/{0}/tree/{0}.ipynb",
    "notebook": "notebooks/{0}.ipynb",
}  # a workspace has one tab
READY = """(name) => {
    const { context, sessionContext } = globalThis.jupyterapp?.shell.currentWidget ?? {};
    return context?.path === `${name}.ipynb` && sessionContext.session?.kernel?.status === 'idle';
}"""


@contextmanager
def jupyter(folder: Path, app: str = "jupyterlab", **notebooks: list[str]):
    """The address of a running JupyterLab, or of `notebook`, `{0}` in it for a notebook's name; notebooks are lists of
    code cells."""
    for package in (app, "jupyterlab_widgets", "ipykernel"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: the widget is not opened in {app}")
    if version("ipywidgets").startswith("7."):
        pytest.skip("JupyterLab 4 draws the widgets of ipywidgets 8, and this is 7")
    for name, cells in notebooks.items():
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, folder / f"{name}.ipynb")
    own = ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    places = {name: str(folder / name.lower()) for name in (*own, "IPYTHONDIR")}
    environment = {**os.environ, **places, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    flags = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        "--expose-app-in-browser",
        f"--ServerApp.root_dir={folder}",
    ]
    command = [sys.executable, "-m", app, *flags]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        about = _started(server, folder / "jupyter_runtime_dir", folder / "server.log")
        yield f"{about['url']}{PLACES[app]}?token={about['token']}"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _started(server: subprocess.Popen, runtime: Path, log: Path) -> dict:
    """What the server says of itself, once it does."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(file.read_text())
            except json.JSONDecodeError:
                pass  # it is being written
        time.sleep(0.2)
    pytest.fail(f"Jupyter did not start: {log.read_text()[-2000:]}")


@contextmanager
def opened(browser, address: str):
    """A notebook in a browser that reaches this machine alone, run, once its first panel of an explorer is there."""
    context = browser.new_context(viewport={"width": 1440, "height": 1400})
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    host = address.split("/")[2]
    page.route(re.compile(rf"^https?://(?!{re.escape(host)})"), lambda route: route.abort())
    run_all(page, address)
    page.locator(".dtl-panel").wait_for()
    yield page
    context.close()


def run_all(page, address: str) -> None:
    """Open a notebook and run it, once its kernel answers."""
    page.goto(address)
    page.wait_for_function(READY, arg=Path(urlsplit(address).path).stem)
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
