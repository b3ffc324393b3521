"""CIFAR-10 from a path: the files of its python version, or a folder whose script `unpack.py` lays them out."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from dtl_lib.host import data_folder
from dtl_lib.paths import user_path

FILES, BATCH, SCRIPT = "cifar-10-batches-py", "data_batch_1", "unpack.py"
SECONDS = 90  # that unpacking may take


class Cifar:
    """Where CIFAR-10 is.

    Args:
        path: what the user gave; DTL_DATA where None.
        stack: unpacked files are deleted when it closes.

    Attributes:
        is_there: whether there is anything to read. It is never downloaded.

    Raises:
        ValueError: where a path was given that holds neither the files nor a script.
    """

    def __init__(self, path: str | None, stack: ExitStack):
        self._stack, self._error = stack, None
        root = user_path(path) if path else data_folder()
        above = (root, root / "cifar10", root / "CIFAR10")
        self._folder = next((folder for folder in above if _holds(folder)), None)
        scripts = (folder / SCRIPT for folder in (root, root / "data"))
        self._script = next((script for script in scripts if script.is_file()), None)
        self.is_there = bool(self._folder or self._script)
        if path and not self.is_there:
            raise ValueError(f"--data-path {path}: neither {FILES}/{BATCH} nor {SCRIPT} is there, nor data/{SCRIPT}")

    def __str__(self) -> str:
        return f"CIFAR-10: {self._folder or self._script or 'not given, and parts 3 to 7 need it (--data-path)'}"

    def folder(self) -> Path:
        """What to give `data.load("cifar10", path)`; also the environment's DTL_DATA, which other processes go by.

        Raises:
            ValueError: where it is not there or cannot be unpacked; the second time without trying again.
        """
        if self._error:
            raise ValueError(self._error)
        if self._folder is None:
            try:
                self._folder = unpacked(self._script, self._stack)
            except ValueError as error:
                self._error = str(error)
                raise
        os.environ["DTL_DATA"] = str(self._folder)
        return self._folder


def unpacked(script: Path | None, stack: ExitStack) -> Path:
    """What a script lays out, in a folder that lasts until the stack closes."""
    if script is None:
        raise ValueError("there is no CIFAR-10: give --data-path")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cifar10-")))
    command = [sys.executable, str(script.resolve()), str(folder)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{script} has not ended after {SECONDS} s") from None
    if ran.returncode or not _holds(folder):
        said = (ran.stderr or ran.stdout).strip().splitlines() or [f"it made no {FILES}"]
        raise ValueError(f"{script} did not lay out CIFAR-10: {said[-1]}")
    return folder


def _holds(folder: Path) -> bool:
    return (folder / FILES / BATCH).is_file() or (folder / BATCH).is_file()
