"""The Python on the book's pages runs as it stands: every block of a page, in order, in an empty folder."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

BOOK = Path(__file__).resolve().parents[2] / "book"
PAGES = [*sorted((BOOK / "api").glob("*.md")), BOOK / "how_to.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.slow
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    blocks = BLOCK.findall(page.read_text("utf8"))
    assert blocks, "an example that runs is needed: a fenced python block"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DTL_DATA", raising=False)
    names = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    plt.close("all")
