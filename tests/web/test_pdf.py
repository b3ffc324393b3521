"""`make pdf`: what is folded is printed, links lead on, and one file holds all."""

import shutil
import subprocess
import sys

import pytest

from book.tools.project import ROOT, Project

pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed")
pdf = pytest.importorskip("book.tools.pdf")
ADDRESS = "https://example.org/book"
STYLE = (ROOT / "book" / "static" / "frame.css").read_text("utf8")
PAGE = """<!doctype html><html lang=en data-theme=light><title>{name}</title><style>{style}</style>
<nav class="bd-sidebar-primary">the sidebar</nav><article class="bd-article"><h1>{name}<a class="headerlink">#</a></h1>
<p><a href="{other}.html#there">to the other</a> <a href="#place">down</a></p>
<details><summary>Answer</summary><p>folded {name}</p></details>
<div class="highlight"><pre><code>{long}</code></pre></div><figure style="height: 150mm">a figure</figure>
<figure style="height: 150mm">another</figure><h2 id="place">A place</h2></article></html>"""


@pytest.fixture
def printed(browser, tmp_path):
    site, out = tmp_path / "site", tmp_path / "pdf"
    (site / "part").mkdir(parents=True)
    out.mkdir()
    long = " ".join(f"word{n}" for n in range(60))
    for name, other in (("first", "second"), ("second", "first")):
        text = PAGE.format(name=name, other=other, long=long, style=STYLE)
        (site / "part" / f"{name}.html").write_text(text, "utf8")
    return pdf.print_pages(browser, site, ["part/first", "part/second"], out, ADDRESS), out


def text_of(file):
    return [page.extract_text() for page in pypdf.PdfReader(file).pages]


def annotations(file):
    return [one.get_object() for page in pypdf.PdfReader(file).pages for one in page.get("/Annots", ())]


def test_a_page_is_printed_whole(printed):
    files, _ = printed
    assert list(files) == ["first", "second"]
    pages = text_of(files["first"])
    whole = " ".join(pages)
    assert "folded first" in whole and "the sidebar" not in whole
    assert all(f"word{n}" in whole for n in range(60)), "code is cut at the edge"
    assert len(pages) >= 2 and all(f"{n} / {len(pages)}" in " ".join(page.split()) for n, page in enumerate(pages, 1))
    assert not any("a figure" in page and "another" in page for page in pages), "a figure is cut"


def test_links_of_a_page(printed):
    uris = [str(one["/A"]["/URI"]) for one in annotations(printed[0]["first"]) if "/URI" in one.get("/A", {})]
    assert uris == [f"{ADDRESS}/part/second.html#there"]


def test_the_whole_is_one_file(printed):
    files, out = printed
    whole = pdf.merge(files, ["part/first", "part/second"], out / "book.pdf", ADDRESS, {"/Title": "A book"})
    reader, counts = pypdf.PdfReader(whole), [len(text_of(file)) for file in files.values()]
    assert len(reader.pages) == sum(counts) and reader.metadata.title == "A book"
    starts = [(item.title, reader.get_destination_page_number(item)) for item in reader.outline]
    assert starts == [("first", 0), ("second", counts[0])]
    assert not any("/URI" in one.get("/A", {}) for one in annotations(whole))
    numbers = {page.indirect_reference.idnum: n for n, page in enumerate(reader.pages)}
    arrays = [one["/Dest"] for one in annotations(whole) if isinstance(one.get("/Dest"), list)]
    across = [numbers[array[0].idnum] for array in arrays if str(array[1]) == "/Fit"]
    assert across == [counts[0], 0]
    named = [page for name, page in reader.named_destinations.items() if "place" in name]
    assert sorted(reader.get_destination_page_number(page) for page in named) == [counts[0] - 1, sum(counts) - 1]


def test_every_chapter_is_printed():
    names = pdf.pages(Project())
    assert names[0] == "book/intro" and len(names) == len(set(names))
    assert {f"notebooks/{path.stem}" for path in Project().notebooks} <= set(names)


def test_without_chromium_there_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "_build" / "html").mkdir(parents=True)
    (tmp_path / "_build" / "html" / "index.html").write_text("x")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert pdf.main(Project(tmp_path)) == 0
    assert capsys.readouterr().out.startswith("no PDF: none of chromium")


def test_without_a_book_there_is_one_line(tmp_path):
    code = (
        f"from pathlib import Path; from book.tools import pdf, project; "
        f"raise SystemExit(pdf.main(project.Project(Path({str(tmp_path)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "make book" in done.stderr
