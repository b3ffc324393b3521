"""The built book, served on this machine, in a browser that can reach nothing else."""

import functools
import http.server
import re
import shutil
import threading

import pytest
from PIL import Image

from book.tools.project import ROOT
from dtl_lib.explore import page
from tests.web import explorer_made as made
from tests.web.pages import PATIENCE

ALONE = "<!doctype html><html><meta charset=utf-8><meta name=viewport content='width=device-width'><body>{}"
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


@pytest.fixture(scope="session")
def small_models():
    return {kind: made.model_of(kind) for kind in made.PLANS}


@pytest.fixture(scope="session")
def explorer_folder(small_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    kinds = ("photo", "shapes", "photo")
    shown = [
        page.Shown(name, model, f"Trained: {name}.", kind) for (name, model), kind in zip(small_models.items(), kinds)
    ]
    pictures = [page.Picture("noise", made.pixels(0), "photo"), page.Picture("<more>", made.pixels(1), "shapes")]
    page.write(folder, shown, pictures, 1)
    (folder / "index.html").write_text(page.page("A <page>"), "utf8")
    Image.fromarray(made.pixels(7)).save(folder / "own.png")
    return folder


@pytest.fixture(scope="session")
def landing_page(tmp_path_factory):
    """The landing page’s view alone, in a page that is opened from disk."""
    folder = tmp_path_factory.mktemp("landing")
    (folder / "_static").symlink_to(ROOT / "book" / "static")
    (folder / "book").mkdir()
    markup = re.search(r"```\{raw\} html\n(.*)```", (ROOT / "book" / "landing.md").read_text("utf8"), re.DOTALL)[1]
    (folder / "book" / "intro.html").write_text(ALONE.format(markup), "utf8")
    return (folder / "book" / "intro.html").as_uri()


@pytest.fixture
def open_explorer(browser, explorer_folder):
    """Opens the page from disk; nothing but its own files may be asked for, and no script may fail."""
    contexts, wrong = [], []

    def opened(width=1440, where=explorer_folder, script=None, **how):
        context = browser.new_context(viewport={"width": width, "height": 900}, **how)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        tab = context.new_page()
        tab.asked = []
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda asked: tab.asked.append(asked.url))
        if script:
            tab.add_init_script(script)
        tab.goto((where / "index.html").as_uri())
        tab.wait_for_selector(".dtl-explorer[data-ready]")
        return tab

    yield opened
    for context in contexts:
        assert all(url.startswith(("file:", "data:", "blob:")) for tab in context.pages for url in tab.asked)
        context.close()
    assert wrong == []


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): ...
