"""The routes by which what a token holds has come through the blocks."""

from collections.abc import Sequence

from .drawing import SMALL, Drawing

GAP = 78  # between one block's tokens and the next's
THICKEST = 14  # a line whose weight is 1
LEFT, RIGHT = 150, 400


def draw_routes(names: Sequence[str], weights: Sequence[Sequence[Sequence[float]]]) -> Drawing:
    """Tokens before and after each block, and lines as thick as what a token takes from another.

    Args:
        names: of the tokens.
        weights: one block's `(token after, token before)`, block by block; a weight of 0 has no line.
    """
    pitch = (RIGHT - LEFT) / max(len(names) - 1, 1)
    drawing = Drawing(len(weights) * GAP + 56, _in_words(names, weights))
    for block, rows in enumerate(weights):
        top = 40 + block * GAP
        for after, row in enumerate(rows):
            for before, weight in enumerate(row):
                if weight:
                    ends = (LEFT + before * pitch, top), (LEFT + after * pitch, top + GAP)
                    drawing.line(*ends, width=max(1, THICKEST * float(weight)), faint=True)
    for step in range(len(weights) + 1):
        y = 40 + step * GAP
        drawing.text(LEFT - 40, y, "before block 0" if step == 0 else f"after block {step - 1}", "end", SMALL)
        for number in range(len(names)):
            drawing.box(LEFT + number * pitch - 9, y - 9, 18, 18, colour="#0072B2" if number == 0 else "#5d646b")
    for number, name in enumerate(names):
        drawing.text(LEFT + number * pitch, 14, name, size=SMALL)
    return drawing


def _in_words(names: Sequence[str], weights: Sequence) -> str:
    said = [
        f"{names[after]} takes {weight:.2g} from {names[before]}"
        for rows in weights[-1:]
        for after, row in enumerate(rows)
        for before, weight in enumerate(row)
        if weight and after != before
    ]
    return (
        f"{len(names)} tokens through {len(weights)} blocks; lines between them are as thick as the weight. In the "
        f"last block {', '.join(said) or 'each token keeps to itself'}."
    )
