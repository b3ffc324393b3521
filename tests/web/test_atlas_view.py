"""The atlas's live view: by mouse, by touch and by keyboard, on a phone, in the dark, twice on a page."""

import re

import pytest

from dtl_lib.lab.atlas import grids
from dtl_lib.lab.atlas import view as atlas
from tests.unit import made_up_atlas as made_up
from tests.web.pages import PATIENCE

GRID = made_up.grid()
CELLS = GRID.cells()
TALL = "(e) => e.getBoundingClientRect().height"
PAGE = """<!doctype html><html{}><meta charset=utf-8><meta name=viewport content='width=device-width'>
<body style="margin:0;background:{}"><div style="max-width:800px;margin:0 auto;padding:0 16px">{}</div>"""

# Text against the ground it stands on: the nearest ancestor that has a colour of its own.
FAINT = """() => {
    const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m[3] === 0 ? null : m.slice(0, 3); };
    const light = (c) => c.map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const ground = (e) => parse(getComputedStyle(e).backgroundColor) ?? ground(e.parentElement);
    return [...document.querySelectorAll('.dtl-atlas-view *')]
        .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
        .map((e) => { const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
            return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.textContent]; })
        .filter(([ratio]) => ratio < 4.5);
}"""
NAMELESS = """() => [...document.querySelectorAll('.dtl-atlas-view :is([role], button, img, canvas)')]
    .filter((e) => !['row', 'list', 'listitem'].includes(e.role) && !e.ariaLabel && !e.alt && !e.textContent.trim())
    .map((e) => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def state():
    return atlas.state(GRID, made_up.records(GRID), made_up.maps(GRID))


@pytest.fixture
def show(browser):
    """Opens a page of fragments on which nothing may be asked of any host and no script may fail."""
    contexts, wrong = [], []

    def opened(*states, width=1440, scheme="light", attributes="", ground="transparent", **how):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **how)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"script error: {error}"))
        page.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda asked: None if asked.url.startswith("data:") else wrong.append(asked.url))
        page.set_content(PAGE.format(attributes, ground, "\n".join(atlas.view(state).text for state in states)))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def square(page, cell, view=0):
    return page.locator(".dtl-atlas-view").nth(view).locator("[role=gridcell]").nth(CELLS.index(cell))


def says(page, state, cell, view=0):
    """Whether the panel gives this cell's name, numbers, plan and maps."""
    at, panel = CELLS.index(cell), page.locator(".dtl-atlas-view").nth(view).locator(".panel")
    text = panel.inner_text().replace("\u00a0", " ")
    name = str(cell)[0].upper() + str(cell)[1:]
    checks = [text.startswith(name + "\n")]
    for measure in state["measures"]:
        value, digits = measure["values"][at], measure["digits"]
        half = "" if measure["half"] is None else f" ± {measure['half']:.{digits}f}"
        checks.append("none here" in text if value is None else f"{value:.{digits}f}{half}" in text)
    plan = cell.plan(GRID.config.depth)
    for label, group in (("class token", plan.group("cls")), ("registers", plan.group("reg"))):
        there = group and f"{label}: blocks {group.enter} to {plan.blocks - 1}"
        checks.append((there or f"no {label}") in panel.locator(".plan").first.get_attribute("aria-label"))
    bars = panel.locator(".plan").first.locator(".bar").evaluate_all("bars => bars.map(bar => bar.style.gridColumn)")
    checks.append(
        bars == [f"{group.enter + 2} / {plan.blocks + 2}" for group in plan.groups] + [f"2 / {plan.blocks + 2}"]
    )
    checks.append(brightest(page, view) == expected_brightest(cell))
    return checks


def brightest(page, view=0):
    """Row and column of the brightest patch of each map drawn."""
    return (
        page.locator(".dtl-atlas-view")
        .nth(view)
        .locator(".maps canvas")
        .evaluate_all("""maps => maps.map(map => {
        const { data } = map.getContext('2d').getImageData(0, 0, 8, 8);
        const light = [...Array(64).keys()].map((at) => data[4 * at] + data[4 * at + 1]);
        const most = light.indexOf(Math.max(...light));
        return [Math.floor(most / 8), most % 8];
    })""")
    )


def expected_brightest(cell):
    maps = made_up.maps(GRID).by_cell.get(cell)
    return [] if maps is None else [[int(at) // 8, int(at) % 8] for at in maps.flatten(0, 1).flatten(1).argmax(dim=1)]


def colours(page):
    return page.eval_on_selector_all("[role=gridcell]", "cells => cells.map(c => getComputedStyle(c).backgroundColor)")


def test_click_keeps_and_pointing_looks(show, state):
    page = show(state)
    assert all(says(page, state, CELLS[0]))
    square(page, CELLS[6]).click()
    assert all(says(page, state, CELLS[6]))
    for cell in (CELLS[17], CELLS[20], CELLS[3]):  # class attention, no class token, registers late
        square(page, cell).hover()
        assert all(says(page, state, cell)), (str(cell), says(page, state, cell))
    page.mouse.move(5, 5)
    assert all(says(page, state, CELLS[6]))
    assert square(page, CELLS[6]).get_attribute("aria-selected") == "true"
    assert page.locator("[role=gridcell][aria-selected=true]").count() == 1


def test_cell_without_class_token_says_so(show, state):
    page = show(state)
    before = page.locator(".maps").evaluate(TALL)
    square(page, CELLS[20]).click()
    assert "there is no class token to ask" in page.locator(".maps").inner_text()
    assert page.locator(".maps canvas").count() == 0
    assert page.locator(".maps").evaluate(TALL) == pytest.approx(before, abs=1)


def test_keys_move_and_keep(show, state):
    page = show(state)
    page.locator(".centre").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel").startswith(
        "class token at 0, no registers: accuracy 43.0 ±"
    )
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    assert all(says(page, state, CELLS[6])) and square(page, CELLS[0]).get_attribute("aria-selected") == "true"
    assert page.locator("[role=gridcell][tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    status = page.locator("[aria-live=polite]").inner_text().replace("\u00a0", " ")
    assert status.startswith("Kept: class token at 2, 4 registers at 2. accuracy 42.")
    page.keyboard.press("Tab")  # away from the grid
    assert all(says(page, state, CELLS[6])) and square(page, CELLS[6]).get_attribute("aria-selected") == "true"
    assert page.evaluate("document.activeElement.textContent") == "compare with this cell"
    page.keyboard.press("Shift+Tab")
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    page.keyboard.press("Space")
    assert all(says(page, state, CELLS[23]))
    assert page.evaluate("document.activeElement.ariaSelected") == "true"


def test_touch_keeps(show, state):
    page = show(state, width=360, has_touch=True, is_mobile=True)
    square(page, CELLS[9]).tap()
    assert all(says(page, state, CELLS[9]))


def test_measure_recolours(show, state):
    page = show(state)
    seen = {tuple(colours(page))}
    for number, measure in list(enumerate(state["measures"]))[1:]:
        page.click(f"[data-measure='{number}']")
        seen.add(tuple(colours(page)))
        shown = page.locator("[role=gridcell]").all_inner_texts()
        wanted = ["–" if v is None else f"{v:.{measure['digits']}f}" for v in measure["values"]]
        assert shown == wanted and page.get_attribute(f"[data-measure='{number}']", "aria-pressed") == "true"
    assert len(seen) == len(state["measures"])


def test_more_is_lighter(show, state):
    page = show(state)
    channels = [[int(part) for part in re.findall(r"\d+", colour)] for colour in colours(page)]
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in channels]
    values = state["measures"][0]["values"]
    order = sorted(range(len(values)), key=values.__getitem__)
    assert all(light[a] <= light[b] + 1 for a, b in zip(order, order[1:])) and light[order[-1]] - light[order[0]] > 150


def test_two_cells_are_compared(show, state):
    page = show(state)
    page.click(".compare")
    square(page, CELLS[5]).click()
    first = state["measures"][0]
    difference = f"{abs(first['values'][5] - first['values'][0]):.1f} ± {first['apart'][2]:.1f} points"
    text = page.locator(".panel").inner_text().replace("\u00a0", " ")
    assert difference in text and "against class token at 0, no registers" in text
    assert page.locator(".plan").count() == 2
    assert brightest(page) == expected_brightest(CELLS[5]) + expected_brightest(CELLS[0])
    page.click(".compare")
    assert all(says(page, state, CELLS[5])) and "difference" not in page.locator(".panel").inner_text()
    square(page, CELLS[10]).click(modifiers=["Shift"])
    assert "against class token at 4, 4 registers at 2" in page.locator(".panel").inner_text()
    page.keyboard.press("Escape")
    assert "difference" not in page.locator(".panel").inner_text()


def test_a_difference_has_the_noise_of_what_it_compares(show, state):
    """Cells of one row have a part of their noise in common, those of one column another."""
    first = {**state["measures"][0], "apart": [1.1, 2.2, 3.3]}
    page = show({**state, "measures": [first, *state["measures"][1:]]})
    page.click(".compare")
    for cell, half in ((CELLS[3], 1.1), (CELLS[8], 2.2), (CELLS[9], 3.3)):
        square(page, cell).click()
        assert f"± {half} points" in page.locator(".first").inner_text().replace("\u00a0", " ")


def test_one_seed_and_minus_the_seeds_mean(show, state):
    page, first = show(state), state["measures"][0]
    said = page.locator(".surface p").first

    def squares():
        return [float(text.replace("−", "-")) for text in page.locator("[role=gridcell]").all_inner_texts()]

    page.click("[data-seed='1']")
    runs = [runs[1] for runs in first["runs"]]
    assert squares() == pytest.approx(runs, abs=0.051) and "Seed 1, one run a cell." in said.inner_text()
    assert "±" not in page.locator(".first").inner_text() + said.inner_text()  # a run alone has no interval
    page.click(".centre")
    mean = sum(runs) / len(runs)
    assert squares() == pytest.approx([run - mean for run in runs], abs=0.051)
    assert "points accuracy" in page.locator(".first").inner_text().replace("\u00a0", " ")
    page.click("[data-seed='all']")
    mean = sum(first["values"]) / len(CELLS)
    assert squares() == pytest.approx([value - mean for value in first["values"]], abs=0.051)
    assert f"± {first['half']:.1f} points" in said.inner_text().replace("\u00a0", " ")
    assert page.locator(".centre").get_attribute("aria-pressed") == "true"
    page.click(".centre")
    assert squares() == pytest.approx(first["values"], abs=0.051) and "%" in page.locator(".first").inner_text()


def test_a_measure_without_runs_has_no_seeds(show, state):
    plain = {**state["measures"][0], "name": "step time", "runs": None, "half": None, "apart": None}
    page = show({**state, "measures": [*state["measures"], plain]})
    page.click(f"[data-measure='{len(state['measures'])}']")
    page.click("[data-seed='0']")
    page.click(".centre")
    assert set(page.locator("[role=gridcell]").all_inner_texts()) == {"–"}


@pytest.mark.parametrize("width", [360, 768, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_and_can_be_read(show, state, width, theme):
    page = show(state, width=width, attributes=f" data-theme={theme}")
    page.click(".compare")
    square(page, CELLS[6]).click()
    for number in range(len(state["measures"])):
        page.click(f"[data-measure='{number}']")
        assert page.evaluate(FAINT) == []
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert page.evaluate("document.querySelectorAll('[role=gridcell]').length") == len(CELLS)
    surface, panel = (page.locator(part).bounding_box() for part in (".surface", ".panel"))
    beside = panel["x"] >= surface["x"] + surface["width"] and panel["y"] == pytest.approx(surface["y"], abs=1)
    assert beside == (width > 360) and beside != (panel["y"] >= surface["y"] + surface["height"])
    tall, wide = (page.locator("[role=gridcell]").first.bounding_box()[side] for side in ("height", "width"))
    assert tall >= 40 and wide >= 40


@pytest.mark.parametrize("grid", grids().values(), ids=grids())
@pytest.mark.parametrize("width", [360, 1440])
def test_every_grid_has_room(show, grid, width):
    page = show(atlas.state(grid, made_up.records(grid)), width=width)
    for button in page.locator("[data-measure]").all():
        button.click()
        texts = page.locator(".dtl-atlas-view :is([role=gridcell], .block, .head)")
        assert (
            texts.evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)")
            == []
        )
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


@pytest.mark.parametrize(
    ("how", "dark"),
    [
        ({"scheme": "dark"}, True),
        ({"scheme": "light"}, False),
        ({"scheme": "dark", "ground": "#fff"}, False),
        ({"scheme": "light", "ground": "#111"}, True),
        ({"scheme": "dark", "attributes": " data-theme=light"}, False),
        ({"scheme": "light", "attributes": " theme=dark"}, True),
    ],
)
def test_follows_its_host(show, state, how, dark):
    page = show(state, **how)
    assert (page.get_attribute(".dtl-atlas", "data-dark") is not None) == dark
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", "light" if dark else "dark")
    page.wait_for_selector(".dtl-atlas:not([data-dark])" if dark else ".dtl-atlas[data-dark]")


def test_the_books_frames_are_taken_off(show, state):
    """The theme's rules for outputs in the dark, in short."""
    page = show(attributes=" data-theme=dark")
    rule = "background: #fff !important; padding: 8px"
    page.add_style_tag(content=f"html[data-theme] .bd .cell_output img {{ {rule} }} .text_html {{ background: #fff }}")
    page.set_content(
        page.content().replace("</div>", "", 1)
        + f"""<div class="bd"><div class="cell_output">
        <div class="text_html">{atlas.view(state).text}</div></div></div>"""
    )
    style = "(e) => [getComputedStyle(e).backgroundColor, getComputedStyle(e).padding]"
    for part in (".text_html", ".photo img >> nth=0"):
        assert page.locator(part).evaluate(style) == ["rgba(0, 0, 0, 0)", "0px"]


def test_two_on_a_page(show, state):
    page = show(state, state)
    square(page, CELLS[6], view=1).click()
    page.locator(".dtl-atlas-view").nth(1).locator("[data-measure='1']").click()
    assert all(says(page, state, CELLS[0], view=0)) and all(says(page, state, CELLS[6], view=1))
    assert page.locator("[data-measure='0'][aria-pressed=true]").count() == 1


def test_run_again_in_a_notebook(show, state):
    """A notebook sets an output's HTML, then puts each script in again so that it runs; a copy has the same id."""
    page = show()
    put = """text => { const host = document.body.appendChild(document.createElement('div')); host.innerHTML = text;
        for (const old of host.querySelectorAll('script')) {
            const made = document.createElement('script'); made.type = old.type; made.textContent = old.textContent;
            old.replaceWith(made); } }"""
    for text in (atlas.view(state).text, *2 * [atlas.view(state).text]):
        page.evaluate(put, text)
    assert page.locator(".dtl-atlas[data-ready]").count() == page.locator(".dtl-atlas-view").count() == 3
    square(page, CELLS[4], view=2).click()
    assert all(says(page, state, CELLS[4], view=2)) and all(says(page, state, CELLS[0], view=1))


def test_hostile_labels_are_text(show, state):
    hostile = {**state, "rows": {**state["rows"], "names": ["</script><img src=x onerror=alert(1)>", *"abcde"]}}
    page = show(hostile)
    assert page.locator("[role=rowheader]").first.inner_text() == hostile["rows"]["names"][0]


def test_without_script_there_is_a_table(show, state):
    page = show(state, java_script_enabled=False)
    assert page.locator("td").count() == len(CELLS) and page.locator("table").is_visible()
    assert page.locator("td").nth(6).inner_text() == f"{state['measures'][0]['values'][6]:.1f}"


def test_without_maps(show, state):
    page = show({**state, "maps": None})
    square(page, CELLS[6]).click()
    assert page.locator(".maps").count() == 0 and "Class token at 2" in page.locator(".panel").inner_text()
