"""Two models, or two plans, side by side on the explorer's page, and the strength of the colours."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dtl_lib.explore import State, explore
from dtl_lib.figures.overlay import OPACITY, scale_colours
from dtl_lib.models import ViT
from dtl_lib.tokens import Group, TokenPlan
from tests.web.explorer_made import PLANS, answers, load, own_picture, pixels, says, states_of, words
from tests.web.pages import TOO_WIDE
from tests.web.test_explorer_page import BULK, agrees

LATE, ATTENTION, NONE = PLANS
DRAWN = """(side) => { const canvas = document.querySelectorAll('.dtl-picture canvas')[side];
    return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]; }"""


def beside(tab, value):
    value, sides = ("null", 1) if value is None else (value, 2)
    tab.click(f"[data-part=beside] [data-value='{value}']")
    tab.wait_for_selector(f"[data-part=beside] [data-value='{value}'][aria-pressed=true]")
    tab.wait_for_selector(f".dtl-main[data-sides='{sides}']")


@pytest.mark.parametrize("pair", itertools.combinations(range(len(PLANS)), 2), ids=str)
def test_every_state_of_two_models_is_what_explore_shows(open_explorer, small_models, pair):
    tab, models = open_explorer(), [list(small_models.values())[number] for number in pair]
    for number in pair:
        tab.evaluate("async (n) => { if (!dtlSeenHere[`m${n}_p0`]) await dtlScript(`seen_m${n}_p0.js`); }", number)
    every = [(state, json.dumps(mine)) for model in models for state, mine in states_of(model)]
    states = [(state, json.loads(mine)) for state, mine in dict.fromkeys(every)]
    got = tab.evaluate(BULK, [pair, [mine for _, mine in states]])
    one_alone = 0
    for (state, _), shown in zip(states, got):
        views = explore(models, pixels(0), state)
        for each, view in zip(shown, views, strict=True):
            agrees(each, view, state.scale)
        one_alone += [view.map is None for view in views] in ([True, False], [False, True])
    assert one_alone > 20


def test_two_models_by_pointer(open_explorer, small_models):
    tab, models = open_explorer(), [small_models[LATE], small_models[NONE]]

    def shown(state):
        for side, view in enumerate(explore(models, pixels(0), state)):
            assert words(says(tab, side)) == words(view.sentence)
            assert [name for name, _ in answers(tab, side)] == [name for name, _ in view.answers]

    assert tab.locator("[data-part=beside] [data-value='0']").count() == 0  # its own plan: it has no other
    beside(tab, 2)
    shown(State(block=1))
    assert "This plan has no cls" in says(tab, 1)
    titles = tab.locator(".dtl-title").all_inner_texts()
    assert titles == [LATE, NONE] and tab.locator(".dtl-says b").all_inner_texts() == [f"{name}: " for name in titles]
    tab.locator(".dtl-side").nth(1).locator("[data-value='patches:0']").click()
    shown(State(block=1, query="patches"))
    tab.locator(".dtl-side").nth(1).locator("[role=gridcell]").nth(23).click()
    shown(State(block=1, query="patch:3,5"))
    assert says(tab, 0) == "There is no patch (3, 5): the grid has 2 rows and 3 columns."
    tab.locator(".dtl-side").nth(0).locator("[role=gridcell]").nth(5).click()
    shown(State(block=1, query="patch:1,2"))
    assert [tab.locator(".dtl-side").nth(side).locator(".asks").count() for side in (0, 1)] == [1, 1]
    tab.fill(".dtl-block input", "2")
    shown(State(block=2, query="patch:1,2"))
    assert says(tab, 1) == "There is no block 2: this plan has blocks 0 … 1."
    tab.fill(".dtl-block input", "1")
    tab.click("[data-part=head] [data-value='2']")
    shown(State(block=1, query="patch:1,2", head=2))
    tab.click("summary")
    tab.locator("[data-part=table] caption").first.wait_for()
    captions = tab.locator("[data-part=table] caption").all_inner_texts()
    assert len(captions) == 1 and captions[0].startswith(f"{LATE}: share") and "no head 2" in says(tab, 1)
    notes = tab.locator("[data-part=says] p").all_inner_texts()
    assert notes == [f"{name}: Trained: {name}." for name in titles]
    tab.click("[data-part=pictures] [data-value='1']")  # which the second model alone is unlike
    tab.wait_for_selector("[data-part=models] [data-value='1'][aria-pressed=true]")
    tab.wait_for_function("document.querySelectorAll('[data-part=says] p')[1].textContent.includes('not one of these')")
    assert "not one of these" not in tab.locator("[data-part=says] p").first.inner_text()
    tab.click("[data-part=pictures] [data-value='0']")
    tab.click("[data-part=models] [data-value='0']")
    tab.wait_for_selector("[data-part=models] [data-value='0'][aria-pressed=true]")
    beside(tab, None)
    assert words(says(tab)) == words(explore(models[0], pixels(0), State(block=1, query="patch:1,2", head=2)).sentence)
    assert not tab.locator(".dtl-side").nth(1).is_visible() and tab.locator(".dtl-title").first.inner_text() == ""


def test_two_models_by_keyboard(open_explorer, small_models):
    tab, models = open_explorer(), [small_models[LATE], small_models[ATTENTION]]
    tab.focus("[data-part=beside] [data-value=null]")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".dtl-main[data-sides='2']")
    assert tab.evaluate("document.activeElement.dataset.value") == "1"
    second = tab.locator(".dtl-grid").nth(1)
    second.focus()
    for key in ("Enter", "ArrowDown", "ArrowRight", "ArrowDown"):
        tab.keyboard.press(key)
        assert second.evaluate("grid => grid === document.activeElement")  # not that of the other side
    assert tab.get_attribute(".dtl-explorer", "data-query") == "patch:1,1"
    active = second.evaluate("grid => document.getElementById(grid.getAttribute('aria-activedescendant')).ariaSelected")
    ids = tab.locator("[id]").evaluate_all("all => all.map(each => each.id)")
    assert active == "true" and len(ids) == len(set(ids)) == 12
    views = explore(models, pixels(0), State(block=1, query="patch:1,1"))
    assert [words(says(tab, side)) for side in (0, 1)] == [words(view.sentence) for view in views]
    tab.keyboard.press("Escape")
    assert tab.get_attribute(".dtl-explorer", "data-query") == "cls"


def test_an_own_picture_goes_through_both(open_explorer, explorer_folder, small_models):
    tab, models = open_explorer(), [small_models[LATE], small_models[ATTENTION]]
    beside(tab, 1)
    own_picture(tab, explorer_folder)
    tab.wait_for_function("document.querySelector('.dtl-status').textContent.startsWith('The model is here')")
    tab.click("[data-part=show] [data-value=norms]")
    for side, view in enumerate(explore(models, pixels(7), State(block=1, show="norms"))):
        assert says(tab, side) == view.sentence
        assert answers(tab, side) == [(name, f"{value:.1%}") for name, value in view.answers]


def test_two_plans(open_explorer, explorer_folder, small_models):
    tab, model = open_explorer(), small_models[LATE]
    load(tab)
    tab.focus("[data-value=enter-reg]")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_selector(".dtl-reset:visible")
    groups = PLANS[LATE].groups
    plan = TokenPlan(3, (groups[0], Group("reg", 3, 1), groups[2]))
    moved = ViT(replace(model.config, plan=plan)).eval()
    moved.load_state_dict(model.state_dict())

    def shown(picture):
        for block, show in ((1, "attention"), (0, "rollout"), (2, "lens")):
            tab.fill(".dtl-block input", str(block))
            tab.click(f"[data-part=show] [data-value={show}]")
            state = State(block=block, query="reg:1", show=show)
            views = explore([moved, model], picture, state)
            assert [says(tab, side) for side in (0, 1)] == [view.sentence for view in views], (block, show)
        assert "Reg enters at block 1" in explore(moved, picture, State(query="reg:1")).sentence

    beside(tab, 0)
    assert tab.locator(".dtl-title").all_inner_texts() == ["the 3 registers from block 1", "its own plan"]
    assert tab.inner_text("[data-part=says]") == f"Trained: {LATE}."
    tab.locator("[data-value='reg:1']").first.click()
    shown(pixels(0))
    own_picture(tab, explorer_folder)
    tab.wait_for_function("document.querySelector('.dtl-status').textContent.startsWith('The model is here')")
    shown(pixels(7))
    usual = explore(model, pixels(7), State()).answers[0]
    said = f"Under its own plan it says “{usual[0]}” ({usual[1]:.1%})"
    assert said in tab.inner_text(".dtl-disturbed")
    tab.click(".dtl-reset")
    tab.wait_for_selector(".dtl-main[data-sides='1']")
    assert tab.locator("[data-part=beside] [data-value=null]").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("how", ["picture", "own picture"])
def test_what_a_moved_plan_changes_is_said_of_this_picture(open_explorer, explorer_folder, small_models, how):
    tab, model = open_explorer(), small_models[LATE]
    load(tab)
    tab.focus("[data-value=enter-cls]")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_selector(".dtl-disturbed:not(:empty)")
    before = tab.inner_text(".dtl-disturbed")
    if how == "own picture":
        own_picture(tab, explorer_folder)
    else:
        tab.click("[data-part=pictures] [data-value='1']")
        tab.wait_for_selector("[data-part=models] [data-value='1'][aria-pressed=true]")
        tab.click("[data-part=models] [data-value='0']")
    changed = "before => !['', before].includes(document.querySelector('.dtl-disturbed').innerText)"
    tab.wait_for_function(changed, arg=before)
    name, share = explore(model, pixels(7 if how == "own picture" else 1), State()).answers[0]
    assert f"Under its own plan it says “{name}” ({share:.1%})" in tab.inner_text(".dtl-disturbed")


def test_the_overlay_moves_the_colours_and_no_number(open_explorer, small_models):
    tab = open_explorer()
    view = explore(small_models[LATE], pixels(0), State(block=1))
    sentence, colours = says(tab), scale_colours().astype(float)

    def drawn():
        return np.reshape(tab.evaluate(DRAWN, 0), (16, 24, 4))[..., :3].astype(float)

    patches = np.kron(view.map / view.range[1], np.ones((8, 8))).clip(0, 1)
    colour = colours[np.rint(255 * patches).astype(int)]
    grey = np.repeat(np.asarray(Image.fromarray(pixels(0)).convert("L"), float)[..., None], 3, axis=2)
    assert float(tab.locator(".dtl-overlay input").input_value()) == OPACITY
    assert np.abs(drawn() - (OPACITY * colour + (1 - OPACITY) * grey)).max() < 4
    tab.focus(".dtl-overlay input")
    tab.keyboard.press("Home")
    assert np.abs(drawn() - grey).max() <= 1 and tab.inner_text(".dtl-overlay b") == "0%"
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text(".dtl-overlay b") == "2%"
    tab.keyboard.press("End")
    assert np.abs(drawn() - colour).max() < 6 and tab.get_attribute(".dtl-overlay input", "aria-valuetext") == "100%"
    box = tab.locator(".dtl-overlay input").bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    share = float(tab.locator(".dtl-overlay input").input_value())
    assert share == pytest.approx(0.5, abs=0.03) and np.abs(drawn() - (share * colour + (1 - share) * grey)).max() < 4
    assert says(tab) == sentence
    beside(tab, 1)
    tab.keyboard.press("Escape")
    assert tab.locator(".dtl-overlay input").input_value() == str(share)


@pytest.mark.parametrize("width", [1440, 360])
def test_two_fit_side_by_side(open_explorer, width):
    tab = open_explorer(width=width)
    beside(tab, 1)
    assert tab.evaluate(TOO_WIDE) <= 0
    left, right = (side.bounding_box() for side in tab.locator(".dtl-picture").all())
    assert left["y"] == pytest.approx(right["y"], abs=1) and left["width"] == pytest.approx(right["width"], abs=1)
    assert left["width"] >= 140 and right["x"] + right["width"] <= width
    spilt = "[...document.querySelectorAll('.dtl-token')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    assert tab.evaluate(spilt) == 0
