"""The files of stored results: opened, or refused in one line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open


@contextmanager
def opened(file: Path, command: str) -> Iterator:
    """Inside, the open file, as `safetensors.safe_open` gives it.

    Args:
        file: where the result is stored.
        command: what writes it again.

    Raises:
        ValueError: where it is not there, or something that is read inside is missing or damaged.
    """
    if not file.is_file():
        have = ", ".join(sorted(path.stem for path in file.parent.glob("*.safetensors"))) or "nothing"
        raise ValueError(f"no result {file.stem!r} is stored in {file.parent}; there is {have}")
    try:
        with safe_open(file, "pt") as content:
            yield content
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is damaged ({error}): `{command}` writes it again") from None
