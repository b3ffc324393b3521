"""axe-core finds nothing of WCAG 2.1, level A or AA, on any page, in light, in dark and on a phone."""

import json
from functools import cache

import pytest

from book.tools.project import Project
from tests.web.pages import NEXT_FRAME, PATIENCE, SETTLED
from tests.web.test_pages import pages

LEVELS = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
# what the colours change; the rest is the same in both
LOOKS = {
    "light": {"runOnly": LEVELS, "rules": {"empty-heading": {"enabled": True}}},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}},
}
STILL = "* { transition: none !important; animation: none !important; }"
# What is folded is read too; of the ledger's sections, which one loop makes, the first.
OPEN = """() => [...document.querySelectorAll('.bd-article details')].forEach((one, n) => {
    if (n && location.pathname.endsWith('/book/ledger.html')) one.remove(); else one.open = true;
})"""
# Text inside the same elements of the same classes has the same colours: of such, the first is looked at. Of figures
# and mathematics axe needs the outside alone. What is taken out saves most: axe's time grows as elements squared.
ALIKE = """() => {
    const known = new Map(), seen = new Set();
    const kind = one => {
        if (!one || one === document.body) return '';
        if (!known.has(one)) known.set(one, [kind(one.parentElement), one.tagName, one.className,
            one.getAttribute('style'), one.tagName === 'TR' && one.rowIndex % 2].join(' '));
        return known.get(one);
    };
    document.querySelectorAll('.bd-article *, nav *').forEach(one => {
        if (one.childElementCount || one.closest('svg, mjx-container')) return;
        if (!seen.has(kind(one))) seen.add(kind(one));
        else if (one.matches('pre *, nav a, dt span:not(a *)')) one.remove();
        else one.dataset.alike = '';
    });
    document.querySelectorAll('svg.figure, mjx-container').forEach(one => one.replaceChildren());
}"""
RUN = """options => axe.run({exclude: [['[data-alike]']]}, {...options, resultTypes: ['violations']})
    .then(found => found.violations.flatMap(one => one.nodes.map(node => `${one.id}: ${node.target.join(' ')}`)))"""
# axe's scrollable-region-focusable, on a phone: what scrolls sideways is reached by keyboard
OUT_OF_REACH = """() => [...document.querySelectorAll('.bd-article *')].filter(one =>
    one.scrollWidth > one.clientWidth + 14 && one.clientWidth && /auto|scroll/.test(getComputedStyle(one).overflowX)
    && one.tabIndex < 0 && !one.querySelector('a[href], button, input, summary, [tabindex="0"]'))
    .map(one => `scrolls out of reach: ${one.tagName}.${one.className}`)"""
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
    page.set_viewport_size({"width": 360, "height": 900})
    page.wait_for_timeout(WIDE)
    found = page.evaluate(OUT_OF_REACH)
    page.set_viewport_size({"width": 1440, "height": 900})
    page.evaluate(ALIKE)
    page.evaluate(axe())
    for scheme, options in LOOKS.items():
        page.emulate_media(color_scheme=scheme)
        page.evaluate(NEXT_FRAME)
        found += [f"{scheme}: {one}" for one in page.evaluate(RUN, options)]
    return found


CHAPTERS = [f"notebooks/{path.stem}.html" for path in Project().notebooks]
PARTS = [*CHAPTERS, "book/api/", "book/", ""]  # a page is in the first of these that its name begins with


@pytest.mark.parametrize("part", PARTS)
def test_no_violation(html, site, reader, part):
    axe()
    names = [name for name in pages(html) if next(filter(name.startswith, PARTS)) == part]
    assert names
    problems = {}
    for name in names:
        reader.emulate_media(color_scheme="light")
        reader.goto(f"{site}/{name}", wait_until="load")
        if found := violations(reader):
            problems[name] = found
    assert problems == {}, json.dumps(problems, indent=1)


def test_a_bad_page_is_seen(reader):
    axe()
    reader.set_content(
        "<!doctype html><title>x</title><h1></h1><img src='data:,'><button></button>"
        "<article class=bd-article><details><summary>more</summary><p style='color:#aaa'>faint</p></details>"
        "<div style='width:99vw;overflow-x:auto'><p style='width:600px;color-scheme:light'>wide</p></div></article>"
    )
    found = "\n".join(violations(reader))
    for rule in (
        "image-alt",
        "button-name",
        "color-contrast",
        "html-has-lang",
        "empty-heading",
        "scrolls out of reach: DIV",
    ):
        assert rule in found, found
