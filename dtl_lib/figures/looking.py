"""Drawings of how one looks into a model."""

from .drawing import SMALL, Drawing


def draw_lens(blocks: int, tokens: int, dim: int, classes: int) -> Drawing:
    """The logit lens: norm and head, which the model applies after its last block, applied after earlier ones too.

    Args:
        blocks: of the model, at least 2.
        tokens: in the sequence.
        dim: the width of a token.
        classes: logits of the head.
    """
    drawing = Drawing(
        300,
        f"The residual stream runs from the input through blocks 0 to {blocks - 1}, then norm and head give the "
        f"model's {classes} logits. Dashed arrows leave the stream at the input and after earlier blocks: "
        f"there the same norm and head are applied to all {tokens} tokens.",
    )
    names = ["block 0", "block 1", f"block {blocks - 1}"] if blocks > 2 else ["block 0", "block 1"]
    y, left, middle = 8, 20, 80
    drawing.text(middle, y + 6, f"({tokens}, {dim})", size=SMALL, code=True)
    y += 18
    for row, name in enumerate(names):
        drawing.arrow((middle, y), (middle, y + 32))
        drawing.arrow((middle, y + 12), (210, y + 12), dashed=True)
        _read(drawing, y + 12, "the input" if row == 0 else f"after {names[row - 1] if row == 1 else '…'}")
        drawing.box(left, y + 32, 120, 32, name)
        if row == len(names) - 1:
            break
        y += 64
        if row == 1:
            drawing.text(middle + 14, y + 22, "…")
    y += 64
    drawing.arrow((middle, y), (middle, y + 26))
    drawing.box(left, y + 26, 120, 32, "norm, head", colour="#0072B2")
    drawing.text(150, y + 42, f"the model's logits, ({classes})", anchor="start", size=SMALL)
    return drawing


def _read(drawing: Drawing, y: float, where: str) -> None:
    """Norm and head beside the stream, and what they read."""
    drawing.box(210, y - 13, 96, 26, "norm, head", colour="#5d646b")
    drawing.text(314, y, where, anchor="start", size=SMALL)


def draw_sinks() -> Drawing:
    """A token that gets most of the attention, and the two things it may give for it: nothing, or the same to all."""
    drawing = Drawing(
        250,
        "Four patches point at one long token, which most of their attention goes to. Of a no-op sink what comes back "
        "is hardly anything, so that each patch stays as it is. Of a broadcast sink the same long vector comes back "
        "to every patch.",
    )
    for left, name, gives in ((8, "no-op sink", False), (222, "broadcast sink", True)):
        drawing.text(left + 105, 12, name)
        drawing.box(left + 65, 28, 80, 30, "long token", colour="#D55E00")
        for column in range(4):
            x = left + 24 + 54 * column
            drawing.box(x - 21, 128, 42, 26, "patch", colour="#5d646b")
            drawing.arrow((x, 128), (left + 75 + 20 * column, 58), dashed=True)
            tall = 34 if gives else 3
            drawing.box(x - 6, 216 - tall, 12, tall, colour="#0072B2")
        drawing.text(left + 105, 170, "what it adds to each:", size=SMALL)
        drawing.text(left + 105, 234, "the same vector" if gives else "next to nothing", size=SMALL)
    drawing.text(220, 92, "attention", size=SMALL)
    return drawing
