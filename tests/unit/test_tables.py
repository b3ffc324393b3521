"""A table reads the same as text and as HTML."""

import xml.etree.ElementTree as ElementTree

import pytest

from dtl_lib.figures import table

ROWS = [("1 a <b> & c", 12.5, "+0.1 ± 0.2"), ("d", 7, "−1.0 ± 0.3")]
HEADER = ("what", "GB/s", "points")


def cells(shown, tag):
    return [(cell.text, cell.get("style")) for cell in ElementTree.fromstring(shown._repr_html_()).iter(tag)]


def test_every_cell_and_header_is_in_both_and_escaped():
    shown = table(ROWS, HEADER)
    expected = [str(cell) for row in ROWS for cell in row]
    assert [text for text, _ in cells(shown, "td")] == expected
    assert [text for text, _ in cells(shown, "th")] == list(HEADER)
    assert "<b>" not in shown._repr_html_()
    head, first, second = str(shown).splitlines()
    assert head.split() == list(HEADER)
    assert first.startswith("1 a <b> & c  12.5") and second.endswith("7  −1.0 ± 0.3")


def test_columns_of_text_line_up():
    assert str(table([("x", "1"), ("long", "1,000")], ("a", "b"))) == "a         b\nx         1\nlong  1,000"


def test_words_wrap_and_numbers_stand_right():
    styles = [style for _, style in cells(table(ROWS, HEADER), "td")]
    assert ["right" in style for style in styles] == [False, True, True] * 2
    assert ["nowrap" in style for style in styles] == [False, True, True] * 2


def test_a_note_stands_below_and_alone_where_there_are_no_rows():
    assert str(table(ROWS, HEADER, "on <two> cores")).splitlines()[-1] == "on <two> cores"
    assert "&lt;two&gt;" in table(ROWS, HEADER, "on <two> cores")._repr_html_()
    assert str(table([], [], "nothing")) == "nothing" and "<table" not in table([], [], "nothing")._repr_html_()


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 cells, and the header 1"):
        table([("a", "b")], ("one",))


@pytest.mark.parametrize(
    "written, shown",
    [
        ("-3.5", "−3.5"), ("+0.2, -0.3", "+0.2, −0.3"), ("(-1", "(−1"), ("× -2", "× −2"), ("-.5", "−.5"),
        ("-0.00", "0.00"), ("-0", "0"), ("-0.05", "−0.05"), ("-0.0, -0.1", "0.0, −0.1"), ("-0.0e-5", "−0.0e-5"),
        ("1e-05", "1e-5"), ("-1e-05 … 2e+08", "−1e-5 … 2e+8"), ("1e-10", "1e-10"), ("1e-5", "1e-5"),
        ("2026-11-27", "2026-11-27"), ("0.1-0.2", "0.1-0.2"), ("ViT-Ti/16", "ViT-Ti/16"), ("int-8", "int-8"),
        ("the e-05", "the e-05"), ("--jobs 1", "--jobs 1"), ("", ""),
    ],
)  # fmt: skip
def test_a_page_has_a_minus_and_no_padding_and_the_text_stays_as_it_was(written, shown):
    row = table([(written,)], ("a",))
    assert [text or "" for text, _ in cells(row, "td")] == [shown]
    assert written in str(row)
