"""axe-core finds nothing of WCAG 2.1, level A or AA, on any page, in light, in dark and on a phone."""

import json
from functools import cache

import pytest

from tests.web.pages import NEXT_FRAME, PATIENCE, SETTLED
from tests.web.test_pages import pages

LEVELS = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
# what the width or the colours change; the rest is the same in all of them
LOOKS = [
    ("light", 1440, {"runOnly": LEVELS, "rules": {"empty-heading": {"enabled": True}}}),
    ("dark", 1440, {"runOnly": {"type": "rule", "values": ["color-contrast"]}}),
    ("light", 360, {"runOnly": {"type": "rule", "values": ["scrollable-region-focusable"]}}),
]
# What is folded is read too. Of figures and mathematics axe needs the outside alone, and they are most of a page.
OPEN = "() => document.querySelectorAll('.bd-article details').forEach(one => { one.open = true; })"
STILL = "* { transition: none !important; animation: none !important; }"
ALL = {"exclude": [["svg.figure *"], ["mjx-container *"]]}
RUN = """([context, options]) => axe.run(context, {...options, resultTypes: ['violations']})
    .then(found => found.violations.flatMap(one => one.nodes.map(node => `${one.id}: ${node.target.join(' ')}`)))"""
WIDE = 500  # ms after a change of width, in which the theme and the book make what scrolls focusable


@cache
def axe() -> str:
    base = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    return base.AXE_SCRIPT


@pytest.fixture
def reader(browser):
    """A page that takes its time."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light")
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def violations(page) -> list[str]:
    """What axe finds on an open page in each of the looks: the rule and the element."""
    page.add_style_tag(content=STILL)
    page.evaluate(SETTLED, PATIENCE)
    page.evaluate(OPEN)
    page.evaluate(axe())
    found = []
    for scheme, width, options in LOOKS:
        if page.viewport_size["width"] != width:
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(WIDE)
        page.emulate_media(color_scheme=scheme)
        page.evaluate(NEXT_FRAME)
        found += [f"{scheme}, {width} px, {one}" for one in page.evaluate(RUN, [ALL, options])]
    return found


@pytest.mark.parametrize("part", ["book/", "book/api/", "notebooks/0", "notebooks/1", "notebooks/2", ""])
def test_no_violation(html, site, reader, part):
    axe()
    parts = ("book/api/", "book/", "notebooks/0", "notebooks/1", "notebooks/2", "")
    names = [name for name in pages(html) if next(one for one in parts if name.startswith(one)) == part]
    assert names
    problems = {}
    for name in names:
        reader.set_viewport_size({"width": 1440, "height": 900})
        reader.emulate_media(color_scheme="light")
        reader.goto(f"{site}/{name}", wait_until="load")
        if found := violations(reader):
            problems[name] = found
    assert problems == {}, json.dumps(problems, indent=1)


def test_a_bad_page_is_seen(reader):
    axe()
    reader.set_content(
        "<!doctype html><title>x</title><html lang=en><h1></h1><img src='data:,'><button></button>"
        "<article class=bd-article><details><summary>more</summary><p style='color:#aaa'>faint</p></details>"
        "<div style='width:99vw;overflow-x:auto'><p style='width:600px;color-scheme:light'>wide</p></div></article>"
    )
    found = "\n".join(violations(reader))
    for rule in ("image-alt", "button-name", "color-contrast", "html-has-lang", "empty-heading", "360 px, scroll"):
        assert rule in found, found
