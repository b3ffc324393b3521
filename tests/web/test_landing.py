"""The landing page's live view: it shows what is stored, by mouse and by keyboard, from disk, on a phone."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from book.tools import landing
from book.tools.project import ROOT
from dtl_lib import stored
from tests.web.pages import PATIENCE

PIXELS = "() => [...document.querySelector('.landing canvas').getContext('2d').getImageData(0, 0, 14, 14).data]"
LABEL = re.compile(r"patch \((\d+),\s(\d+)\), ([\d.]+)\s%")
PAGE = "<!doctype html><html><meta charset=utf-8><meta name=viewport content='width=device-width'><body>{}"


@pytest.fixture(scope="module")
def result():
    return stored.load("vit_tiny_chelsea")


@pytest.fixture(scope="module")
def from_disk(tmp_path_factory):
    """The view alone, in a page that is opened from disk."""
    folder = tmp_path_factory.mktemp("landing")
    (folder / "_static").symlink_to(ROOT / "book" / "static")
    (folder / "book").mkdir()
    markup = re.search(r"```\{raw\} html\n(.*)```", (ROOT / "book" / "landing.md").read_text("utf8"), re.DOTALL)[1]
    (folder / "book" / "intro.html").write_text(PAGE.format(markup), "utf8")
    return (folder / "book" / "intro.html").as_uri()


@pytest.fixture
def page(from_disk, browser):
    """The view in a page of its own, without motion."""
    yield from opened(browser, from_disk)


@pytest.fixture(params=["disk", "book"])
def either(request, browser):
    """The view in a page of its own, and in the built book."""
    if request.param == "disk":
        yield from opened(browser, request.getfixturevalue("from_disk"))
    else:
        yield from opened(browser, f"{request.getfixturevalue('site')}/book/intro.html")


def opened(browser, address):
    """A page on which every request is noted and no script may fail."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.asked, errors = [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".landing[data-ready]")
    yield page
    assert errors == []
    context.close()


def drawn(page):
    """The map as it is drawn, (14, 14, 4)."""
    return np.array(page.evaluate(PIXELS)).reshape(14, 14, 4)


def shares_shown(page):
    """The percentages that the patches' labels give, (14, 14)."""
    shares = np.zeros((14, 14))
    for label in page.eval_on_selector_all(".landing [role=gridcell]", "cells => cells.map(cell => cell.ariaLabel)"):
        row, column, share = LABEL.fullmatch(label).groups()
        shares[int(row), int(column)] = float(share)
    return shares


def holds(page, shares):
    """Whether the view says and draws `shares`, (14, 14): percentages to the digits shown, and the brightest patch."""
    shares = 100 * shares.numpy()
    brightest = np.unravel_index(drawn(page)[..., :2].sum(axis=-1).argmax(), (14, 14))
    return np.allclose(shares_shown(page), shares, atol=0.06, rtol=0.05) and shares[brightest] >= 0.97 * shares.max()


def test_slider_moves_the_map(either, result):
    either.focus(".landing input")
    seen = []
    for block in (4, 5, 6, 7, 8):
        either.keyboard.press("ArrowRight")
        assert holds(either, result.class_maps[block].mean(dim=0))
        seen.append(drawn(either))
    assert all((a != b).any() for a, b in zip(seen, seen[1:]))
    either.keyboard.press("Home")
    assert holds(either, result.class_maps[0].mean(dim=0))


def test_text_says_what_the_map_shows(page, result):
    text = page.locator(".landing-see")
    assert "finds the eye" in text.inner_text()
    page.locator(".landing input").fill("10")
    share = result.class_maps[10].mean(dim=0)[[0, 0, -1, -1], [0, -1, 0, -1]].sum()
    assert "stares at the corners" in text.inner_text() and f"{100 * share:.0f}\u00a0%" in text.inner_text()
    norms = result.patch_norms[10]
    ratio = norms.max() / norms.flatten().sort().values[98]
    assert f"up to {ratio:.0f} times" in text.inner_text()
    assert f"{ratio:.1f}\u00a0×" == page.locator(".landing-norms b").inner_text()


def test_heads(page, result):
    for head in range(3):
        page.click(f".landing [data-head='{head}']")
        assert holds(page, result.class_maps[3, head])
        assert page.get_attribute(f".landing [data-head='{head}']", "aria-pressed") == "true"
    page.click(".landing [data-head=mean]")
    assert holds(page, result.class_maps[3].mean(dim=0))


def test_keyboard_moves_the_patch(page, result):
    page.focus(".landing-grid")
    page.keyboard.press("ArrowDown")  # the first key asks the patch on the eye
    assert holds(page, result.patch_maps[3, 4 * 14 + 4])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert holds(page, result.patch_maps[3, 5 * 14 + 5])
    assert page.get_attribute(".landing-grid", "aria-activedescendant") == "landing-5-5"
    for _ in range(15):
        page.keyboard.press("ArrowLeft")
    assert holds(page, result.patch_maps[3, 5 * 14])
    assert page.locator(".landing [data-head='1']").is_disabled()
    page.keyboard.press("Escape")
    assert holds(page, result.class_maps[3].mean(dim=0))


def test_mouse_points_and_pins(page, result):
    box = page.locator(".landing-grid").bounding_box()

    def at(row, column):
        return box["x"] + box["width"] * (column + 0.5) / 14, box["y"] + box["height"] * (row + 0.5) / 14

    page.mouse.move(*at(11, 8))
    assert holds(page, result.patch_maps[3, 11 * 14 + 8])
    page.mouse.move(box["x"] - 20, box["y"])
    assert holds(page, result.class_maps[3].mean(dim=0))
    page.mouse.click(*at(6, 11))
    page.mouse.move(box["x"] - 20, box["y"])
    assert holds(page, result.patch_maps[3, 6 * 14 + 11])
    page.click(".landing [data-asks=cls]")
    assert holds(page, result.class_maps[3].mean(dim=0))


def test_everything_is_reached_by_keyboard(page):
    page.focus(".landing-grid")
    reached = []
    for _ in range(9):
        reached.append(
            page.evaluate("document.activeElement.className || document.activeElement.textContent || 'slider'")
        )
        page.keyboard.press("Tab")
    assert [name for name in reached[:2]] == ["landing-grid", "slider"]
    assert {"landing-play", "class token", "mean", "0", "1", "2"} <= set(reached)


def test_play_runs_through_the_blocks_and_stops(page):
    page.clock.install(time=0)
    page.clock.pause_at(1000)  # else it runs on by itself, and a busy machine is late
    page.click(".landing-play")
    assert page.locator(".landing input").input_value() == "0"
    page.clock.run_for(900 * 4)
    assert page.locator(".landing input").input_value() == "4"
    page.clock.run_for(900 * 20)
    assert page.locator(".landing input").input_value() == "11"
    assert page.locator(".landing-play").inner_text() == "play"


def test_nothing_comes_from_elsewhere(either):
    either.wait_for_load_state("networkidle")
    home = either.url.split("/book/")[0]
    assert [url for url in either.asked if not url.startswith((home, "data:", "blob:"))] == []


def test_fits(either):
    for width in (360, 768, 1440):
        either.set_viewport_size({"width": width, "height": 800})
        assert either.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        picture, panel = (either.locator(f".landing-{part}").bounding_box() for part in ("picture", "panel"))
        assert picture["width"] == pytest.approx(picture["height"], abs=1) and picture["width"] >= 250
        assert panel["x"] + panel["width"] <= width


def test_motion_ends_where_stillness_does(browser, from_disk, result):
    moving = browser.new_page(viewport={"width": 800, "height": 800}, reduced_motion="no-preference")
    moving.set_default_timeout(PATIENCE)
    moving.goto(from_disk)
    moving.locator(".landing input").fill("7")
    for _ in range(PATIENCE // 100):  # until it comes to rest
        if holds(moving, result.class_maps[7].mean(dim=0)):
            break
        moving.wait_for_timeout(100)
    else:
        raise AssertionError("never at rest")
    moving.close()


def test_data_file_is_in_step_with_what_is_stored(result):
    message = "run `python -m book.tools.landing`"
    assert (landing.FOLDER / "data.js").read_text("utf8") == landing.script(result), message
    kept, made = (
        np.asarray(Image.open(io.BytesIO(data)), dtype=float)
        for data in ((landing.FOLDER / "cat.jpg").read_bytes(), landing.picture())
    )
    assert kept.shape == made.shape == (448, 448, 3)
    assert abs(kept - made).mean() < 2, message


def test_a_changed_result_changes_the_data_file(result):
    from dataclasses import replace

    moved = result.class_maps.flip(-1)
    assert landing.script(replace(result, class_maps=moved)) != landing.script(result)
