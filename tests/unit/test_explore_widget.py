"""The explorer's widget without a browser: each control, each upload, with anywidget and without."""

import io
import sys
import zlib
from datetime import UTC, datetime

import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image

from dtl_lib import Explorer, data, load_pretrained
from dtl_lib.explore import State, explore, open_upload, paint
from dtl_lib.explore.picture import PlainPanel
from dtl_lib.explore.uploads import LARGEST, PIXELS, SIDE, uploaded

NAMES = ["zoo/shapes_depth6_reg4", "zoo/shapes_depth12_cls6"]


@pytest.fixture(params=["anywidget", "plain"])
def explorer(request, monkeypatch):
    """Two models, two photos; drawn by anywidget where that is installed, and without it."""
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "anywidget", None)
    else:
        pytest.importorskip("anywidget", reason="anywidget is not installed: the panels are plain widgets")
    made = Explorer(NAMES, ["chelsea", "coffee"])
    assert isinstance(made._panels[0], PlainPanel) == (request.param == "plain")
    return made


def told(explorer, panel=0):
    """The sentence and the numbers of a panel, and its picture."""
    each = explorer._panels[panel]
    if isinstance(each, PlainPanel):
        return each.text.value, each.image.value
    numbers = " ".join(part for row in each.seen["numbers"] for part in row)
    return f"{each.seen['sentence']} {numbers}", each.png


def expected(explorer, *models, photo="chelsea"):
    """That the widget shows what `explore` gives for its state."""
    state = explorer.state
    views = explore([load_pretrained(name) for name in models or NAMES[:1]], data.photo(photo), state)
    assert len(explorer._pictures_shown.children) == len(views) == len(explorer.views)
    for number, view in enumerate(views):
        text, picture = told(explorer, number)
        assert view.sentence.replace("“", "") in text.replace("&#x27;", "'").replace("“", "")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture))), paint(view, state))
        if view.map is not None:
            np.testing.assert_array_equal(explorer.views[number].map, view.map)
        for value in view.others.values():
            assert f"{value:.1%}" in text or f"{value:.1f}" in text or f"{value:.2g}" in text
    return views


def test_every_control_changes_what_is_seen_to_what_explore_gives(explorer):
    before = expected(explorer)[0]
    for control, value in (
        ("block", 4),
        ("head", "2"),
        ("query", "reg:1"),
        ("overlay", 0.3),
        ("scale", "own"),
        ("show", "rollout"),
        ("show", "relevance"),
        ("show", "norms"),
        ("show", "lens"),
    ):
        getattr(explorer, control).value = value
        after = expected(explorer)[0]
        if control != "overlay":
            assert after.sentence != before.sentence, control
        before = after
    explorer.picture.value = "coffee"
    expected(explorer, photo="coffee")
    explorer.model.value = NAMES[1]
    expected(explorer, NAMES[1], photo="coffee")


def test_two_models_stand_side_by_side_on_one_scale(explorer):
    explorer.block.value = 5
    explorer.beside.value = NAMES[1]
    first, second = expected(explorer, *NAMES)
    assert second.map is None and "enters at block 6" in told(explorer, 1)[0]
    assert explorer.block.max == 11
    explorer.block.value = 8
    first, second = expected(explorer, *NAMES)
    assert first.map is None and "no block 8" in told(explorer, 0)[0]
    explorer.beside.value = "nothing"
    assert explorer.block.max == 5 and explorer.block.value == 5
    expected(explorer)


def test_the_player_moves_the_block(explorer):
    for block in range(6):
        explorer.play.value = block
        assert explorer.block.value == block and f"block {block}" in told(explorer)[0]
    assert explorer.play.max == 5


def choose(explorer, row, column):
    """As the panel's front does when a patch is clicked or reached by keys."""
    panel = explorer._panels[0]
    if isinstance(panel, PlainPanel):
        panel.row.value, panel.column.value = row, column
    else:
        panel.asked = [row, column, 1]


def test_a_chosen_patch_asks_and_its_number_is_told(explorer):
    explorer.block.value = 3
    choose(explorer, 4, 6)
    assert explorer.state.query == "patch:4,6" and explorer.query.value == "the chosen patch"
    (view,) = expected(explorer)
    assert view.sentence.startswith("Patch (4, 6), block 3") and f"{view.map[4, 6]:.1%}" in told(explorer)[0]
    explorer.query.value = "cls"
    (view,) = expected(explorer)
    assert f"{view.map[4, 6]:.1%}" in told(explorer)[0]
    explorer._panels[0].asked = [7]  # Escape
    assert explorer.query.value == "cls"


def test_controls_that_change_nothing_are_greyed(explorer):
    assert not explorer.head.disabled and not explorer.query.disabled
    explorer.show.value = "rollout"
    assert explorer.head.disabled and not explorer.query.disabled
    explorer.show.value = "norms"
    assert explorer.head.disabled and explorer.query.disabled


def test_a_state_can_be_set(explorer):
    wanted = State(2, 1, "patch:7,0", "attention", "own", 0.5)
    explorer.state = wanted
    assert explorer.state == wanted
    expected(explorer)


def picture_file(mode="RGB", size=(60, 40), form="PNG", **options):
    image = Image.new(mode, size, 200 if mode == "L" else (200, 90, 10, 0)[: len(mode)])
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def upload(explorer, name, content):
    """As this ipywidgets hands a file over."""
    if widgets.__version__.startswith("7."):
        explorer.upload.set_trait("value", {name: {"metadata": {"name": name}, "content": content}})
        return
    when = datetime.fromtimestamp(0, UTC)
    file = {"name": name, "type": "", "size": len(content), "content": memoryview(content), "last_modified": when}
    explorer.upload.value = (file,)


def turned():
    exif = Image.Exif()
    exif[274] = 6
    return picture_file(size=(60, 40), form="JPEG", exif=exif)


@pytest.mark.parametrize(
    ("content", "shape", "corner"),
    [
        (picture_file(), (40, 60, 3), (200, 90, 10)),
        (picture_file("L"), (40, 60, 3), (200, 200, 200)),
        (picture_file("RGBA"), (40, 60, 3), (255, 255, 255)),
        (turned(), (60, 40, 3), None),
        (picture_file(size=(3000, 200)), (68, SIDE, 3), (200, 90, 10)),
    ],
    ids=["colour", "grey", "transparent", "turned", "long"],
)
def test_an_upload_becomes_a_picture(explorer, content, shape, corner):
    upload(explorer, "mine.png", content)
    assert explorer.message.value == "" and explorer.picture.value == "mine.png"
    taken = explorer._pictures["mine.png"]
    assert taken.shape == shape and taken.dtype == np.uint8
    if corner:
        assert tuple(taken[0, 0]) == corner
    view = explore(load_pretrained(NAMES[0]), taken, explorer.state)
    np.testing.assert_array_equal(view.map, explorer.views[0].map)


def bomb():
    """A PNG of a few hundred bytes that says it has more pixels than are read."""
    content = bytearray(picture_file("L", (8, 8)))
    content[16:24] = (30_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.png", b"", "is empty"),
        ("notes.txt", b"no picture at all", "not an image"),
        ("cut.png", picture_file(size=(300, 300))[:200], "damaged or cut short"),
        ("heavy.png", b"x" * (LARGEST + 1), "at most 9 MB"),
        ("bomb.png", bomb(), "make it smaller"),
        ("large.png", picture_file("1", (10_000, PIXELS // 10_000 + 1)), "make it smaller"),
        ("page.pdf", b"%PDF-1.4 ...", "not an image"),
        ("a<b>.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    ],
)
def test_what_is_no_picture_is_one_line_in_the_widget(explorer, name, content, says, capfd):
    shown = told(explorer)
    upload(explorer, name, content)
    line = explorer.message.value
    assert says in line and line.count("<") == 2 and "\n" not in line and "Traceback" not in line
    assert explorer.picture.value == "chelsea" and told(explorer) == shown
    assert capfd.readouterr().err == ""
    upload(explorer, "good.png", picture_file())
    assert explorer.message.value == "" and explorer.picture.value == "good.png"


def test_two_uploads_of_one_name_are_two_pictures(explorer):
    upload(explorer, "chelsea", picture_file())
    upload(explorer, "chelsea", picture_file("L"))
    assert list(explorer.picture.options) == ["chelsea", "coffee", "chelsea (again)", "chelsea (again) (again)"]


def test_files_of_ipywidgets_7_are_read_too():
    """Colab has that version: a dictionary by name."""
    assert uploaded({"a.png": {"metadata": {}, "content": b"123"}}) == [("a.png", b"123")]
    assert uploaded(()) == [] and uploaded({}) == []
    with pytest.raises(ValueError, match="the file is empty"):
        open_upload("", b"")


def test_models_and_pictures_come_by_name_in_a_list_or_alone(tmp_path):
    model = load_pretrained(NAMES[0])
    Image.fromarray(data.photo("coffee")).save(tmp_path / "own.png")
    made = Explorer({"mine": model}, {"photo": data.photo("coffee"), "file": str(tmp_path / "own.png")})
    first = made.views[0].map
    made.picture.value = "file"
    np.testing.assert_array_equal(made.views[0].map, first)
    assert made.chosen == ["mine"]
    assert list(Explorer(model).picture.options)[:2] == ["chelsea", "coffee"]
    for wrong in ([], {}):
        with pytest.raises(ValueError, match="at least one model"):
            Explorer(wrong)
    with pytest.raises(ValueError, match="no zoo model|zoo"):
        Explorer("zoo/nothing")


def test_it_is_shown_with_a_picture_for_pages_without_a_kernel(explorer, monkeypatch):
    given = []
    monkeypatch.setattr("dtl_lib.explore.widget.display", lambda bundle, raw: given.append(bundle))
    explorer._ipython_display_()
    (bundle,) = given
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.box.model_id
    assert explorer.views[0].sentence in bundle["text/html"] and "data:image/png;base64" in bundle["text/html"]
    monkeypatch.setitem(sys.modules, "google.colab", object())
    explorer._ipython_display_()
    assert "text/html" not in given[1]  # there the widget is to be drawn


def test_every_control_has_a_name(explorer):
    controls = [value for value in vars(explorer).values() if isinstance(value, widgets.DOMWidget)]
    named = [each for each in controls if hasattr(each, "description")]
    assert len(named) == 12 and all(each.description for each in named if not isinstance(each, widgets.HTML))
