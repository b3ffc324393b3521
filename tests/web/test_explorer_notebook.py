"""The explorer in Notebook 7: it is drawn, and answers to the pointer and to keys."""

import re

import numpy as np
import pytest

from dtl_lib import data, load_pretrained
from dtl_lib.explore import State, explore
from tests.web.lab import jupyter, opened

NAME = "zoo/shapes_depth6_reg4"


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    pytest.importorskip("anywidget", reason="anywidget is not installed: the panels are plain widgets")
    cell = f"from dtl_lib import Explorer\nExplorer('{NAME}', ['chelsea', 'coffee'])"
    with jupyter(tmp_path_factory.mktemp("notebook"), "notebook", explorer=[cell]) as address:
        with opened(browser, address.format("explorer")) as page:
            yield page


def test_it_is_drawn_and_answers(page):
    model, photo = load_pretrained(NAME), data.photo("chelsea")

    def shows(state, photo=photo):
        view = explore(model, photo, state)
        sentence = page.locator(".dtl-panel [role=status]")
        sentence.filter(has_text=re.compile("^" + re.escape(view.sentence) + "$")).wait_for()
        assert np.isclose(page.locator(".dtl-panel img").evaluate("image => image.naturalHeight"), 224)

    shows(State())
    page.locator(".widget-slider", has_text="block").locator("[role=slider]").focus()
    page.keyboard.press("ArrowRight")
    shows(State(1))
    frame = page.locator(".dtl-panel .frame")
    box = frame.bounding_box()
    frame.click(position={"x": box["width"] * 5.5 / 8, "y": box["height"] * 2.5 / 8})
    shows(State(1, query="patch:2,5"))
    page.keyboard.press("ArrowDown")
    shows(State(1, query="patch:3,5"))
    page.get_by_label("picture", exact=True).focus()
    page.keyboard.press("ArrowDown")  # the list's key, and not a command on cells
    shows(State(1, query="patch:3,5"), data.photo("coffee"))
