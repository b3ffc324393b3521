"""The atlas: a value for every place at which tokens can enter, and accuracy against cost."""

import textwrap
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from .style import COLOURS, INK, MAP, MARK, WIDTH, array, styled

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LETTER = 14  # points that a letter takes in width and in height
SIDES = ((-1, 0.3), (1, -0.3), (0, 1.2), (0, -1.2), (-1, -1), (1, 1))  # where a letter is put, the best side first
TITLE = 2.4  # inches that the longest line of a title takes which is not wrapped
CHARACTERS = 12.5  # of a title, an inch
DARK = 0.5  # a cell below this lightness takes white text


@styled
def show_surface(
    values, rows: Sequence[str], columns: Sequence[str], half: float | None = None, label: str = "",
    mark: tuple[int, int] | None = None, digits: int = 1,
) -> Figure:  # fmt: skip
    """A value for every cell of a grid, as a heat map with the numbers in it; lighter is more, in grey too.

    Args:
        values: (rows, columns); non-finite ones stay blank.
        rows: where the class token enters, one name a row.
        columns: where the registers enter, one name a column.
        half: half of a cell's interval against the other cells of the same seeds, written once.
        label: what the values are, with their unit.
        mark: (row, column) of a cell to outline.
        digits: after the point.
    """
    figure = plt.figure(figsize=_surface_size(rows, columns))
    _surface(figure, values, rows, columns, half, label, mark, digits)
    return figure


@styled
def show_pareto(
    points: Mapping[str, tuple[float, ...]], front: Sequence[str] = (), kinds: Mapping[str, str] | None = None,
    x: str = "M multiply–adds an image", y: str = "test accuracy, %", width: float = WIDTH,
) -> Figure:  # fmt: skip
    """Accuracy against cost, with intervals; the front is a line of steps, and its points are named in a key.

    Args:
        points: name → (cost, accuracy), or (cost, accuracy, half of its interval).
        front: the names on the front, the cheapest first.
        kinds: name → what kind of point it is, which its shape and colour tell.
        x, y: what cost and accuracy are, with their unit.
    """
    figure = plt.figure(figsize=(width, 5.2))
    _pareto(figure, points, front, kinds or {}, x, y)
    return figure


@styled
def show_atlas(surface: Mapping, pareto: Mapping) -> Figure:
    """A surface, and below it accuracy against cost; each is given the arguments of its own function, by name."""
    width, height = _surface_size(surface["rows"], surface["columns"])
    figure = plt.figure(figsize=(WIDTH, height + 5.4))
    above, below = figure.subfigures(2, 1, height_ratios=(height, 5.4), hspace=0.04, squeeze=False).flat
    _surface(above, **{"half": None, "label": "", "mark": None, "digits": 1, **surface})
    _pareto(below, **{"front": (), "kinds": {}, "x": "M multiply–adds an image", "y": "test accuracy, %", **pareto})
    return figure


def _surface_size(rows: Sequence[str], columns: Sequence[str]) -> tuple[float, float]:
    wide = max(1.4 + 0.75 * len(columns), _beside_axis(rows) + TITLE)
    return min(WIDTH, wide), 1.4 + 0.48 * len(rows)


def _beside_axis(rows: Sequence[str]) -> float:
    """Inches to the left of the axis, about: its label and the names of its rows."""
    return 0.45 + 0.085 * max(map(len, rows), default=0)


def _surface(figure, values, rows, columns, half, label, mark, digits) -> None:
    axis, values = figure.subplots(), np.asarray(array(values), dtype=float)
    drawn = axis.imshow(values, cmap=MAP, aspect="auto")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel="registers enter at", ylabel="class token enters at")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for place, value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if _lightness(drawn.to_rgba(value)) < DARK else INK
            axis.text(place[1], place[0], f"{value:.{digits}f}", ha="center", va="center", color=colour)
    if mark is not None:
        corner = (mark[1] - 0.5, mark[0] - 0.5)
        for colour, line in (("white", 6), (MARK, 3)):  # a rim, so that it stands out in grey too
            axis.add_patch(
                Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=line, clip_on=False, zorder=3)
            )
    interval = "" if half is None else f"\n± {half:.{digits + 1}f} a cell (95 %),\nthe seeds' own effect left out"
    room = figure.bbox.width / figure.figure.dpi - _beside_axis(rows)
    axis.set_title(f"{textwrap.fill(label, max(1, int(room * CHARACTERS)))}{interval}")


def _pareto(figure, points, front, kinds, x, y) -> None:
    axis, shapes = figure.subplots(), {}
    for name, (cost, accuracy, *half) in points.items():
        kind = kinds.get(name, "")
        marker, colour = shapes.setdefault(kind, (MARKERS[len(shapes)], COLOURS[len(shapes)]))
        face = colour if name in front else "white"
        axis.errorbar(
            cost, accuracy, yerr=half or None, fmt=marker, color=colour, markerfacecolor=face, markersize=7,
            elinewidth=1, zorder=3 if name in front else 2,
        )  # fmt: skip
    across, up = ([points[name][part] for name in front] for part in (0, 1))
    axis.step(across, up, where="post", color="black", linewidth=1.2, zorder=1)
    axis.set(xlabel=x, ylabel=y)
    axis.margins(x=0.08)
    letters = [_letter(index) for index in range(len(front))]
    _key(axis, [(kind, *shape) for kind, shape in shapes.items() if kind], dict(zip(letters, front)))
    figure.canvas.figure.draw_without_rendering()  # only now is it known how far the points are from each other
    for letter, name, place in zip(letters, front, _beside([points[name][:2] for name in front], axis)):
        far = max(map(abs, place)) > 2 * LETTER
        note = axis.annotate(
            letter, points[name][:2], place, textcoords="offset points", ha="center", va="center", weight="bold",
            arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.7, "linestyle": ":"} if far else None,
        )  # fmt: skip
        note.set_in_layout(False)  # the axis stays as it is


def _key(axis, shapes, letters: Mapping[str, str]) -> None:
    """The legend of shapes and letters, under the axis."""
    lines = [
        Line2D([], [], marker=marker, color=colour, markerfacecolor="white", linestyle="", markersize=7)
        for _, marker, colour in shapes
    ]
    names = [kind for kind, *_ in shapes]
    if letters:
        lines.append(Line2D([], [], color="black", linewidth=1.2))
        names.append("no cell is cheaper and better:")
        lines += [Line2D([], [], marker=_marker(letter), color="black", mew=0, ls="") for letter in letters]
        names += letters.values()
    if names:
        axis.figure.legend(
            lines, names, loc="outside lower left", ncols=1 if len(names) < 6 or max(map(len, names)) > 24 else 2
        )


def _beside(places: Sequence[tuple[float, float]], axis) -> list[tuple[float, float]]:
    """Where the letter of each place stands, in points from it: at its side, or as far off as others leave room."""
    points = axis.transData.transform(places) * 72 / axis.figure.dpi if places else []
    taken, offsets = [], []
    for x, y in points:
        around = ((radius * across, radius * up) for radius in range(12, 1000, 6) for across, up in SIDES)
        free = next(
            (right, above)
            for right, above in around
            if all(abs(x + right - other[0]) > LETTER or abs(y + above - other[1]) > LETTER for other in taken)
        )
        taken.append((x + free[0], y + free[1]))
        offsets.append(free)
    return offsets


def _letter(index: int) -> str:
    return ascii_uppercase[index] if index < len(ascii_uppercase) else str(index + 1)


def _marker(letter: str) -> Path:
    """A letter as a marker, its middle on the point."""
    outline = TextPath((0, 0), letter, size=10)
    box = outline.get_extents()
    return outline.transformed(Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2))


def _lightness(colour) -> float:
    """Of a colour, 0 … 1: CIE L* over 100."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 1.16 * luminance ** (1 / 3) - 0.16 if luminance > 0.008856 else 9.033 * luminance
