"""Verdicts: one tile an item, and the intervals that they come from."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from .drawing import SMALL, Drawing
from .style import COLOURS, INK, WIDTH, styled

VERDICTS = {  # a tile's colour by verdict; an outline where it is empty
    "built": "#56B4E9",
    "reproduced": "#009E73",
    "in part": "#8fd3bd",
    "null": "#c9ccd1",
    "undecided": "#E69F00",
    "opposite": "#D55E00",
    "out of reach": "",
    "not tried": "#f4e3b2",
}
LEFT, SIDE, GAP = 2.3, 1.0, 0.12  # in tiles: beside the first one; of a tile; between two
REACH = 150  # units of a drawing from its zero to the longest end


@styled
def show_tiles(
    groups: Mapping[str, Mapping[str, Sequence[tuple[str, str]]]],
    colours: Mapping[str, str] = VERDICTS,
    columns: int = 12,
    width: float = WIDTH,
) -> Figure:
    """A tile for each item, in rows by kind, under the name of its group; the legend counts them.

    Args:
        groups: group → kind → (label, verdict) of each item.
        colours: one a verdict, in the legend's order.
        columns: tiles in a row.
        width: in inches.
    """
    verdicts = [verdict for kinds in groups.values() for items in kinds.values() for _, verdict in items]
    step, level = SIDE + GAP, 0.0
    figure, axis = plt.subplots()
    for group, kinds in groups.items():
        axis.text(0, level + 0.45, group, ha="left", va="center")
        level += 1.0
        for kind, items in kinds.items():
            axis.text(0, level + SIDE / 2, kind, ha="left", va="center")
            for number, (label, verdict) in enumerate(items):
                row, column = divmod(number, columns)
                left, top = LEFT + column * step, level + row * step
                face, edge, ink = _filled(colours[verdict])
                axis.add_patch(Rectangle((left, top), SIDE, SIDE, facecolor=face, edgecolor=edge))
                axis.text(left + SIDE / 2, top + SIDE / 2, label, ha="center", va="center", color=ink)
            level += step * -(-len(items) // columns)
        level += 0.4
    across = LEFT + columns * step
    figure.set_size_inches(width, width * level / across + 0.24 * -(-len(colours) // 2))
    axis.set(xlim=(0, across), ylim=(level, 0), aspect="equal")
    axis.set_axis_off()
    marks = {f"{verdict}: {verdicts.count(verdict)}": colour for verdict, colour in colours.items()}
    handles = [Patch(facecolor=face, edgecolor=edge) for face, edge, _ in map(_filled, marks.values())]
    figure.legend(handles, list(marks), loc="outside lower center", ncols=2)
    return figure


def _filled(colour: str) -> tuple[str, str, str]:
    """Face, edge and text of a tile; one without a colour shows the page."""
    return (colour, colour, INK) if colour else ("none", "#777777", "black")


def draw_verdicts(cases: Sequence[tuple[str, float, float]], margin: float) -> Drawing:
    """Intervals around a line at zero, between two dashed lines at ± the margin, and what each of them is called.

    Args:
        cases: (verdict, low, high) each.
        margin: what is too small to matter.
    """
    centre, top, row = 175, 34, 30
    scale = REACH / max(margin, *(abs(end) for _, *ends in cases for end in ends))
    said = "; ".join(f"{verdict}: from {low:g} to {high:g}" for verdict, low, high in cases)
    drawing = Drawing(top + row * len(cases) + 4, f"Intervals, zero, and a margin of {margin:g} on both sides. {said}.")
    for place, label in ((-margin, f"−{margin:g}"), (0, "0"), (margin, f"+{margin:g}")):
        x, end = centre + scale * place, top + row * len(cases)
        drawing.text(x, 12, label, size=SMALL)
        drawing.line((x, 22), (x, end), width=1.5 if place == 0 else 1, dashed=place != 0)
    for number, (verdict, low, high) in enumerate(cases):
        y = top + row * (number + 0.45)
        ends = [centre + scale * end for end in (low, high)]
        drawing.line((ends[0], y), (ends[1], y), colour=COLOURS[0], width=4)
        drawing.dot(sum(ends) / 2, y, COLOURS[0], 5)
        drawing.text(centre + REACH + 14, y, verdict, "start")
    return drawing
