"""Every control of the explorer's page and of the landing page, by keys alone and by pointer."""

import pytest

from tests.web.controls import Control, slid, unknown, wheeled
from tests.web.explorer_made import CAMERA, load
from tests.web.pages import open_landing

SHOWN = """() => { window.shown = () => [
    [...document.querySelectorAll('.dtl-says span, .landing-see')].map((each) => each.textContent),
    [...document.querySelectorAll('canvas')].map((each) => each.toDataURL())]; }"""
LOW = "[data-part=table], .landing-scroll { max-height: 3rem !important; overflow: auto; }"
SCROLLED = "[...document.querySelectorAll('[role=region]')].map((each) => each.scrollTop)"
DISTURBED = "document.querySelector('.dtl-disturbed').textContent"
OWN = "document.querySelectorAll('[data-part=pictures] [data-value=own]').length"


def opened(tab):
    tab.click("summary")
    tab.add_style_tag(content=LOW)
    tab.locator("[role=region] table").wait_for()


def shooting(tab):
    tab.click(".dtl-shoot")
    tab.locator(".dtl-camera button").wait_for()


def moved(tab):
    load(tab)
    slid(tab, "[data-value=enter-reg]")
    tab.wait_for_selector(".dtl-reset:visible")


def beside(tab):
    tab.click("[data-part=beside] [data-value='1']")
    tab.wait_for_selector(".dtl-main[data-sides='2']")


def picked(tab, one):
    with tab.expect_file_chooser() as chooser:
        tab.locator(".dtl-button").click()
    chooser.value.set_files(tab.own)


ARROW = ("ArrowRight",)
EXPLORER = {
    "picture": Control("[data-part=pictures] button", "[data-part=pictures] [data-value='1']"),
    "model": Control("[data-part=models] button", "[data-part=models] [data-value='2']"),
    "beside": Control("[data-part=beside] button", "[data-part=beside] [data-value='1']"),
    "patches": Control(".dtl-grid", keys=("Enter", "ArrowDown")),
    "a patch": Control("[role=gridcell]", keys=()),
    "token": Control("[data-part=tokens] button", "[data-part=tokens] [data-value='reg:1']", ("Space",)),
    "patches beside": Control(".dtl-grid", ".dtl-side + .dtl-side .dtl-grid", ("Enter",), before=beside),
    "token beside": Control(".dtl-token", ".dtl-side + .dtl-side [data-value='reg:1']", before=beside),
    "block": Control(".dtl-block input", keys=ARROW, point=slid),
    "overlay": Control(".dtl-overlay input", keys=ARROW, point=slid),
    "show": Control("[data-part=show] button", "[data-part=show] [data-value=norms]"),
    "head": Control("[data-part=head] button", "[data-part=head] [data-value='1']"),
    "colours": Control("[data-part=scale] button", "[data-part=scale] [data-value=own]"),
    "load": Control(".dtl-load", changes="document.querySelector('.dtl-load').hidden"),
    "file": Control(".dtl-file", point=picked, changes=OWN),
    "camera": Control(".dtl-shoot", changes="document.querySelectorAll('video').length"),
    "shot": Control(".dtl-camera button", changes=OWN, before=shooting),
    "plan": Control("[data-part=plan] input", "[data-value=enter-reg]", ARROW, slid, DISTURBED, load),
    "own plan": Control(".dtl-reset", changes=DISTURBED, before=moved),
    "numbers": Control("summary", changes="document.querySelector('details').open"),
    "table": Control("[data-part=table]", keys=("ArrowDown",), point=wheeled, changes=SCROLLED, before=opened),
}
LANDING = {
    "play": Control(".landing-play", changes="document.querySelector('.landing-play').textContent"),
    "block": Control(".landing input", keys=("Home",), point=slid),
    "photo": Control("[data-photo]", "[data-photo=coffee]", ("Space",)),
    "numbers": Control("summary", changes="document.querySelector('details').open"),
    "table": Control(".landing-scroll", keys=("ArrowDown",), point=wheeled, changes=SCROLLED, before=opened),
}


@pytest.fixture
def explorer(open_explorer, explorer_folder):
    tab = open_explorer(script=f"({CAMERA})(); ({SHOWN})()")
    tab.own = explorer_folder / "own.png"
    return tab


@pytest.fixture
def landing(browser, landing_page):
    for tab in open_landing(browser, landing_page):
        tab.evaluate(SHOWN)
        yield tab


@pytest.mark.parametrize("name", EXPLORER)
def test_the_explorer_by_pointer(explorer, name):
    EXPLORER[name].moves(explorer, EXPLORER[name].by_pointer)


@pytest.mark.parametrize("name", [name for name, control in EXPLORER.items() if control.keys])
def test_the_explorer_by_keys(explorer, name):
    def act(tab):
        if name != "file":
            return EXPLORER[name].by_keys(tab)
        with tab.expect_file_chooser() as chooser:
            EXPLORER[name].by_keys(tab)
        return chooser.value.set_files(tab.own)

    EXPLORER[name].moves(explorer, act)


def test_the_explorer_has_no_other_control(explorer):
    table, root = EXPLORER.values(), ".dtl-explorer"
    moved(explorer)
    beside(explorer)
    opened(explorer)
    shooting(explorer)
    assert unknown(explorer, root, table) == []
    assert all(explorer.locator(row.every).count() for row in table)
    assert unknown(explorer, root, [row for row in table if row.every != ".dtl-shoot"])  # it would be found


@pytest.mark.parametrize("name", LANDING)
@pytest.mark.parametrize("how", ["by_keys", "by_pointer"])
def test_the_landing_page(landing, how, name):
    LANDING[name].moves(landing, getattr(LANDING[name], how))


def test_the_landing_page_has_no_other_control(landing):
    assert unknown(landing, ".landing", LANDING.values()) == []
    assert all(landing.locator(row.every).count() for row in LANDING.values())
