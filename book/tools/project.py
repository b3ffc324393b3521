"""Where things are, and what `_config.yml` says about the project's address."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]

FIRST_CELL = """\
# In Colab this installs the book's library; elsewhere it finds it and does nothing.
import importlib.util, os, subprocess, sys

if importlib.util.find_spec("dtl_lib") is None:
    address = "git+{address}"
    source = os.environ.get("DTL_REPO", address)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)
    importlib.invalidate_caches()"""
BADGE = "[Open this chapter in Colab]({url})"


@dataclass(frozen=True)
class Project:
    """A checkout of the book: the folder that holds `_config.yml`."""

    root: Path = ROOT

    @cached_property
    def config(self) -> dict:
        """`_config.yml`, parsed."""
        return yaml.safe_load((self.root / "_config.yml").read_text("utf8"))

    @property
    def address(self) -> str:
        """The repository's public address, without a slash at the end."""
        return self.config["repository"]["url"].rstrip("/")

    @property
    def first_cell(self) -> str:
        """What the first code cell of every notebook says."""
        return FIRST_CELL.format(address=self.address)

    def colab(self, notebook: Path) -> str:
        """The address that opens a notebook in Colab."""
        repository = self.address.removeprefix("https://github.com/")
        branch = self.config["repository"]["branch"]
        return f"https://colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{notebook.name}"

    def badge(self, notebook: Path) -> str:
        """The line under a notebook's title that opens it in Colab."""
        return BADGE.format(url=self.colab(notebook))

    @property
    def notebooks(self) -> list[Path]:
        """The chapters, in order."""
        return sorted((self.root / "notebooks").glob("[0-9]*.ipynb"))

    @property
    def built(self) -> Path:
        """Everything made goes here."""
        return self.root / "_build"

    def key(self, notebook: Path) -> str:
        """A hash of all that decides a notebook's outputs: the library, the requirements and the notebook's code."""
        digest = hashlib.sha256()
        for path in [*self._library, self.root / "requirements.txt"]:
            digest.update(f"{path.relative_to(self.root)}\0".encode() + path.read_bytes())
        for cell in read(notebook).cells:
            if cell.cell_type == "code":
                digest.update(f"\0{cell.source}".encode())
        return digest.hexdigest()

    @cached_property
    def _library(self) -> list[Path]:
        paths = (self.root / "dtl_lib").rglob("*")
        return sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)


def read(path: Path):
    """A notebook, as nbformat 4."""
    return nbformat.read(path, as_version=4)
