"""What the weights of the first layer hold: filters, and positions as a grid of grids."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from .style import ABSENT, MAP, SIGNED, WIDTH, array, styled

GAP = 8  # a gap is this part of a picture's side, one pixel at least


@styled
def show_filters(groups: Mapping[str, Sequence], columns: int = 8, width: float = WIDTH) -> Figure:
    """Small pictures side by side in a grid, one grid under the other.

    Args:
        groups: title → pictures (pictures, height, width, channels) from 0 to 1, of 3 channels, or of 1: grey.
        columns: pictures in a row.
        width: of the figure in inches.
    """
    grids = {title: _mosaic(array(pictures), columns) for title, pictures in groups.items()}
    heights = [grid.shape[0] / grid.shape[1] for grid in grids.values()]
    figure, axes = plt.subplots(
        len(grids), 1, squeeze=False, figsize=(width, width * sum(heights) + 0.35 * len(grids)),
        height_ratios=heights,
    )  # fmt: skip
    for axis, (title, grid) in zip(axes.flat, grids.items()):
        axis.imshow(grid.squeeze(), vmin=0, vmax=1, cmap="gray")
        axis.set_title(title)
        axis.set_axis_off()
    return figure


@styled
def show_positions(similarity, low: float = -1, most: int = 8, size: float = WIDTH) -> Figure:
    """How alike the positions are, as a grid of grids: each small map shows one position's cosine to every other.

    Args:
        similarity: (rows, columns, rows, columns), cosines.
        low: where the scale begins; it ends at 1. White is 0 on a scale from −1.
        most: small maps in a row or column; of more positions, some at even distances are shown.
        size: width of the figure in inches.
    """
    similarity = array(similarity)
    rows, columns = (_spread(length, most) for length in similarity.shape[:2])
    grid = _mosaic(similarity[np.ix_(rows, columns)].reshape(-1, *similarity.shape[2:], 1), len(columns))[..., 0]
    figure, axis = plt.subplots(figsize=(size, 0.5 + 0.7 * size * grid.shape[0] / grid.shape[1]))
    colours = colormaps[SIGNED if low == -1 else MAP].with_extremes(bad=ABSENT)
    drawn = axis.imshow(grid, vmin=low, vmax=1, cmap=colours)
    for side, chosen, length in ((axis.yaxis, rows, grid.shape[0]), (axis.xaxis, columns, grid.shape[1])):
        step = (length + _gap(similarity.shape[2:])) / len(chosen)
        side.set_ticks([(place + 0.5) * step - 1 for place in range(len(chosen))], chosen)
    axis.set(xlabel="column of the patch", ylabel="row of the patch")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axis, label="cosine", shrink=0.8, pad=0.02)
    return figure


def _mosaic(pictures: np.ndarray, columns: int) -> np.ndarray:
    """(pictures, height, width, channels) in rows, nothing between them: (height, width, 1, or 4 of colours)."""
    (count, height, width, channels), gap = pictures.shape, _gap(pictures.shape[1:])
    columns = min(columns, count)
    if channels == 3:  # with transparency, so that the page shows between them
        pictures, channels = np.concatenate([pictures, np.ones_like(pictures[..., :1])], axis=-1), 4
    rows, empty = -(-count // columns), np.nan if channels == 1 else 0.0
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), empty)
    for number, picture in enumerate(pictures):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        grid[top : top + height, left : left + width] = picture
    return grid


def _gap(shape: Sequence[int]) -> int:
    return max(1, max(shape[:2]) // GAP)


def _spread(length: int, most: int) -> list[int]:
    """At most so many of 0 … length − 1, at even distances, the first and the last among them."""
    return [round(place * (length - 1) / (min(length, most) - 1 or 1)) for place in range(min(length, most))]
