"""The built book, served on this machine, in a browser that can reach nothing else."""

import functools
import http.server
import shutil
import threading

import pytest

from book.tools.project import ROOT
from tests.web.pages import PATIENCE

HTML = ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def html():
    if not (HTML / "index.html").exists():
        pytest.skip("the book is not built: run 'make book'")
    return HTML


@pytest.fixture(scope="session")
def site(html):
    handler = functools.partial(QuietFiles, directory=str(html))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: pages are not opened")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
        opened = started.chromium.launch(executable_path=path, args=flags, timeout=PATIENCE)
        yield opened
        opened.close()


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): ...
