"""A neuron's activation that moves to a new token, drawn."""

from collections.abc import Sequence

from ..tokens import PATCHES
from .drawing import SMALL, Drawing
from .style import token_colours


def draw_moved(activations: Sequence[float]) -> Drawing:
    """One neuron's activation at a class token, a new token and patches: before, and moved to the new token.

    Args:
        activations: of the patches, at most six; the class token's is drawn as 0.
    """
    colours, largest = token_colours(["cls", "test", PATCHES]), max(activations)
    rows = ["cls", "test", *[PATCHES] * len(activations)]
    before, after = ([0.0, 0.0, *activations], [0.0, largest, *[0.0] * len(activations)])
    values = ", ".join(f"{value:g}" for value in activations)
    drawing = Drawing(
        40 + 34 * len(rows),
        f"One neuron's activation at each token. Before: 0 at the class token, no new token, {values} at the patches. "
        f"Inside: {largest:g} at the new token and 0 at all others.",
    )
    for x, title, column in ((150, "as trained", before), (320, "moved", after)):
        drawing.text(x, 12, title)
        for row, (name, value) in enumerate(zip(rows, column)):
            absent = name == "test" and x == 150
            drawing.box(
                x - 40, 28 + 34 * row, 80, 26, "" if absent else f"{value:g}", "" if absent else colours[name], absent
            )
    for row, name in enumerate(["class token", "new token", *["patch"] * len(activations)]):
        drawing.text(96, 41 + 34 * row, name, anchor="end", size=SMALL)
    start = 41 + 34 * (2 + list(activations).index(largest))
    drawing.arrow((194, start), (235, start), (235, 75), (274, 75))
    return drawing
