"""The README's picture says what is stored."""

from dataclasses import replace

import numpy as np
from PIL import Image

from book.tools import readme_picture
from dtl_lib import stored

PHOTO = np.zeros((448, 448, 3), np.uint8)


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in [axis.title, *axis.texts]]


def test_numbers_are_the_stored_ones():
    result = stored.load("vit_tiny_chelsea")
    shown = texts(readme_picture.draw(result, PHOTO))
    for block in readme_picture.BLOCKS:
        assert f"up to {100 * result.class_maps[block].mean(dim=0).max():.1f} %" in shown
        assert any(f"max {result.patch_norms[block].max():.0f}" in text for text in shown)
    halved = replace(result, patch_norms=result.patch_norms / 2)
    assert texts(readme_picture.draw(halved, PHOTO)) != shown


def test_picture_is_small_and_wide_enough():
    assert readme_picture.FILE.stat().st_size <= 250_000
    with Image.open(readme_picture.FILE) as image:
        assert image.width >= 1500
