"""What the pages do around the text: definitions on hover and focus, figures that open large, search, copies, cards."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from book.tools.project import Project, read
from tests.web.pages import PATIENCE

CHAPTER = "notebooks/06_registers.html"


@pytest.fixture
def page(browser, site, request):
    """A chapter, at 1440 pixels or, where the test asks for it, on a phone that is touched."""
    phone = getattr(request, "param", None) == "phone"
    given = {"viewport": {"width": 360, "height": 800}, "has_touch": True} if phone else {}
    context = browser.new_context(reduced_motion="reduce", **given)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{site}/{CHAPTER}", wait_until="load")
    yield page
    assert errors == []
    context.close()


def definitions(html) -> dict[str, str]:
    """What the glossary's page says under each term, by the term's place in it."""

    class Terms(HTMLParser):
        found, ids, inside = {}, [], False

        def handle_starttag(self, tag, attrs):
            if tag == "dt":
                self.ids = [*([] if self.inside else self.ids), dict(attrs).get("id")]
            if tag == "dd":
                self.found |= {one: "" for one in self.ids}
            self.inside = self.inside or tag == "dd"

        def handle_endtag(self, tag):
            if tag == "dd":
                self.ids, self.inside = [], False

        def handle_data(self, data):
            if self.inside:
                self.found |= {one: self.found[one] + data for one in self.ids}

    parser = Terms()
    parser.feed((html / "book" / "glossary.html").read_text("utf8"))
    return {one: " ".join(text.split()) for one, text in parser.found.items()}


def test_a_term_is_explained_on_hover(page, html):
    term, tip = page.locator("article a.term").first, page.locator("#term-tip")
    assert tip.is_hidden()
    term.hover()
    tip.wait_for(state="visible")
    assert tip.inner_text() == definitions(html)[term.evaluate("a => a.hash.slice(1)")]
    tip.hover()  # the pointer may rest on what it opened
    page.wait_for_timeout(400)
    assert tip.is_visible()
    page.mouse.move(0, 0)
    tip.wait_for(state="hidden")


def test_every_term_is_explained_on_focus(page, html):
    meanings, tip = definitions(html), page.locator("#term-tip")
    page.evaluate("document.querySelectorAll('article details').forEach(one => { one.open = true; })")
    terms = page.locator("article a.term")
    assert terms.count() >= 5
    for term in terms.all():
        term.focus()
        assert tip.inner_text() == meanings[term.evaluate("a => a.hash.slice(1)")]
        assert term.get_attribute("aria-describedby") == "term-tip"
        box = tip.bounding_box()
        assert 0 <= box["x"] and box["x"] + box["width"] <= page.evaluate("window.innerWidth")
    page.keyboard.press("Escape")
    assert tip.is_hidden() and term.get_attribute("aria-describedby") is None


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_the_first_tap_explains_and_the_second_follows(page):
    term = page.locator("article a.term").first
    term.tap()
    page.locator("#term-tip").wait_for(state="visible")
    assert page.url.endswith(CHAPTER)
    term.tap()
    page.wait_for_url("**/glossary.html#**")


def test_a_term_is_marked_once_and_never_in_code_or_titles(html):
    for path in sorted((html / "notebooks").glob("*.html")):
        text = path.read_text("utf8")
        places = re.findall(r'<a class="[^"]*\bterm\b[^"]*" href="\.\./book/glossary\.html#([^"]+)"', text)
        assert len(places) == len(set(places)) >= 3, path.name
        assert not re.search(r'<(h[1-6]|pre|code)\b[^>]*>(?:(?!</\1>).)*<a class="[^"]*\bterm\b', text, re.DOTALL)


@pytest.mark.parametrize("how", ["pointer", "keyboard"])
def test_a_figure_opens_large_and_closes(page, how):
    button = page.locator("figure > .enlarge").first
    drawing = "figure:has(> .enlarge) svg.figure"
    before, many = page.locator(drawing).first.bounding_box(), page.locator("svg.figure").count()
    if how == "pointer":
        page.locator("figure:has(> .enlarge)").first.hover()
        button.click()
    else:
        button.focus()
        page.keyboard.press("Enter")
    large = page.locator("dialog.large")
    assert large.locator("svg.figure").bounding_box()["width"] > 1.3 * before["width"]
    assert page.locator("svg.figure").count() == many
    assert large.locator("p").inner_text()
    if how == "pointer":
        large.locator("button").click()
    else:
        page.keyboard.press("Escape")
    large.wait_for(state="detached")
    assert page.locator(drawing).first.bounding_box()["width"] == before["width"]
    assert button.evaluate("button => button === document.activeElement")


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_a_figure_is_larger_than_a_phone(page):
    before = page.locator("figure:has(> .enlarge) svg.figure").first.bounding_box()["width"]
    page.locator("figure > .enlarge").first.tap()
    scroll = page.locator(".large-scroll")
    assert scroll.locator("svg").bounding_box()["width"] > 1.7 * before
    assert scroll.evaluate("box => box.scrollWidth > box.clientWidth && box.tabIndex === 0")


def test_code_is_copied(page):
    cell = page.locator("div.cell_input:visible").nth(1)
    cell.hover()
    cell.locator("button.copybtn").click()
    assert page.evaluate("navigator.clipboard.readText()").strip() == cell.locator("pre").inner_text().strip()


def test_search_finds_a_word_that_only_code_has(page, site):
    page.goto(f"{site}/search.html?q=scaled_dot_product_attention")
    page.locator("#search-results li a", has_text="Attention").first.wait_for()
    assert "02_attention" in " ".join(link.get_attribute("href") for link in page.locator("#search-results li a").all())


def test_what_is_downloaded_is_the_notebook(html):
    for path in Project().notebooks:
        text = (html / "notebooks" / f"{path.stem}.html").read_text("utf8")
        (link,) = re.findall(r'<a href="([^"]+\.ipynb)"[^>]*class="[^"]*btn-download-source-button', text, re.DOTALL)
        cells = [[cell.source for cell in read(one).cells] for one in (path, html / "notebooks" / link)]
        assert cells[0] == cells[1]


def test_other_sites_are_told_what_a_chapter_is(html):
    base, seen = Project().config["html"]["baseurl"], set()
    for path in sorted((html / "notebooks").glob("*.html")):
        tags = dict(re.findall(r'<meta property="og:([\w:]+)" content="([^"]*)"', path.read_text("utf8")))
        number = int(path.name[:2])
        assert tags["title"].startswith(f"{number}. ") and 40 <= len(tags["description"]) <= 220, tags
        assert tags["site_name"] == Project().config["title"]
        assert tags["url"] == f"{base}/notebooks/{path.name}"
        assert tags["image"].startswith(f"{base}/") and tags["image:alt"]
        with Image.open(html / tags["image"].removeprefix(f"{base}/")) as card:
            assert card.size == (1200, 630)
            assert len(card.convert("RGB").getcolors(10**6)) > 8
            seen.add(card.tobytes())
    assert len(seen) == len(Project().notebooks)


def test_print_opens_the_answers_on_white(page):
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    folded = "article details:not([open])"
    before = page.locator(folded).count()
    assert before
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator(folded).count() == 0
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator(folded).count() == before
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_definitions_are_those_of_the_glossary(html):
    text = (html / "_static" / "glossary_terms.js").read_text("utf8")
    kept = json.loads(text.removeprefix("window.glossaryTerms = ").removesuffix(";\n"))
    assert kept == definitions(html) and len(kept) > 50
