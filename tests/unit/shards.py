"""Tar files for tests."""

import io
import tarfile
from pathlib import Path


def pack(path: Path, files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> None:
    """A tar of these files, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), 1.5  # no whole number: a pax header for every member
            tar.addfile(entry, io.BytesIO(content))
