"""The explorer in real JupyterLab: every control by pointer and by keyboard, each number against PyTorch's."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from dtl_lib import data, load_pretrained, record
from tests.web.controls import Control, unknown
from tests.web.lab import jupyter, opened

MODELS = ["zoo/shapes_depth6_reg4", "zoo/shapes_depth12_cls6"]
CELL = f"from dtl_lib import Explorer\nexplorer = Explorer({MODELS}, ['chelsea', 'coffee'])\nexplorer"
NAMED = """() => {
    document.querySelectorAll('.widget-inline-hbox').forEach((each) => {
        each.dataset.name = each.querySelector('label')?.textContent ?? 'play'; });
    window.shown = () => [...document.querySelectorAll('.dtl-panel :is(figcaption, [role=status], td)')]
        .map((each) => each.textContent);
}"""
START = """() => { const start = Object.assign(document.createElement('span'), { tabIndex: 0, className: 'dtl-start' });
    document.querySelector('[data-name=picture]').before(start); }"""  # Tab goes on from here


def file_of(image, form="PNG"):
    held = io.BytesIO()
    image.save(held, form)
    return held.getvalue()


MINE = {"name": "mine.png", "mimeType": "image/png", "buffer": file_of(Image.new("RGB", (90, 60)))}


def chosen(page, one):
    """The last entry of a native list, or the first where it is that; the list's popup is the browser's own."""
    last = page.locator(one).locator("option").count() - 1
    at = page.locator(one).evaluate("list => list.selectedIndex")
    page.locator(one).select_option(index=0 if at == last else last)


def dragged(page, one):
    """A slider's handle, as far as it goes on the other side."""
    handle = page.locator(one).bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    far = page.locator(one).evaluate("e => e.ariaValueNow === e.ariaValueMax") and -400 or 400
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + far, y, steps=4)
    page.mouse.up()


def typed(page, one):
    page.locator(one).click()
    for key in ("Control+a", "0", "Enter"):
        page.keyboard.press(key)


def uploading(page, one):
    with page.expect_file_chooser() as chooser:
        page.locator(one).click()
    chooser.value.set_files([MINE])


DOWN, RIGHT, TYPED, NONE = ("ArrowDown",), ("ArrowRight",), ("Control+a", "2", "Enter"), ("Control+a", "0", "Enter")
OVERLAY = "document.querySelector('.dtl-panel img').src"
UPLOADED = "document.querySelector('[data-name=picture] select').length"
REPEATS = "document.querySelectorAll('[data-name=play] button')[2].className"
WIDGET = {
    "picture": Control("[data-name=picture] select", keys=DOWN, point=chosen),
    "asks": Control("[data-name=asks] select", keys=DOWN, point=chosen),
    "head": Control("[data-name=head] select", keys=DOWN, point=chosen),
    "colours": Control("[data-name=colours] select", keys=DOWN, point=chosen),
    "block": Control("[data-name=block] [role=slider]", keys=RIGHT, point=dragged),
    "block, typed": Control("[data-name=block] .widget-readout", keys=TYPED, point=typed),
    "play": Control("[data-name=play] button:nth-child(1)"),
    "stop": Control("[data-name=play] button:nth-child(2)"),
    "repeat": Control("[data-name=play] button:nth-child(3)", changes=REPEATS),
    "overlay": Control("[data-name=overlay] [role=slider]", keys=RIGHT, point=dragged, changes=OVERLAY),
    "overlay, typed": Control("[data-name=overlay] .widget-readout", "", NONE, typed, OVERLAY),
    "patches": Control(".dtl-panel .frame", keys=("ArrowDown",)),
    "show": Control("[data-name=show] select", keys=DOWN, point=chosen),
    "beside it": Control("[data-name='beside it'] select", keys=DOWN + DOWN, point=chosen),
    "model": Control("[data-name=model] select", keys=DOWN, point=chosen),
    "upload": Control(".widget-upload", point=uploading, changes=UPLOADED),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    pytest.importorskip("anywidget", reason="anywidget is not installed: the panels are plain widgets")
    with jupyter(tmp_path_factory.mktemp("lab"), explorer=[CELL], keys=[CELL], pointer=[CELL]) as address:
        yield address


@pytest.fixture(scope="module")
def page(browser, lab):
    with opened(browser, lab.format("explorer")) as page:
        yield page


@pytest.fixture(scope="module", params=["keys", "pointer"])
def untouched(request, browser, lab):
    """The same in a notebook for each way; each control has a name: that of its label, or of its place."""
    with opened(browser, lab.format(request.param)) as page:
        page.evaluate(NAMED)
        page.evaluate(START)
        page.way = request.param
        yield page


def row(model, block, of="cls", head=None, photo="chelsea"):
    """A token's attention by PyTorch: over every token, and the layout."""
    model = load_pretrained(model)
    with record(model) as tape:
        model(data.prepare(data.photo(photo), config=model.config))
    heads = tape.row(block, of)[0]
    return (heads.mean(dim=0) if head is None else heads[head]).numpy(), tape.plan.layout(block)


def numbers(page, panel=0):
    """The table of a panel, by name."""
    rows = page.locator(".dtl-panel").nth(panel).locator("tr")
    return {name: value for name, value in (line.split("\t") for line in rows.all_inner_texts())}


def expect(page, starts, panel=0):
    """Wait for a sentence that starts so."""
    sentence = page.locator(".dtl-panel").nth(panel).locator("[role=status]")
    sentence.filter(has_text=re.compile("^" + re.escape(starts))).wait_for()
    return sentence.inner_text()


def agrees(page, starts, model, block, of="cls", head=None, patch=(0, 0), photo="chelsea", panel=0):
    """That the sentence and every number of a panel are those of this row."""
    sentence, (values, layout) = expect(page, starts, panel), row(model, block, of, head, photo)
    patches = values[layout["patches"]].reshape(8, 8)
    shown = numbers(page, panel)
    assert shown[f"patch ({patch[0]}, {patch[1]})"] == f"{patches[patch]:.1%}"
    for name, where in layout.items():
        for at, value in enumerate(values[where]):
            if name != "patches":
                assert shown[name if name == "cls" else f"{name}:{at}"] == f"{value:.1%}"
    assert f"{1 - patches.sum():.1%} of its attention lies off the patches" in sentence
    most = np.unravel_index(patches.argmax(), (8, 8))
    assert f"({most[0]}, {most[1]}), has {patches.max():.1%}" in sentence


def choose(page, name, option):
    page.get_by_label(name, exact=True).select_option(option)


def slider(page, name):
    return page.locator(".widget-slider", has_text=name).locator("[role=slider]")


def test_every_control_by_pointer_and_by_keys(page):
    reg4, late = MODELS
    agrees(page, "Class token, block 0, mean of 4 heads", reg4, 0)

    slider(page, "block").focus()
    for block in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        agrees(page, f"Class token, block {block}, mean", reg4, block)
    choose(page, "head", "1")
    agrees(page, "Class token, block 3, head 1", reg4, 3, head=1)
    choose(page, "asks", "reg:2")
    agrees(page, "reg 2, block 3, head 1".capitalize(), reg4, 3, ("reg", 2), 1)

    frame = page.locator(".dtl-panel .frame")
    box = frame.bounding_box()
    frame.click(position={"x": box["width"] * 5.5 / 8, "y": box["height"] * 2.5 / 8})
    agrees(page, "Patch (2, 5), block 3, head 1", reg4, 3, ("patch", 2, 5), 1, patch=(2, 5))
    for key, patch in (("ArrowDown", (3, 5)), ("ArrowLeft", (3, 4)), ("End", (3, 7)), ("ArrowRight", (3, 7))):
        page.keyboard.press(key)
        agrees(page, f"Patch ({patch[0]}, {patch[1]}), block 3", reg4, 3, ("patch", *patch), 1, patch=patch)
    page.keyboard.press("Escape")
    agrees(page, "Class token, block 3, head 1", reg4, 3, head=1, patch=(3, 7))
    assert page.locator(".jp-Notebook .jp-Cell.jp-mod-active").count() == 1  # the keys were not JupyterLab's

    choose(page, "head", "mean")
    choose(page, "colours", "own")
    assert "this map’s own maximum" in page.locator(".dtl-panel [role=status]").filter(has_text="own").inner_text()
    for show, starts in (
        ("rollout", "Class token, blocks 0 to 3 rolled out"),
        ("relevance", "Class token, blocks 0 to 3, asked about"),
        ("norms", "After block 3 the longest patch token"),
        ("lens", "After block 3 the classifier would give"),
        ("attention", "Class token, block 3, mean"),
    ):
        choose(page, "show", show)
        expect(page, starts)
    choose(page, "colours", "shared")
    choose(page, "picture", "coffee")
    page.locator(".dtl-panel tr", has_text="patch (3, 7)").wait_for()
    page.wait_for_function(
        "share => document.querySelector('.dtl-panel td').innerText === share",
        arg=f"{row(reg4, 3, photo='coffee')[0][5 + 3 * 8 + 7]:.1%}",
    )
    agrees(page, "Class token, block 3, mean", reg4, 3, patch=(3, 7), photo="coffee")

    choose(page, "beside it", late)
    page.locator(".dtl-panel").nth(1).wait_for()
    assert "enters at block 6" in expect(page, "Cls", panel=1)
    page.locator(".widget-play button").nth(0).click()
    agrees(page, "Class token, block 11, mean", late, 11, patch=(3, 7), photo="coffee", panel=1)
    assert "no block 11" in expect(page, "There is", panel=0)


def test_the_overlay_moves_the_colours_and_no_number(page):
    source = page.locator(".dtl-panel img").nth(1).get_attribute("src")
    before = numbers(page, 1)
    slider(page, "overlay").focus()
    page.keyboard.press("Home")
    page.wait_for_function("old => document.querySelectorAll('.dtl-panel img')[1].src !== old", arg=source)
    assert numbers(page, 1) == before


@pytest.mark.parametrize("name", WIDGET)
def test_each_control_by_keys_and_by_pointer(untouched, name):
    def by_keys(page):
        page.focus(".dtl-start")
        if name != "upload":
            return WIDGET[name].by_keys(page)
        with page.expect_file_chooser() as chooser:
            WIDGET[name].by_keys(page)
        return chooser.value.set_files([MINE])

    WIDGET[name].moves(untouched, by_keys if untouched.way == "keys" else WIDGET[name].by_pointer)


def test_there_is_no_other_control(untouched):
    assert unknown(untouched, ".jp-OutputArea", [*WIDGET.values(), Control(".dtl-start")]) == []
    assert all(untouched.locator(row.every).count() for row in WIDGET.values())
    untouched.focus("[data-name=block] [role=slider]")
    named = ".dtl-box :is([role=slider], .widget-readout, button, .frame)"
    unnamed = "all => all.filter((e) => !e.ariaLabel && !e.textContent.trim()).map((e) => e.outerHTML)"
    assert untouched.locator(named).evaluate_all(unnamed) == []


def test_uploads_are_pictures_or_one_line(page):
    def upload(name, content):
        with page.expect_file_chooser() as chooser:
            page.locator(".widget-upload").click()
        chooser.value.set_files([{"name": name, "mimeType": "image/png", "buffer": content}])

    upload("notes.png", b"no picture at all")
    page.locator("[role=alert]", has_text="not an image").wait_for()
    noise = np.random.default_rng(0).integers(0, 256, (1400, 2200, 3), np.uint8)
    upload("large.png", file_of(Image.fromarray(noise))[:8_900_000])  # as much as may be sent, and cut short
    page.locator("[role=alert]", has_text="cut short").wait_for()
    upload("mine.png", file_of(Image.new("RGBA", (90, 60), (255, 0, 0, 128))))
    page.locator("select", has=page.locator("option", has_text="mine.png")).wait_for()
    page.wait_for_function("() => !document.querySelector('.jp-OutputArea [role=alert]')")
    assert page.get_by_label("picture", exact=True).input_value() == "mine.png"
    assert page.locator(".jp-RenderedText[data-mime-type*=stderr]").count() == 0


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_text_can_be_read_in_either_theme(page, theme):
    page.evaluate("name => { jupyterapp.commands.execute('apputils:change-theme', {theme: name}); }", theme)
    page.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")
    ratio = """e => {
        const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m[3] === 0 ? null : m.slice(0, 3); };
        const light = c => c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
        const ground = e => e ? parse(getComputedStyle(e).backgroundColor) ?? ground(e.parentElement) : [255, 255, 255];
        const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
        return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    }"""
    for part in ("figcaption", "[role=status]", "td", ".scale span"):
        assert page.locator(f".dtl-panel {part}").last.evaluate(ratio) > 4.5, part
