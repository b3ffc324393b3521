"""Every page of the built book works with no network, at two widths, in light and dark."""

import functools
import http.server
import re
import threading

import pytest

from tests.web.conftest import QuietFiles
from tests.web.pages import PATIENCE, open_page

WEIGHT = 2_000_000
HOST = r"(?:https?:)?//"
LOADS = re.compile(
    rf"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|data|poster)\s*=\s*[\"']?{HOST}[^\s\"'>]+"
    rf"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preload|icon|modulepreload))[^>]*href\s*=\s*[\"']?{HOST}[^\s\"'>]+"
    rf"|url\(\s*[\"']?{HOST}[^)]+\)|@import\s+[\"']{HOST}[^\"']+",
    re.IGNORECASE,
)


def pages(html):
    """The pages as paths; index.html only sends the reader on to the first page."""
    there = (path for path in html.rglob("*.html") if "_static" not in path.parts and path != html / "index.html")
    return sorted(str(path.relative_to(html)) for path in there)


def test_the_site_opens_at_the_landing_page(html):
    (target,) = re.findall(r'http-equiv="Refresh" content="0; url=([^"]+)"', (html / "index.html").read_text("utf8"))
    assert (html / target).is_file()


def foreign_loads(text: str) -> list[str]:
    """What a page or style sheet would load from another host."""
    return [match.group() for match in LOADS.finditer(text)]


def test_nothing_is_loaded_from_another_host(html):
    files = [path for kind in ("*.html", "*.css") for path in html.rglob(kind)]
    foreign = {str(path.relative_to(html)): foreign_loads(path.read_text("utf8")) for path in files}
    assert {name: loads for name, loads in foreign.items() if loads} == {}
    scripts = {
        path.name
        for path in html.rglob("*.html")
        if re.search(r"require\.js|html-manager|thebe", path.read_text("utf8"))
    }
    assert scripts == set()


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<script defer src=//cdn.example/x.js></script>",
        '<link rel="stylesheet" type="text/css" href="https://cdn.example/x.css" />',
        '<link href="https://cdn.example/x.css" rel="stylesheet">',
        "@font-face { src: url(https://cdn.example/x.woff2) }",
        '@import "https://cdn.example/x.css";',
        '<img alt="badge" src="https://cdn.example/badge.svg">',
    ],
)
def test_the_search_sees_a_load(text):
    assert foreign_loads(text)


def test_the_search_lets_links_pass():
    assert not foreign_loads('<a href="https://example.org">x</a> <link rel="canonical" href="https://example.org"/>')


def test_every_page_opens_whole(html, site, browser):
    problems = {}
    for path in pages(html):
        report = open_page(browser, site, path)
        if report.weight > WEIGHT:
            report.problems.append(f"loads {report.weight / 1e6:.1f} MB, more than {WEIGHT / 1e6:.0f}")
        if report.problems:
            problems[path] = report.problems
    assert problems == {}


BROKEN = """<!doctype html><html><head><title>x</title><script src="https://cdn.example/x.js"></script>
<script src="missing.js"></script></head><body style="margin:0"><div style="width:500px">wide</div><img src="data:,">
<table class="dtl-table" style="display:block;overflow:auto;max-width:100vw"><td><p style="width:380px">far</table>
<article><p style="color:#999;background:#fff">faint</p></article><span class="math">x</span><script>null.x</script>
</body></html>"""


def report_of(browser, folder, page, patience=PATIENCE):
    (folder / "page.html").write_text(page)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietFiles, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    report = open_page(browser, f"http://127.0.0.1:{server.server_port}", "page.html", patience=patience)
    server.shutdown()
    return report


def test_a_broken_page_is_reported(tmp_path, browser):
    text = "\n".join(report_of(browser, tmp_path, BROKEN).problems)
    for expected in (
        "another host",
        "404",
        "script error",
        "math not rendered",
        "alt text",
        "wider than 360",
        "at 360 px, table",
        "contrast",
    ):
        assert expected in text, text
    assert "wider than 1440" not in text and "at 1440 px, table" not in text


def test_mathematics_that_is_never_set_is_reported_and_not_waited_for(tmp_path, browser):
    never = "<!doctype html><title>x</title><script>MathJax = {startup: {promise: new Promise(() => {})}}</script>"
    problems = report_of(browser, tmp_path, never, patience=200).problems
    assert "mathematics is still being set after 0.2 s" in problems
