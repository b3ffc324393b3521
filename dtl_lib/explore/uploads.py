"""A reader's own picture, as a browser sends it."""

import io
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

from ..checks import one_line, shortened
from ..data.decoding import decode

LARGEST = 9_000_000  # bytes: Jupyter's connection to the kernel closes on a message of more than ten million
PIXELS = 60_000_000  # more than most cameras have
SIDE = 1_024  # pixels of the longer side that are kept: a model sees a few hundred


def open_upload(name: str, content: bytes) -> np.ndarray:
    """The picture in the bytes of a file, uint8 (height, width, 3): upright, on white, its longer side at most `SIDE`.

    Args:
        name: of the file, for errors.
        content: its bytes.

    Raises:
        ValueError: where it is empty, too large, damaged, or no picture, in one line.
    """
    name = shortened(one_line(name)) if name else "the file"
    if not content:
        raise ValueError(f"{name} is empty: choose a picture such as a .jpg or .png")
    if len(content) > LARGEST:
        mega = f"{len(content) / 1e6:.1f} MB"
        raise ValueError(f"{name} is {mega}, and at most {LARGEST / 1e6:.0f} MB can be read: make it smaller")
    image = decode(io.BytesIO(content), name, upright=True, most=PIXELS)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def uploaded(value) -> list[tuple[str, bytes]]:
    """Names and bytes of the files in a `FileUpload`: ipywidgets 8 holds dictionaries with a view of memory, ipywidgets
    7, which Colab has, a dictionary by name."""
    if isinstance(value, Mapping):
        return [(str(name), bytes(file["content"])) for name, file in value.items()]
    files: Iterable = value
    return [(str(file["name"]), bytes(file["content"])) for file in files]
