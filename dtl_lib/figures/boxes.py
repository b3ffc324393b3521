"""Boxes on images, and the steps by which LOST comes to one."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from .drawing import SMALL, Drawing
from .images import write_below
from .style import COLOURS, MAP, array, panels, styled

LINES = ("-", "--", ":", "-.")


@styled
def show_boxes(
    images: Sequence,
    boxes: Mapping[str, Sequence],
    titles: Sequence[str] = (),
    notes: Sequence[str] = (),
    columns: int = 2,
    size: float = 2.4,
) -> Figure:
    """Images with boxes, each kind in its own colour and dash; the legend below.

    Args:
        images: uint8 (height, width, 3), or maps (rows, columns).
        boxes: by name one box an image, (top, left, bottom, right) in the image's pixels, or a map's patches; None for
            no box.
        titles, notes: one an image, above and below it.
        columns: images in a row.
        size: inches an image.
    """
    first = array(images[0])
    figure, axes = panels(len(images), columns, size, height=size * (first.shape[0] / first.shape[1] + 0.22))
    looks = dict(zip(boxes, zip(COLOURS[1:], LINES * 2)))
    for number, (axis, image) in enumerate(zip(axes, map(array, images))):
        axis.imshow(image, cmap=None if image.ndim == 3 else MAP)
        for name, given in boxes.items():
            if given[number] is None:
                continue
            top, left, bottom, right = (float(side) for side in given[number])
            colour, dash = looks[name]
            corner = (left - 0.5, top - 0.5)
            axis.add_patch(
                Rectangle(corner, right - left, bottom - top, fill=False, edgecolor="white", linewidth=4, alpha=0.8)
            )
            axis.add_patch(
                Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=colour, linewidth=2, linestyle=dash)
            )
    for axis, title in zip(axes, titles):
        axis.set_title(title)
    for axis, note in zip(axes, notes):
        write_below(axis, note)
    lines = [Line2D([], [], color=colour, linestyle=dash) for colour, dash in looks.values()]
    figure.legend(lines, list(looks), loc="outside lower center", ncols=min(len(looks), 2))
    return figure


def draw_lost(patches: int, dim: int) -> Drawing:
    """LOST, step by step, with the shape of what each step has.

    Args:
        patches: of the image.
        dim: of a feature.
    """
    steps = (
        ("features of the patches", f"({patches}, {dim})"),
        ("products of every two", f"({patches}, {patches})"),
        ("how many are 0 or more: the degree", f"({patches})"),
        ("the seed: the smallest degree", "one patch"),
        ("what joins it: similar, of small degree", "≤ 100 patches"),
        ("similar to all of these together", f"({patches})"),
        ("the part with the seed, and its box", "4 numbers"),
    )
    drawing = Drawing(
        len(steps) * 50 - 4,
        "Seven steps from top to bottom: " + "; ".join(f"{what}, {has}" for what, has in steps) + ".",
    )
    for number, (what, has) in enumerate(steps):
        y = 4 + number * 50
        drawing.box(4, y, 322, 32, what, colour="#D55E00" if number == 3 else "")
        drawing.text(334, y + 16, has, anchor="start", size=SMALL, code=True)
        if number:
            drawing.arrow((165, y - 18), (165, y))
    return drawing
