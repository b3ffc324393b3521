"""Every link of the built book leads somewhere: to a file and a place in it, or to a well-formed address elsewhere."""

import html.parser
import re
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.web.test_pages import pages

MADE_BY_SCRIPT = {"#"}  # the theme's links to the page itself
HOSTNAME = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}", re.IGNORECASE)


class Page(html.parser.HTMLParser):
    """The ids of a page, and what it links to or loads."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a" and given.get("name"):
            self.ids.append(given["name"])
        self.links += [given[key] for key in ("href", "src") if given.get(key) and tag not in ("use", "image")]


@cache
def parsed(file: Path) -> Page:
    return Page(file.read_text("utf8"))


def broken(file: Path, link: str, root: Path) -> str | None:
    """What is wrong with a link of a page under `root`; None where nothing is."""
    parts = urlsplit(link)
    if link in MADE_BY_SCRIPT or parts.scheme in ("data", "mailto"):
        return None
    if parts.scheme or parts.netloc:
        there = parts.scheme in ("https", "http") and HOSTNAME.fullmatch(parts.hostname or "")
        return None if there and not re.search(r"[\s<>\"]", link) else "is no address"
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if target.is_dir():
        target /= "index.html"
    if not target.is_file() or root.resolve() not in target.resolve().parents:
        return "leads to no file"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in parsed(target).ids:
        return "leads to no place in its page"
    return None


def test_every_link_leads_somewhere(html):
    problems = []
    for name in pages(html):
        file = html / name
        for link in sorted(set(parsed(file).links)):
            if found := broken(file, link, html):
                problems.append(f"{name}: {link} {found}")
    assert problems == []


def test_no_id_is_there_twice(html):
    twice = {name: [one for one, n in Counter(parsed(html / name).ids).items() if n > 1] for name in pages(html)}
    assert {name: ids for name, ids in twice.items() if ids} == {}


@pytest.mark.parametrize(
    "link, wrong",
    [
        ("b.html", None),
        ("b.html#there", None),
        ("#here", None),
        ("https://example.org/x?y=1#z", None),
        ("data:,", None),
        ("c.html", "leads to no file"),
        ("../a.html", "leads to no file"),
        ("b.html#nowhere", "leads to no place in its page"),
        ("#nowhere", "leads to no place in its page"),
        ("https://", "is no address"),
        ("https://example", "is no address"),
        ("https://example.org/a b", "is no address"),
        ("htps://example.org", "is no address"),
        ("file:///tmp/x", "is no address"),
    ],
)
def test_a_broken_link_is_seen(tmp_path, link, wrong):
    site = tmp_path / "site"
    site.mkdir()
    (site / "a.html").write_text('<p id="here">')
    (tmp_path / "a.html").write_text("outside")
    (site / "b.html").write_text('<p id="there">')
    assert broken(site / "a.html", link, site) == wrong
