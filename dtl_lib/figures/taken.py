"""Patches that go in a map's order, and come back, drawn."""

from collections.abc import Sequence

from ..tokens import PATCHES
from .drawing import SMALL, Drawing
from .style import token_colours


def draw_deletion(order: Sequence[int], steps: int = 3) -> Drawing:
    """A row of patches in each step of deletion, and beside it of insertion; each patch has its place in the order.

    Args:
        order: each patch's place in the map's order, from 0; at most six.
        steps: into which they are divided.
    """
    colour, count = token_colours([PATCHES])[PATCHES], len(order)
    drawing = Drawing(
        58 + 34 * (steps + 1),
        f"{count} patches, numbered in the order of a map. Deletion: in each of {steps} steps those with the smallest "
        "numbers are replaced, until none is left. Insertion: all are replaced, and those come back first.",
    )
    for left, title in ((64, "deletion"), (262, "insertion")):
        drawing.text(left + 14 * count, 12, title)
        for step in range(steps + 1):
            gone = round(count * step / steps)
            for number, place in enumerate(order):
                there = place >= gone if title == "deletion" else place < gone
                x, y = left + 28 * number, 28 + 34 * step
                drawing.box(x, y, 24, 26, str(place + 1), colour if there else "", not there)
    for step in range(steps + 1):
        drawing.text(54, 41 + 34 * step, f"step {step}", anchor="end", size=SMALL)
    drawing.text(220, 44 + 34 * (steps + 1), "filled: the image's own; dashed: replaced", size=SMALL)
    return drawing
