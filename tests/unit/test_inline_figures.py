"""Figures of a page: in it, on its ground, with text in its colour, described, and no id twice."""

import re

import matplotlib
import numpy as np
import pytest

from book.tools.assets import index_for_search_alone, inline_figures
from dtl_lib import TokenPlan, figures

PHOTO = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


@pytest.fixture
def page(tmp_path):
    """A page with three figures: a map with numbers on it, a photo, a drawing."""
    images = tmp_path / "_images"
    images.mkdir()
    figures.show_matrix([[0.0, 1.0]], label="share", numbers=True).savefig(images / "one.svg")
    figures.show_images([PHOTO]).savefig(images / "two.svg")
    figures.draw_sequence(TokenPlan.of(2), 4).save(images / "three.svg")
    sources = "".join(
        f'<img alt="Figure {name} &amp; more" src="../_images/{name}.svg" />' for name in ("one", "two", "three")
    )
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "page.html"
    path.write_text(f"<html>{sources}<img alt='x' src='photo.png'></html>")
    inline_figures(tmp_path)
    return path


def test_figures_stand_in_the_page_with_their_description(page):
    text = page.read_text()
    assert text.count("<svg") == 3 and text.count("<img") == 1 and not list(page.parents[1].glob("_images/*.svg"))
    for name in ("one", "two", "three"):
        assert text.count(f'role="img" aria-label="Figure {name} &amp; more"') == 1
    assert text.count("aria-label") == 3


def test_the_ground_is_the_pages_and_black_is_its_ink(page):
    text = page.read_text()
    assert "#000000" not in text and "currentColor" in text
    assert "fill: #ffffff" in text, "white text on a dark cell stays white"
    assert not re.search(r'id="[\w-]*patch_\d+">\s*<path [^>]*fill: #ffffff', text)


def test_no_id_is_taken_twice_and_each_reference_has_one(page):
    text = page.read_text()
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([\w-]+)', text)) <= set(ids)


def test_what_a_figure_says_is_not_rounded(tmp_path):
    (tmp_path / "_images").mkdir()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # as the book is built
        figures.show_maps([[[0.03]]], notes=["max 0.030\nsum 1.2500"]).savefig(tmp_path / "_images" / "one.svg")
    (tmp_path / "page.html").write_text('<img alt="A map" src="_images/one.svg" />')
    inline_figures(tmp_path)
    page = (tmp_path / "page.html").read_text()
    assert "max 0.030<" in page and "sum 1.2500<" in page
    assert not re.search(r"\d\.\d{7}", page), "coordinates are"


def test_a_drawing_keeps_its_colours(tmp_path):
    drawing = figures.draw_attention(197, 64)
    (tmp_path / "_images").mkdir()
    drawing.save(tmp_path / "_images" / "one.svg")
    (tmp_path / "page.html").write_text('<img alt="q, k and v" src="_images/one.svg" />')
    inline_figures(tmp_path)
    fills = re.compile(r'<rect [^>]*fill="(#[^"]*)"')
    shown = fills.findall((tmp_path / "page.html").read_text())
    assert len(shown) == 3 and shown == fills.findall(str(drawing))


def test_photos_are_packed_well(page):
    kinds = re.findall(r"data:image/(\w+);base64", page.read_text())
    assert "webp" in kinds


def test_the_search_page_alone_loads_the_index(tmp_path):
    script = '<script src="{}searchindex.js"></script>'
    (tmp_path / "notebooks").mkdir()
    pages = {"search.html": "", "index.html": "", "notebooks/01.html": "../"}
    for name, up in pages.items():
        (tmp_path / name).write_text(f'<script src="{up}a.js"></script>\n {script.format(up)}\n<p>x</p>')
    index_for_search_alone(tmp_path)
    loads = {name: "searchindex" in (tmp_path / name).read_text() for name in pages}
    assert loads == {"search.html": True, "index.html": False, "notebooks/01.html": False}
    assert '<script src="../a.js">' in (tmp_path / "notebooks/01.html").read_text()
