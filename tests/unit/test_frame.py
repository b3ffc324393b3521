"""What the book's frame makes of a page: marked terms, a description, names for the sidebar's toggles."""

import pytest
from docutils import nodes
from docutils.core import publish_doctree

from book.tools import frame

TERMS = {"token", "class token", "patch", "IoU", "register"}


@pytest.mark.parametrize(
    "text, found",
    [
        ("Registers and patches", ["Registers", "patches"]),
        ("the class token, a token", ["class token", "token"]),
        ("tokenise, non-register, IOU, registered", []),
        ("an IoU of .5", ["IoU"]),
    ],
)
def test_terms_are_found_whole(text, found):
    assert [match[0] for match in frame.pattern(TERMS).finditer(text)] == found
    for word in found:
        assert any(term in TERMS for term in frame._singular(word))


def test_prose_is_what_no_title_code_or_link_holds():
    doctree = publish_doctree(
        "Title\n=====\n\nplain *soft* **strong** ``code`` `link <https://example.org>`_\n\n::\n\n  code"
    )
    prose = [str(text).strip() for text in doctree.findall(nodes.Text) if frame._is_prose(text)]
    assert [text for text in prose if text] == ["plain", "soft"]


def test_a_page_is_described_by_its_question():
    doctree = publish_doctree("First paragraph.\n\n  **The question.** Why is\n  that so?\n")
    assert frame.describe(doctree) == "First paragraph."
    quote = next(iter(doctree.findall(nodes.block_quote)))
    quote["classes"] += ["box", "the-question"]
    doctree.insert(0, quote.deepcopy())
    assert frame.describe(doctree) == "Why is that so?"
    assert len(frame.describe(publish_doctree("word " * 100))) <= 200


def test_toggles_are_named_once():
    text = '<a href="x">API</a><details><summary><span class="toctree-toggle"></span></summary></details>'
    named = frame.TOGGLE.sub(lambda found: f'{found[1]} aria-label="{found[2]}"{found[3]}', text)
    assert '<summary aria-label="API"><span' in named and not frame.TOGGLE.search(named)


def test_cards_differ_by_what_they_say(tmp_path):
    for name, title in (("a", "One"), ("b", "Two"), ("c", "A very long title " * 8)):
        frame.card(title, "What is it? " * 20, "The book", tmp_path / f"{name}.png")
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in "abc"}) == 3
