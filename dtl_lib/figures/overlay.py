"""A map laid over its image: the image in grey under the map's colours."""

from functools import lru_cache

import numpy as np
from matplotlib import colormaps
from PIL import Image

from .style import MAP, array

PIXELS = 224, 448  # the longer side of a photo under a map, at least and at most
OPACITY = 0.62  # of the colours; the rest is the image in grey


def overlay(image, values, high: float, opacity: float = OPACITY) -> np.ndarray:
    """An image in grey under a map's colours, from 0 to `high`; values above have the colour of `high`.

    The map is interpolated linearly between the middles of its patches, whose grid covers the whole image.

    Args:
        image: uint8 (height, width, 3).
        values: (rows, columns), not negative.
        high: the value where the colours end.
        opacity: of the colours, 0 to 1; the rest is the image in grey.

    Returns:
        uint8 (height, width, 3).
    """
    fine = Image.fromarray(np.asarray(array(values), np.float32)).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    steps = np.clip(np.asarray(fine) * (255 / high if high > 0 else 0), 0, 255).astype(np.uint8)
    colours, shades = _tables(opacity)
    coloured = Image.fromarray(steps)
    coloured.putpalette(colours)  # Pillow looks colours up in a tenth of the time that colours[steps] takes
    shade = Image.fromarray(image).convert("L").point(shades)
    return np.asarray(coloured.convert("RGB")) + np.asarray(Image.merge("RGB", [shade] * 3))


def enlarged(image, least: int, most: int) -> np.ndarray:
    """An image whose longer side has from `least` to `most` pixels: small ones keep their pixels as squares."""
    longest = max(image.shape[:2])
    if least <= longest <= most:
        return image
    factor = -(-least // longest) if longest < least else most / longest
    size = [max(1, round(length * factor)) for length in image.shape[1::-1]]
    method = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize(size, method))


def scale_colours() -> np.ndarray:
    """The colours of a scale from its beginning to its end, uint8 (256, 3)."""
    return np.rint(colormaps[MAP](np.arange(256))[:, :3] * 255).astype(np.uint8)


@lru_cache
def _tables(opacity: float) -> tuple[bytes, list[int]]:
    """What each of 256 values and each of 256 greys adds to a pixel, together at most 255, as Pillow takes them."""
    colours, shades = scale_colours() * opacity, np.arange(256) * (1 - opacity)
    return np.floor(colours).astype(np.uint8).tobytes(), np.floor(shades).astype(int).tolist()
