"""A notebook where torch and its friends are but `dtl_lib` is not, in another folder: as in Colab.

The machine's packages are seen through a folder of links that leaves `dtl_lib` out; a fresh virtual environment on top
of it takes what pip installs. No package index is reachable, so that pip can only add the library itself.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from book.tools.project import ROOT, Project

UNTOUCHED = ("torch", "torchvision", "ipywidgets")
RUN = """
import nbclient, nbformat, sys
notebook = nbformat.read(sys.argv[1], as_version=4)
check = "import dtl_lib, sys; assert dtl_lib.__file__.startswith(sys.prefix), dtl_lib.__file__"
notebook.cells.append(nbformat.v4.new_code_cell(check))
nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
"""
WHERE = "import dtl_lib, pathlib; print(pathlib.Path(dtl_lib.__file__).parent)"


@pytest.fixture(scope="module")
def packages():
    """The folder of this environment's packages."""
    import torch

    return Path(torch.__file__).parents[1]


@pytest.fixture(scope="module")
def colab(tmp_path_factory, packages):
    """A Python that has every package of this environment but the library."""
    base = tmp_path_factory.mktemp("colab")
    (base / "image").mkdir()
    for path in packages.iterdir():
        if "dtl" not in path.name.lower() and path.suffix != ".pth":
            (base / "image" / path.name).symlink_to(path)
    venv.create(base / "python", symlinks=True)
    python = base / "python" / "bin" / "python"
    site = next((base / "python" / "lib").glob("python*/site-packages"))
    (site / "image.pth").write_text(f"{base / 'image'}\n")
    return python


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The working tree as a repository of its own, at a git+file address."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed: there is nothing to install from")
    clone = tmp_path_factory.mktemp("clone") / "book"
    listing = [
        "git",
        "ls-files",
        "-co",
        "--exclude-standard",
        "--",
        "dtl_lib",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout: there is nothing to install from")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name)
    (clone / "README.md").touch()
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "as it is"]):
        subprocess.run(["git", *command], cwd=clone, check=True)
    return f"git+file://{clone}"


def run(python, folder, *arguments, **environment):
    """Run this Python in `folder`, where the checkout is not on the path."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    clean |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([str(python), *map(str, arguments)], cwd=folder, env=clean, capture_output=True, text=True)


def fingerprint(packages: Path) -> dict[str, str]:
    """What pip knows of the packages that must stay as they are."""
    digests = {}
    for name in UNTOUCHED:
        (info,) = packages.glob(f"{name}-*.dist-info")
        digests[info.name] = hashlib.sha256((info / "RECORD").read_bytes()).hexdigest()
    return digests


@pytest.mark.slow
def test_a_chapter_runs_where_the_library_is_missing(colab, packages, repository, tmp_path):
    project = Project()
    if not project.notebooks:
        pytest.skip("there is no chapter yet")
    assert "No module named 'dtl_lib'" in run(colab, tmp_path, "-c", "import dtl_lib").stderr
    before = fingerprint(packages)
    (tmp_path / "first.py").write_text(project.first_cell)
    for _ in range(2):
        first = run(colab, tmp_path, "first.py", DTL_REPO=repository)
        assert first.returncode == 0, first.stderr
        installed = run(colab, tmp_path, "-c", WHERE).stdout.strip()
        assert installed.startswith(str(colab.parents[1])), installed
    chapter = shutil.copy(project.notebooks[0], tmp_path / "chapter.ipynb")
    ran = run(colab, tmp_path, "-c", RUN, chapter, DTL_REPO=repository)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert fingerprint(packages) == before
    site = next((colab.parents[1] / "lib").glob("python*/site-packages"))
    assert {path.name.split("-")[0] for path in site.glob("*.dist-info")} == {"dtl_lib"}


def test_the_first_cell_does_nothing_where_the_library_is(tmp_path):
    done = run(sys.executable, tmp_path, "-c", Project().first_cell, PYTHONPATH=str(ROOT), DTL_REPO="nowhere")
    assert done.returncode == 0, done.stderr


def test_the_first_cell_fails_loudly_where_the_address_is_wrong(colab, tmp_path):
    bare = tmp_path / "bare"
    code = "import sys; sys.modules.pop('dtl_lib', None); import importlib.util as u; u.find_spec = lambda name: None\n"
    done = run(colab, tmp_path, "-c", code + Project().first_cell, DTL_REPO=f"git+file://{bare}")
    assert done.returncode != 0
    assert "CalledProcessError" in done.stderr
