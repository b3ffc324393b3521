"""Frames of a video of maps: the photo and maps over it side by side, their names, and one scale below."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .overlay import overlay, scale_colours

LARGEST = 2160, 3840  # pixels of a frame, height and width, that players show smoothly
WIDE = 16 / 9  # what the shape of a grid comes near to
GAP = 4  # pixels between panels
LEGIBLE = 96  # pixels of a panel's height from which on it has a name


class FrameLayout:
    """Where the panels of a frame are, and what is written on them: the same for every frame of a video.

    Args:
        size: height and width of the photos, in pixels.
        titles: one a map.
        high: where the one scale of all maps and frames ends; values above have its last colour, as "≥" says.
        caption: what the maps are, written under the panels.
        photo: whether the photo stands before the maps. One map without a photo is the whole frame, with nothing
            written on or under it.
    """

    def __init__(self, size: tuple[int, int], titles: Sequence[str], high: float, caption: str, photo: bool):
        self.high, self.photo = high, photo
        self.titles = ["frame", *titles] if photo else [*titles]
        self.columns, self.rows = _grid(len(self.titles), size)
        room = LARGEST[0] / self.rows, LARGEST[1] / self.columns
        scale = min(1.0, *(space / length for space, length in zip(room, size)))
        self.panel = tuple(max(1, round(length * scale)) for length in size)
        self.corners, self.empty = [(0, 0)], None
        if len(self.titles) > 1:
            self.corners, self.empty = self._without_panels(caption, letters=max(11, min(28, self.panel[0] // 16)))

    def draw(self, photo: np.ndarray, maps: Sequence[np.ndarray]) -> np.ndarray:
        """A frame, uint8 (height, width, 3).

        Args:
            photo: uint8 (height, width, 3).
            maps: each (rows, columns), not negative.
        """
        if photo.shape[:2] != self.panel:
            photo = np.asarray(Image.fromarray(photo).resize(self.panel[::-1], Image.Resampling.BILINEAR))
        pictures = [photo] * self.photo + [overlay(photo, values, self.high) for values in maps]
        if self.empty is None:
            return pictures[0]
        frame, (height, width) = self.empty.copy(), self.panel
        for (top, left), picture in zip(self.corners, pictures):
            frame[top : top + height, left : left + width] = picture
        return frame

    def _without_panels(self, caption: str, letters: int) -> tuple[list[tuple[int, int]], np.ndarray]:
        """Where each panel begins, and a frame with their names and the footer alone."""
        height, width = self.panel
        names = [_strip(title, width, letters) for title in self.titles if height >= LEGIBLE]
        above = len(names[0]) if names else 0
        down, across = above + height + GAP, width + GAP
        footer = _footer(self.columns * across - GAP, self.high, caption, letters)
        frame = np.zeros((self.rows * down - GAP + len(footer), self.columns * across - GAP, 3), np.uint8)
        frame[-len(footer) :] = footer
        corners = [(above + at // self.columns * down, at % self.columns * across) for at in range(len(self.titles))]
        for (top, left), name in zip(corners, names):
            frame[top - above : top, left : left + width] = name
        return corners, frame


def _grid(count: int, size: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows whose shape comes near to `WIDE`; two stand side by side."""
    if count == 2:
        return 2, 1
    shape = {columns: columns * size[1] / (-(-count // columns) * size[0]) for columns in range(1, count + 1)}
    columns = min(shape, key=lambda columns: abs(math.log(shape[columns] / WIDE)))
    return columns, -(-count // columns)


def _strip(title: str, width: int, pixels: int) -> np.ndarray:
    """A title above a panel, white on black."""
    image = Image.new("RGB", (width, pixels * 3 // 2))
    ImageDraw.Draw(image).text((pixels // 2, pixels * 3 // 4), title, "white", _font(pixels), anchor="lm")
    return np.asarray(image)


def _footer(width: int, high: float, caption: str, pixels: int) -> np.ndarray:
    """The scale of colours with its ends, and the caption; the text is made smaller until it fits."""
    image = Image.new("RGB", (width, pixels * 2))
    draw, ends, bar = ImageDraw.Draw(image), ("0", f"≥ {high:.2g}"), width // 5
    for size in range(pixels, 6, -1):
        font = _font(size)
        left, right = (font.getlength(end) + size // 2 for end in ends)
        if size + left + bar + right + size + font.getlength(caption) + size <= width:
            break
    else:
        caption = ""
    middle, start = pixels, round(size + left)
    draw.text((size, middle), ends[0], "white", font, anchor="lm")
    colours = scale_colours()[np.linspace(0, 255, bar).astype(int)]
    image.paste(Image.fromarray(np.repeat(colours[None], size, axis=0)), (start, middle - size // 2))
    draw.text((start + bar + size // 2, middle), ends[1], "white", font, anchor="lm")
    draw.text((width - size, middle), caption, "white", font, anchor="rm")
    return np.asarray(image)


def _font(pixels: int) -> ImageFont.FreeTypeFont:
    """The font of all figures; it comes with matplotlib."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", pixels)
