"""Small notebooks to plant mistakes in."""

import nbformat
import pytest
from nbformat import v4

from book.tools.project import ROOT, Project


def code(source: str, *tags: str, **metadata):
    """A code cell."""
    return v4.new_code_cell(source, metadata={**({"tags": list(tags)} if tags else {}), **metadata})


def markdown(source: str):
    """A Markdown cell."""
    return v4.new_markdown_cell(source)


@pytest.fixture
def notebook():
    """Makes a notebook from cells; a string is a code cell."""
    return lambda *cells: v4.new_notebook(cells=[code(cell) if isinstance(cell, str) else cell for cell in cells])


@pytest.fixture
def project(tmp_path):
    """A checkout with this project's configuration and no chapter; `add(name, notebook)` writes one."""
    for folder in ("notebooks", "book", "dtl_lib/ledger"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("_config.yml", "requirements.txt", "book/references.bib"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf8"), "utf8")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n")
    (tmp_path / "dtl_lib" / "part.py").write_text("value = 1\n")
    return Project(tmp_path)


@pytest.fixture
def add(project):
    """Writes a notebook into the project's chapters."""

    def write(name, notebook):
        path = project.root / "notebooks" / name
        nbformat.write(notebook, str(path))
        return path

    return write
