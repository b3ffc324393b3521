"""What is imported is declared, what is declared is imported, and the two lists of it agree."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[2]
OURS = {"dtl_lib", "book", "tests"}
# Each is run, or loaded by another under a name of its own.
NOT_IMPORTED = {
    "scikit-learn": "the probes of chapters 15 and 19",
    "scikit-image": "its wheel holds the photos; their files are read",
    "tensorboard": "torch.utils.tensorboard writes with it",
    "onnx": "dtl export, by importlib; optional",
    "onnxscript": "torch.onnx.export writes with it; optional",
    "onnxruntime": "dtl export, by importlib; optional",
    "jupyter-book": "`make book` runs it",
    "sphinx-mathjax-offline": "_config.yml names it",
    "sphinxcontrib-bibtex": "_config.yml names it",
    "ipykernel": "the chapters run in it",
    "setuptools": "the build backend of pyproject.toml",
    "pytest-timeout": "pyproject.toml: timeout",
    "pytest-xdist": "pytest -n 2",
    "nbval": "pytest --nbval-lax",
    "ruff": "`make lint` runs it",
    "axe-playwright-python": "tests/web/test_accessibility.py asks for its axe.min.js by pytest.importorskip",
    "jupyterlab": "tests/web/lab.py starts it",
    "notebook": "tests/web/lab.py starts it",
    "playwright": "the fixtures of tests/web ask for it by pytest.importorskip",
}


def normal(name: str) -> str:
    """A distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(lines) -> dict[str, str]:
    """The range by name."""
    parts = [re.fullmatch(r"([\w.-]+)(.*)", line.split("#")[0].strip()) for line in lines]
    return {normal(part[1]): part[2] for part in parts if part}


PROJECT = declared(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
REQUIREMENTS = declared((ROOT / "requirements.txt").read_text().splitlines())


def modules(source: str) -> set[str]:
    """Top-level names that a source imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - OURS


def imported(folder: str) -> set[str]:
    """The distributions that a folder's code imports."""
    sources = [path.read_text("utf8") for path in (ROOT / folder).rglob("*.py")]
    for path in (ROOT / folder).glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        sources.append("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    known = packages_distributions()
    return {normal(known[name][0]) if name in known else name for name in set().union(*map(modules, sources))}


def test_what_the_library_imports_is_declared():
    optional = {"datasets"}  # for `--data hfds/…` alone, which says so where it is missing
    assert imported("dtl_lib") - optional <= set(PROJECT)


@pytest.mark.parametrize("folder", ["dtl_lib", "book", "tests", "notebooks"])
def test_what_is_imported_is_in_the_requirements(folder):
    found = imported(folder)
    assert "torch" in found and found <= set(REQUIREMENTS), found - set(REQUIREMENTS)


def test_what_is_declared_is_imported_or_run():
    found = imported("dtl_lib") | imported("notebooks")
    assert set(PROJECT) - found <= set(NOT_IMPORTED)
    found |= imported("book") | imported("tests")
    assert set(REQUIREMENTS) - found <= set(NOT_IMPORTED)
    assert set(NOT_IMPORTED) <= set(REQUIREMENTS)


def test_the_ranges_agree():
    assert {name: REQUIREMENTS.get(name) for name in PROJECT} == PROJECT


def test_what_is_optional_is_in_the_requirements_for_the_tests():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {name: REQUIREMENTS.get(name) for name in declared(extras["onnx"])} == declared(extras["onnx"])


def test_every_range_says_where_it_begins():
    """The oldest versions can then be installed, and are in the workflow."""
    assert all(re.match(r">=\d|==\d", given) for given in REQUIREMENTS.values())
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]["test"]
    resolutions = [job["resolution"] for job in jobs["strategy"]["matrix"]["include"]]
    assert resolutions == ["lowest-direct", "highest"]
    assert any("--resolution ${{ matrix.resolution }}" in step.get("run", "") for step in jobs["steps"])


def test_an_import_that_is_not_declared_would_be_seen():
    assert modules("import torch.nn, os\ndef f():\n    from yaml import load\n    from . import x") == {"torch", "yaml"}
