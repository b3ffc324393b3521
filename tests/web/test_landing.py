"""The landing page's live view: it shows what is stored, by mouse and by keyboard, from disk, on a phone."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from book.tools import landing
from dtl_lib import stored
from tests.web.pages import PATIENCE, open_landing

PIXELS = """() => [...document.querySelectorAll('.landing canvas')]
    .map(canvas => [...canvas.getContext('2d').getImageData(0, 0, 14, 14).data])"""
CORNERS = ([0, 0, -1, -1], [0, -1, 0, -1])


@pytest.fixture(scope="module")
def result():
    return stored.registers.load()


@pytest.fixture
def page(landing_page, browser):
    """The view in a page of its own, without motion."""
    yield from open_landing(browser, landing_page)


@pytest.fixture(params=["disk", "book"])
def either(request, browser):
    """The view in a page of its own, and in the built book."""
    if request.param == "disk":
        yield from open_landing(browser, request.getfixturevalue("landing_page"))
    else:
        yield from open_landing(browser, f"{request.getfixturevalue('site')}/book/intro.html")


def drawn(page):
    """Both maps as they are drawn, (2, 14, 14, 4)."""
    return np.array(page.evaluate(PIXELS)).reshape(2, 14, 14, 4)


def expected(result, photo, block):
    """Green, which grows along the scale's colours, as the roots of both maps on one scale have it."""
    maps = result.class_maps[photo, landing.STATES, block].numpy()
    at = np.sqrt(maps / maps.max()) * 9
    return np.interp(at, np.arange(10), [1, 40, 74, 104, 130, 158, 182, 205, 222, 231])


def shown(page):
    """The percentages below the pictures: corners and token, on the left and on the right."""
    return page.locator(".landing-bar b").all_inner_texts()


def percent(share):
    return f"{100 * share:.{1 if share < 0.0995 else 0}f}\u00a0%"


def holds(page, result, photo, block):
    """Whether both pictures and the numbers below them are those of a block."""
    left, right = result.class_maps[photo, landing.STATES, block]
    numbers = [percent(float(left[CORNERS].sum())), "none", percent(float(right[CORNERS].sum()))]
    numbers.append(percent(float(result.token_share[photo, landing.STATES[1], block])))
    # a code is exact to half of 1/255 of its map's largest, and a canvas keeps colours under opacity to a few levels
    return abs(drawn(page)[..., 1] - expected(result, photo, block)).max() < 5 and shown(page) == numbers


def test_slider_moves_both_maps(either, result):
    assert holds(either, result, 0, 10)
    either.focus(".landing input")
    either.keyboard.press("Home")
    seen = []
    for block in range(12):
        assert holds(either, result, 0, block), block
        seen.append(drawn(either))
        either.keyboard.press("ArrowRight")
    assert all((a != b).any() for a, b in zip(seen, seen[1:]))


def test_sentence_says_what_the_maps_show(page, result):
    def text():
        return " ".join(page.locator(".landing-see, .landing-more").all_inner_texts())

    left, right = (float(result.class_maps[0, state, 10][CORNERS].sum()) for state in landing.STATES)
    for said in ("stares at the corners", percent(left), percent(right), percent(float(result.token_share[0, 2, 10]))):
        assert said in text()
    page.locator(".landing input").fill("0")
    assert f"looks inward: {percent(1 - float(result.class_maps[0, 0, 0].sum()))}" in text()
    page.locator(".landing input").fill("3")
    assert "finds the eye on the left" in text() and "stares" not in text() and "inward" not in text()
    assert percent(float(result.class_maps[0, 0, 3][CORNERS].sum())) in text()


def test_another_photo(either, result):
    either.click(".landing [data-photo=coffee]")
    assert holds(either, result, 1, 10)
    for image in either.locator(".landing img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 448
        assert image.get_attribute("src").endswith("coffee.jpg")
    assert "cup" in either.locator(".landing img").first.get_attribute("alt")
    either.click(".landing [data-photo=chelsea]")
    assert holds(either, result, 0, 10)


def test_table_has_every_number(page, result):
    page.click(".landing-numbers summary")
    rows = [row.split("\t") for row in page.locator(".landing-numbers tbody").inner_text().strip().split("\n")]
    for block, row in enumerate(rows):
        left, right = (float(result.class_maps[0, state, block][CORNERS].sum()) for state in landing.STATES)
        token = float(result.token_share[0, landing.STATES[1], block])
        assert row == [str(block), percent(left), percent(right), percent(token)]
    assert len(rows) == 12


def test_as_trained_is_what_another_result_holds(result):
    maps = stored.load("vit_tiny_chelsea").class_maps.mean(dim=1)
    assert abs(result.class_maps[0, 0].sqrt() - maps.sqrt()).max() < 0.01


def test_play_runs_through_the_blocks_and_stops(page):
    page.clock.install(time=0)
    page.clock.pause_at(1000)  # else it runs on by itself, and a busy machine is late
    page.click(".landing-play")
    assert page.locator(".landing input").input_value() == "0"
    page.clock.run_for(900 * 4)
    assert page.locator(".landing input").input_value() == "4"
    page.clock.run_for(900 * 20)
    assert page.locator(".landing input").input_value() == "11"
    assert page.locator(".landing-play").inner_text() == "Play"


def test_nothing_comes_from_elsewhere(either):
    either.wait_for_load_state("networkidle")
    home = either.url.split("/book/")[0]
    assert [url for url in either.asked if not url.startswith((home, "data:", "blob:"))] == []


def test_fits(either):
    for width in (360, 768, 1440):
        either.set_viewport_size({"width": width, "height": 800})
        assert either.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        left, right = (picture.bounding_box() for picture in either.locator(".landing-picture").all())
        assert left["width"] == pytest.approx(left["height"], abs=1) and left["width"] >= 140
        assert left["y"] == pytest.approx(right["y"], abs=1) and right["x"] + right["width"] <= width


def test_motion_ends_where_stillness_does(browser, landing_page, result):
    moving = browser.new_page(viewport={"width": 800, "height": 800}, reduced_motion="no-preference")
    moving.set_default_timeout(PATIENCE)
    moving.goto(landing_page)
    moving.locator(".landing input").fill("7")
    for _ in range(PATIENCE // 100):  # until it comes to rest
        if holds(moving, result, 0, 7):
            break
        moving.wait_for_timeout(100)
    else:
        raise AssertionError("never at rest")
    moving.close()


def test_data_file_is_in_step_with_what_is_stored(result):
    message = "run `python -m book.tools.landing`"
    assert (landing.FOLDER / "data.js").read_text("utf8") == landing.script(result), message
    for name in result.photos:
        kept, made = (
            np.asarray(Image.open(io.BytesIO(data)), dtype=float)
            for data in ((landing.FOLDER / f"{name}.jpg").read_bytes(), landing.picture(name))
        )
        assert kept.shape == made.shape == (448, 448, 3)
        assert abs(kept - made).mean() < 2, message


def test_a_changed_result_changes_the_data_file(result):
    moved = result.class_maps.flip(-1)
    assert landing.script(replace(result, class_maps=moved)) != landing.script(result)
