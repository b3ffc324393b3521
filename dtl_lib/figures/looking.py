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


def draw_probe() -> Drawing:
    """A linear probe on one token: photos are divided into folds, fitted to all but one, and asked of that one."""
    drawing = Drawing(
        262,
        "Five photos in a row, each with three small squares, its tokens. Arrows lead from four of them to a box in "
        "which a probe is fitted, and from the fifth to a box in which it is asked. No photo has an arrow to both.",
    )
    for number in range(5):
        left, held = 10 + 86 * number, number == 4
        colour = "#D55E00" if held else "#0072B2"
        drawing.box(left, 8, 74, 50, dashed=held)
        drawing.text(left + 37, 22, f"photo {number}", size=SMALL)
        for token in range(3):
            drawing.box(left + 10 + 20 * token, 36, 14, 14, colour=colour)
        drawing.arrow((left + 37, 58), (left + 37 if held else 60 + 60 * number, 106), dashed=held, colour=colour)
    drawing.box(10, 108, 280, 56)
    drawing.text(150, 124, "fit: all folds but one")
    drawing.text(150, 152, "scale each channel, then ridge or logistic", size=SMALL)
    drawing.box(310, 108, 120, 56)
    drawing.text(370, 124, "ask: the", size=SMALL)
    drawing.text(370, 142, "fold left out", size=SMALL)
    drawing.arrow((290, 136), (310, 136))
    drawing.arrow((370, 164), (370, 196))
    drawing.text(370, 208, "answers")
    drawing.text(220, 236, "Each photo is once in the fold that is left out;", size=SMALL)
    drawing.text(220, 252, "all of its tokens are on one side.", size=SMALL)
    return drawing
