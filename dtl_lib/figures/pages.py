"""A page on what one token attends to in one block: the image, the mean of the heads, and each head."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from ..tokens import TokenPlan
from .images import outline
from .overlay import PIXELS, enlarged, overlay
from .style import MAP, SIZE, array, styled
from .timeline import draw_timeline, timeline_height

PAGE = 10.0  # inches; what is shown on a screen is read at this width
MARGIN, BAR, GAP, LINE = 0.25, 0.85, 0.16, 0.2
MOST_COLUMNS = 6


@styled
def attention_page(
    photo,
    maps: Sequence,
    titles: Sequence[str],
    high: float,
    plan: TokenPlan,
    block: int,
    heading: Sequence[str],
    notes: Sequence[str] = (),
    label: str = "attention",
    mark: tuple[int, int] | None = None,
) -> Figure:
    """A page: the plan's timeline beside the heading, the image, and maps over it, on one scale from 0.

    Args:
        photo: uint8 (height, width, 3), what the model saw.
        maps: each (rows, columns), not negative.
        titles: one a map.
        high: where the scale ends; values above have its last colour.
        plan: of the model.
        block: where the attention is from; marked in the timeline.
        heading: lines of text; one that is too long is cut.
        notes: one a map, of one line or more, written under it.
        label: what the colour means.
        mark: (row, column) of the patch that asks, to outline.
    """
    maps = list(map(array, maps))
    photo = enlarged(photo, *PIXELS)
    count = len(maps) + 1
    columns = count if count <= 5 else -(-count // max(2, -(-count // MOST_COLUMNS)))
    below = max((note.count("\n") + 1 for note in notes if note), default=0)
    side = min((PAGE - 2 * MARGIN - BAR - GAP * (columns - 1)) / columns, 2.4)
    tall = side * photo.shape[0] / photo.shape[1]
    row = LINE * (below + 1) + tall + GAP
    header = max(timeline_height(plan) + LINE * (plan.class_blocks > 0), LINE * len(heading)) + 0.35
    height = header + row * -(-count // columns) + 0.1
    figure = plt.figure(figsize=(PAGE, height), layout="none")

    def axis(left: float, top: float, width: float, tall: float):
        return figure.add_axes((left / PAGE, 1 - (top + tall) / height, width / PAGE, tall / height))

    places = [(MARGIN + (side + GAP) * (at % columns), header + row * (at // columns) + LINE) for at in range(count)]
    panels = [axis(*place, side, tall) for place in places]
    patch = photo.shape[0] / maps[0].shape[0]
    for panel, picture, title, note in zip(
        panels,
        [photo, *(overlay(photo, values, high) for values in maps)],
        ["image", *titles],
        ["", *(notes or [""] * len(maps))],
    ):
        panel.imshow(picture, interpolation="none")
        panel.set_axis_off()
        panel.text(0.5, 1 + 0.04 / tall, title, transform=panel.transAxes, ha="center", va="bottom")
        panel.text(0.5, -0.04 / tall, note, transform=panel.transAxes, ha="center", va="top", linespacing=1.1)
        if mark is not None:
            outline(panel, mark, patch)
    _bar(figure, axis(MARGIN + (side + GAP) * columns, header + LINE, 0.16, tall), high, maps, label)
    _heading(figure, heading, height, PAGE * 0.5)
    left = PAGE * 0.62
    top = 0.2 + LINE * (plan.class_blocks > 0)  # their name stands above the bars
    draw_timeline(axis(left, top, PAGE - MARGIN - left, timeline_height(plan) - 0.55), plan, block)
    return figure


def _bar(figure: Figure, axis, high: float, maps: Sequence, label: str) -> None:
    beyond = any(values.max() > high for values in maps)
    scale = plt.cm.ScalarMappable(Normalize(0, high), MAP)
    bar = figure.colorbar(scale, cax=axis, extend="max" if beyond else "neither")
    axis.text(0, 1.09, label, transform=axis.transAxes, va="bottom")
    bar.locator, bar.formatter = plt.MaxNLocator(4), FuncFormatter(lambda value, _: f"{value:.3g}")
    bar.update_ticks()


def _heading(figure: Figure, lines: Sequence[str], height: float, width: float) -> None:
    """Lines in the top left corner, the first one bold, each cut to what `width` inches hold."""
    for number, line in enumerate(lines):
        place = MARGIN / PAGE, 1 - (0.2 + LINE * number) / height
        text = figure.text(*place, line, va="top", weight="bold" if number == 0 else "normal", size=SIZE)
        cut_to(text, width * figure.dpi)


def cut_to(text: Text, pixels: float) -> None:
    """Cut a text in its middle until it is so many pixels wide, at most."""
    whole = text.get_text()
    for kept in range(len(whole) - 2, 1, -1):
        if text.get_window_extent().width <= pixels:
            return
        text.set_text(without_middle(whole, kept))


def without_middle(text: str, kept: int) -> str:
    """So many letters of a text, half of them from its beginning and half from its end."""
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
