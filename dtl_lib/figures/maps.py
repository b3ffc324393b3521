"""Attention maps, attention matrices and similarities."""

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from .images import outline, write_below
from .overlay import PIXELS, enlarged, overlay
from .style import ABSENT, INK, LINE, MAP, MARK, SIGNED, SIZE, WIDTH, array, panels, styled
from .tables import typeset


@styled
def show_maps(
    maps: Sequence,
    titles: Sequence[str] | None = None,
    image=None,
    mark: tuple[int, int] | None = None,
    label: str = "attention",
    columns: int = 3,
    size: float = 1.6,
    shared: bool = True,
    notes: Sequence[str] | None = None,
    over: bool = False,
    high: float | None = None,
) -> Figure:
    """Maps over the grid of patches, on one scale from 0, with the image first where it is given.

    Args:
        maps: each (rows, columns), not negative.
        titles: one a map.
        image: what the model saw, uint8 (height, width, 3).
        mark: (row, column) of a patch to outline.
        label: what the colour means.
        columns: panels in a row, at most.
        size: inches a panel.
        shared: one scale for all maps; False gives each its own, and writes each maximum under its map.
        notes: one a map, written under it; None leaves it at the maxima.
        over: lay the maps over the image, which has to be given.
        high: where the shared scale ends, the maximum where None; values above have its last colour, and the scale an
            arrow.
    """
    maps = list(map(array, maps))
    rows, across = maps[0].shape
    height = size * (rows / across + 0.3 if across > rows else 1.1)  # wide panels leave no gap below
    height += LINE * max((note.count("\n") for note in notes or ()), default=0)
    figure, axes = panels(len(maps) + (image is not None), columns, size, height)
    image = enlarged(image, *PIXELS) if over else image
    patch = 1 if image is None else image.shape[0] / rows
    if image is not None:
        axis = axes.pop(0)
        axis.imshow(image)
        axis.set_title("image")
        if mark is not None:
            outline(axis, mark, patch)
    highest = max(values.max() for values in maps)
    ends = [(high or highest or 1) if shared else values.max() for values in maps]
    notes = notes or ["" if shared else f"max {values.max():.2g}" for values in maps]
    for axis, values, top, title, note in zip(axes, maps, ends, titles or [""] * len(maps), notes):
        axis.imshow(overlay(image, values, top)) if over else axis.imshow(values, vmin=0, vmax=top, cmap=MAP)
        axis.set_title(title)
        write_below(axis, note)
        if mark is not None:
            outline(axis, mark, patch if over else 1)
    if shared:
        scale, beyond = ScalarMappable(Normalize(0, ends[0]), MAP), "max" if highest > ends[0] else "neither"
        figure.colorbar(scale, ax=axes, label=label, shrink=0.8, pad=0.01, extend=beyond)
    else:
        figure.supxlabel(f"{label}, each from 0 to its own maximum")
    return figure


@styled
def show_matrix(
    matrix,
    label: str,
    rows: str = "query",
    columns: str = "key",
    names: dict[str, slice] | None = None,
    numbers: bool = False,
    signed: bool = False,
    size: float = 3.6,
) -> Figure:
    """A matrix with its axes named.

    Args:
        matrix: (rows, columns).
        label: what the colour means.
        names: a token plan's layout, to write group names along the axes.
        numbers: write the value into each cell (for matrices one can read by eye).
        signed: a colour map with white at 0.
    """
    matrix = array(matrix)
    figure, (axis,) = panels(1, size=size * 1.25, height=size)
    axis.set_axis_on()
    top = abs(matrix).max() or 1
    limits = {"vmin": -top, "vmax": top, "cmap": SIGNED} if signed else {"vmin": 0, "vmax": top, "cmap": MAP}
    drawn = axis.imshow(matrix, **limits)
    axis.set(xlabel=columns, ylabel=rows)
    axis.spines[:].set_visible(False)
    if names is not None:
        starts = {name: where.start for name, where in names.items()}
        axis.set_xticks(list(starts.values()), list(starts))
        axis.set_yticks(list(starts.values()), list(starts))
    elif max(matrix.shape) <= 12:
        axis.set_xticks(range(matrix.shape[1]))
        axis.set_yticks(range(matrix.shape[0]))
    if numbers:
        for (row, column), value in _cells(matrix):
            dark = abs(value) > 0.6 * top if signed else value < 0.6 * top
            axis.text(column, row, typeset(f"{value:.2f}"), ha="center", va="center", color="white" if dark else INK)
        axis.set_title(label)
    else:
        figure.colorbar(drawn, ax=axis, label=label, shrink=0.85)
    return figure


@styled
def show_similarity(similarity, marks: Sequence[tuple[int, int]], low: float = -1, size: float = 1.6) -> Figure:
    """How alike each position is to a few chosen ones, on one scale.

    Args:
        similarity: (rows, columns, rows, columns), cosines.
        marks: (row, column) of the chosen positions.
        low: where the scale begins; it ends at 1. White is 0 on a scale from −1.
    """
    similarity = array(similarity)
    figure, axes = panels(len(marks), 2 if len(marks) == 4 else 3, size)
    for axis, mark in zip(axes, marks):
        drawn = axis.imshow(similarity[mark], vmin=low, vmax=1, cmap=SIGNED if low == -1 else MAP)
        outline(axis, mark, colour=INK if low == -1 else MARK)
        axis.set_title(f"patch {mark}")
    figure.colorbar(drawn, ax=axes, label="cosine", shrink=0.8, pad=0.01)
    return figure


@styled
def show_table(
    items: Sequence,
    rows: Sequence[str],
    columns: int,
    titles: Sequence[str] = (),
    mark: tuple[int, int] | None = None,
    size: float = 1.15,
    notes: Sequence[str] = (),
    high: float | None = None,
    width: float = WIDTH,
) -> Figure:
    """Images and maps in a table; each map from 0 to `high` or to its own maximum, non-finite values in grey.

    Args:
        items: uint8 (height, width, 3) images and (rows, columns) maps, row by row.
        rows: the rows' names.
        columns: items in a row.
        titles: the columns' names.
        mark: (row, column) of a patch to outline in every map.
        size: inches an item.
        notes: one an item, written under it; empty for none.
        high: where the one scale of all maps ends; None gives each its own.
        width: inches at most; the size of titles and names follows it, since a telephone shows any figure as wide as
            itself.
    """
    figure, axes = panels(len(items), columns, size, height=size * (1.25 if notes else 1), width=width)
    colours = colormaps[MAP].with_extremes(bad=ABSENT)
    for axis, item in zip(axes, map(array, items)):
        axis.imshow(item) if item.ndim == 3 else axis.imshow(item, vmin=0, vmax=high, cmap=colours)
        if mark is not None and item.ndim == 2:
            outline(axis, mark)
    for axis, title in zip(axes, titles):
        axis.set_title(title, fontsize=SIZE * width / WIDTH)
    for axis, note in zip(axes, notes):
        write_below(axis, note)
    for axis, name in zip(axes[::columns], rows):
        axis.text(-0.08, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=SIZE * width / WIDTH)
    return figure


@styled
def show_cosines(matrices: Sequence, titles: Sequence[str], names: Sequence[str], columns: int = 2) -> Figure:
    """How alike the same few things are in several respects: cosines, written into cells, on one scale from −1 to 1.

    Args:
        matrices: each (things, things).
        titles: one a matrix.
        names: of the things.
        columns: matrices in a row.
    """
    figure, axes = panels(len(matrices), columns, size=2.5)
    for axis, matrix, title in zip(axes, map(array, matrices), titles):
        axis.set_axis_on()
        axis.imshow(matrix, vmin=-1, vmax=1, cmap=SIGNED)
        axis.set_title(title)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
        for (row, column), value in _cells(matrix):
            ink = "white" if abs(value) > 0.6 else INK
            axis.text(column, row, typeset(f"{value:.1f}"), ha="center", va="center", color=ink)
    return figure


def _cells(matrix):
    return (((row, column), value) for row, values in enumerate(matrix) for column, value in enumerate(values))
