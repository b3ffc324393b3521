"""The explorer's page from disk: it shows what `explore` shows, state by state, by keyboard and by pointer."""

import json

import numpy as np
import pytest

from dtl_lib.explore import State, explore, page
from tests.web.explorer_made import PLANS, pixels, says, states_of, words
from tests.web.pages import CONTRAST, TOO_WIDE

BULK = """([numbers, states]) => {
    const tiers = numbers.map((n) => dtlSeenHere[`m${n}_p0`]), { models, titles } = dtlExplorer;
    const abouts = numbers.map((n, at) => ({ ...models[n], titles, answers: tiers[at].answers }));
    return states.map((state) => dtlExplore(tiers, abouts, state).map((view) => {
        const { says, sentence, high, off } = view;
        return says ? { sentence } : { sentence, high, off, map: [...dtlPatches(view)],
            others: Object.fromEntries(dtlOthers(view).map(({ name, value }) => [name, value])) };
    }));
}"""


def agrees(shown, view, scale):
    """Whether what the page shows is a view, to what a byte a value leaves of it."""
    if view.map is None:
        assert shown == {"sentence": view.sentence}
        return
    assert words(shown["sentence"]) == words(view.sentence)
    largest = float(max([view.map.max(), *view.others.values()]))
    np.testing.assert_allclose(shown["map"], view.map.flatten(), atol=largest / 255)
    assert list(shown["others"]) == list(view.others)
    np.testing.assert_allclose(list(shown["others"].values()), list(view.others.values()), atol=largest / 255)
    off = largest / 255 if scale == "own" else 1e-4 * view.range[1]
    assert shown["high"] == pytest.approx(view.range[1], abs=off)
    assert shown["off"] == pytest.approx(view.off or 0, abs=1e-6)


@pytest.mark.parametrize("number", range(len(PLANS)))
def test_every_state_is_what_explore_shows(open_explorer, small_models, number):
    tab, model = open_explorer(), list(small_models.values())[number]
    if number:
        tab.click(f"[data-part=models] [data-value='{number}']")
        tab.wait_for_function("(key) => dtlSeenHere[key]", arg=f"m{number}_p0")
    states = list(states_of(model))
    got = tab.evaluate(BULK, [[number], [mine for _, mine in states]])
    for (state, _), (shown,) in zip(states, got):
        agrees(shown, explore(model, pixels(0), state), state.scale)
    assert sum("map" in shown for (shown,) in got) > len(states) / 3


def test_by_keyboard_alone(open_explorer, small_models):
    tab, model = open_explorer(), small_models["late, with registers"]
    view = explore(model, pixels(0), State(block=1))
    assert says(tab) == view.sentence or words(says(tab)) == words(view.sentence)
    tab.focus(".dtl-block input")
    tab.keyboard.press("ArrowRight")
    assert says(tab).startswith("Class token, block 2")
    tab.focus(".dtl-grid")
    moves = {"Enter": "0,0", "ArrowRight": "0,1", "ArrowDown": "1,1", "ArrowLeft": "1,0", "ArrowUp": "0,0"}
    steps = [(key, f"patch:{to}") for key, to in moves.items()]
    for key, query in (*steps, ("ArrowUp", "patch:0,0"), ("ArrowLeft", "patch:0,0"), ("Escape", "cls")):
        tab.keyboard.press(key)
        assert tab.get_attribute(".dtl-explorer", "data-query") == query
        assert tab.evaluate("document.activeElement.className") == "dtl-grid"
    for part, start, keys, pressed in (
        ("models", "0", ("ArrowRight", "Enter"), "1"),
        ("pictures", "0", ("ArrowRight", "Space"), "1"),
        ("show", "attention", ("ArrowRight", "ArrowRight", "ArrowRight", "Enter"), "norms"),
        ("scale", "shared", ("ArrowLeft", "Enter"), "own"),
    ):
        tab.focus(f"[data-part={part}] [data-value='{start}']")
        for key in keys:
            tab.keyboard.press(key)
        tab.wait_for_selector(f"[data-part={part}] [data-value='{pressed}'][aria-pressed=true]")
    tab.focus("summary")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("[data-part=table] table")


def test_by_pointer(open_explorer, small_models):
    tab, model = open_explorer(has_touch=True, width=360, is_mobile=True), small_models["late, with registers"]
    tab.locator("[role=gridcell]").nth(4).tap()
    view = explore(model, pixels(0), State(block=1, query="patch:1,1"))
    assert words(says(tab)) == words(view.sentence) and tab.locator(".asks").count() == 1
    tab.locator("[data-part=head] [data-value='2']").tap()
    assert "head 2" in says(tab)
    tab.locator("summary").tap()
    tab.wait_for_selector("[data-part=table] table")
    numbers = tab.locator("[data-part=table] tr td[colspan]").all_inner_texts()
    view = explore(model, pixels(0), State(block=1, query="patch:1,1", head=2))
    near = float(max(view.map.max(), *view.others.values())) / 255 + 6e-4
    assert [float(text[:-1]) / 100 for text in numbers] == pytest.approx([*view.others.values()], abs=near)
    cells = tab.locator("[data-part=table] td:not([colspan])").all_inner_texts()
    got = [float(text[:-1]) / 100 for text in cells if text]
    assert got == pytest.approx(view.map.flatten().tolist(), abs=near)
    labels = tab.locator("[role=gridcell]").evaluate_all("cells => cells.map(cell => cell.ariaLabel)")
    assert [label.split(", ")[-1] for label in labels] == [text for text in cells if text]


def test_colours_follow_the_numbers(open_explorer):
    tab = open_explorer()
    tab.click("[data-part=scale] [data-value=own]")
    light = tab.evaluate("""() => { const canvas = document.querySelector('.dtl-picture canvas');
        const { data } = canvas.getContext('2d').getImageData(0, 0, 24, 16); const sums = Array(6).fill(0);
        for (let i = 0; i < 384; i++) {
            const patch = 3 * Math.floor(i / 24 / 8) + Math.floor((i % 24) / 8);
            sums[patch] += data[4 * i + 1]; } return sums; }""")
    labels = tab.locator("[role=gridcell]").evaluate_all("cells => cells.map(cell => cell.ariaLabel)")
    values = [float(label.split(", ")[-1][:-1]) for label in labels]
    assert int(np.argmax(light)) == int(np.argmax(values)) and int(np.argmin(light)) == int(np.argmin(values))


@pytest.mark.parametrize("width", [1440, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_can_be_read(open_explorer, width, scheme):
    tab = open_explorer(width=width, color_scheme=scheme)
    tab.click("summary")
    tab.wait_for_selector("[data-part=table] table")
    assert tab.evaluate(TOO_WIDE) <= 0
    everything = CONTRAST.replace(
        "'article p, article li, article td, article dd, article code, article a'",
        "'.dtl-explorer :is(p, li, td, th, span, b, button, label, caption)'",
    )
    faint = [each for each in tab.evaluate(everything) if "BUTTON" not in each[1]]
    assert faint == []
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    every = "[...document.querySelectorAll('button, input, [role=grid], [role=gridcell]')]"
    assert tab.evaluate(f"{every}.filter((e) => !e.ariaLabel && !e.textContent.trim() && !e.labels?.length)") == []


WHOLE = """([part, one]) => {
    const [row, button] = ['.dtl-options', one].map((each) =>
        document.querySelector(`[data-part=${part}] ${each}`).getBoundingClientRect());
    return button.left >= row.left && button.right <= row.right - 20; }"""  # the last 24 fade
ABOVE = "['pictures', 'models', 'beside'].map((part) => document.querySelector(`[data-part=${part}]`))"
HIGH = f"{ABOVE}.map((each) => each.offsetHeight)"
LEFT = "document.querySelector('[data-part=models] .dtl-options').scrollLeft"


@pytest.mark.parametrize("touch", [False, True])
def test_on_a_telephone_each_list_above_the_picture_is_one_line(open_explorer, touch):
    tab = open_explorer(width=360, has_touch=touch, is_mobile=touch)
    assert max(tab.evaluate(HIGH)) < 50 and tab.evaluate(TOO_WIDE) <= 0
    for part, last in (("models", 2), ("beside", 1)):  # its own plan is not beside a model that has it
        button = tab.locator(f"[data-part={part}] [data-value='{last}']")
        assert not tab.evaluate(WHOLE, [part, f"[data-value='{last}']"])
        if touch:
            button.tap()
        else:
            tab.focus(f"[data-part={part}] [aria-pressed=true]")
            tab.keyboard.press("ArrowLeft")
            assert tab.evaluate(WHOLE, [part, ":focus"]) and button.evaluate("e => e === document.activeElement")
            tab.keyboard.press("Enter")
        tab.wait_for_selector(f"[data-part={part}] [data-value='{last}'][aria-pressed=true]")
        assert tab.evaluate(WHOLE, [part, "[aria-pressed=true]"]) and tab.evaluate(TOO_WIDE) <= 0
    before = tab.evaluate(LEFT)
    tab.fill(".dtl-block input", "0")
    assert tab.inner_text(".dtl-block b") == "0" and tab.evaluate(LEFT) == before > 0
    assert max(tab.evaluate(HIGH)) < 50


def test_without_script_there_is_a_sentence(browser, explorer_folder):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((explorer_folder / "index.html").as_uri())
    assert "needs JavaScript" in tab.inner_text("body") and tab.title() == "A <page>"
    context.close()


def test_large_pictures_leave_patches_out_in_steps(monkeypatch, small_models):
    model = small_models["late, with registers"]
    whole = page.seen(model, page.Picture("noise", pixels(0), "photo"))
    size = len(whole["codes"]) + len(whole["header"])
    seen = [whole]
    for most in (size - 200, 10):
        monkeypatch.setattr(page, "HEAVIEST", most)
        seen.append(page.seen(model, page.Picture("noise", pixels(0), "photo")))
    entries = [[e for e in each["entries"] if (e["show"], e["group"]) == ("attention", "patch")] for each in seen]
    assert [[entry["heads"] for entry in each] for each in entries] == [[4, 4, 4], [1, 1, 1], []]
    assert json.dumps(seen[0]["highs"]["attention"]["cls"]) == json.dumps(seen[2]["highs"]["attention"]["cls"])
