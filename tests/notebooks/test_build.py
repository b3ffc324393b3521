"""The whole build, on a book of one page and one chapter: fresh after a change, and a failure is a failure."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat import v4

from book.tools.project import ROOT

COPIED = ("_config.yml", "requirements.txt", "book/tools", "book/static", "book/references.bib", "dtl_lib/ledger.py")
COPIED += tuple(f"dtl_lib/{name}.py" for name in ("checks", "hashing", "host", "paths"))  # which the ledger imports
RECORDS = "dtl_lib/ledger/speed_of_data.jsonl"
CHAPTER = "notebooks/01_a.ipynb"


@pytest.fixture
def book(tmp_path):
    """A checkout of this book's tools around one chapter that prints a value of the library."""
    for name in (*COPIED, RECORDS):
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    (tmp_path / "dtl_lib" / "__init__.py").write_text('__version__ = "0"\n')
    (tmp_path / "dtl_lib" / "part.py").write_text('word = "first"\n')
    (tmp_path / "book" / "intro.md").write_text("# Intro\n\n[chapter](../notebooks/01_a.ipynb)\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/01_a\n")
    (tmp_path / "notebooks").mkdir()
    write(tmp_path, "from dtl_lib.part import word\n\nprint(word, 'word')")
    return tmp_path


def write(book, source, text="# A\n\nText."):
    """Write the chapter."""
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell(text), v4.new_code_cell(source)]), str(book / CHAPTER))


def build(book):
    """Build the book in a process of its own."""
    path = {"PYTHONPATH": str(book), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "book.tools.build"]
    return subprocess.run(command, cwd=book, env=os.environ | path, capture_output=True, text=True)


def page(book) -> str:
    """The chapter's page."""
    return (book / "_build/html/notebooks/01_a.html").read_text("utf8")


@pytest.mark.slow
def test_the_book_is_never_stale_and_never_quietly_broken(book):
    built = build(book)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "first word" in page(book)
    assert page(book).index("<h1>A") < page(book).index('class="measured"') < page(book).index("<p>Text.")

    again = build(book)
    assert again.returncode == 0
    assert "01_a.ipynb: Ran in" in built.stdout
    assert "01_a.ipynb: Ran in" not in again.stdout

    (book / "dtl_lib" / "part.py").write_text('word = "second"\n')
    assert build(book).returncode == 0
    assert "second word" in page(book)
    assert "first word" not in page(book)

    write(book, "def divide(x):\n    return 1 / x\n\n\ndivide(0)")
    failed = build(book)
    assert failed.returncode == 1
    assert "divide(0)" in failed.stderr
    assert "ZeroDivisionError" in failed.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# A\n\nAccuracy is 97.5 %.", "'97.5 %' is not in the output of a cell above"),
        ("# A\n\nSee [B](02_b.ipynb).", "cross-reference target not found"),
        (
            "# A\n\nIt makes 123.4 images/s ([record](../book/ledger.md#speed_of_data)).",
            "cell 1: '123.4 images/s' is not in ledger.md#speed_of_data, which has n, images_per_second",
        ),
        ("# A\n\nIt is 123.4 ([record](../book/ledger.md#speed_of_date)).", "no 'speed_of_date': one of speed_of_data"),
    ],
)
@pytest.mark.slow
def test_a_page_that_is_wrong_fails_the_build(book, text, message):
    write(book, "print(1)", text)
    failed = build(book)
    assert failed.returncode == 1
    assert message in failed.stdout + failed.stderr


@pytest.mark.slow
def test_a_page_whose_number_is_not_in_its_record_fails_the_build(book):
    (book / "book" / "page.md").write_text("# P\n\nIt makes 123.4 images/s ([record](ledger.md#speed_of_data)).\n")
    failed = build(book)
    assert failed.returncode == 1
    assert "book/page.md: '123.4 images/s' is not in ledger.md#speed_of_data" in failed.stderr


@pytest.mark.slow
def test_a_link_to_a_record_leads_into_its_section_of_the_ledger(book):
    identity = json.loads((book / RECORDS).read_text().splitlines()[-1])["id"]
    (book / "book" / "ledger.md").write_text("# L\n\n```{ledger}\n```\n")
    with open(book / "_toc.yml", "a") as contents:
        contents.write("  - file: book/ledger\n")
    write(book, "print(1)", f"# A\n\nSee [one](../book/ledger.md#{identity}), [all](../book/ledger.md#speed_of_data).")
    built = build(book)
    assert built.returncode == 0, built.stdout + built.stderr
    ledger = (book / "_build/html/book/ledger.html").read_text("utf8")
    section = ledger[ledger.index("<details>") : ledger.index("</details>")]
    for target in (identity, "speed_of_data"):
        assert f'href="../book/ledger.html#{target}"' in page(book)
        assert section.index("</summary>") < section.index(f'id="{target}"')


@pytest.mark.slow
def test_rendering_without_running_first_is_refused(book):
    render = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", render, "build", ".", "-W", "-n", "-q"]
    failed = subprocess.run(
        command, cwd=book, env=os.environ | {"PYTHONPATH": str(book)}, capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert "no up-to-date outputs for 01_a.ipynb: build with 'make book'" in failed.stdout + failed.stderr
