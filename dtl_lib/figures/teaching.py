"""Who learns from whom in distillation."""

from .drawing import SMALL, Drawing
from .style import token_colours

STUDENT = 262  # the width of the student's half


def draw_distillation() -> Drawing:
    """One step of distillation with a token of its own: one image, two models, two heads and two losses."""
    drawing = Drawing(
        356,
        "Distillation with a token of its own. The same images go through the student and through the teacher, which "
        "does not learn. In the student the class token and the distillation token go through all blocks together "
        "with the patches, and each has a head. The class token's head is compared with the label, the distillation "
        "token's head with what the teacher says. To predict, the mean of the two heads is taken.",
    )
    colours, left, right, teacher = token_colours(["cls", "dist", "patches"]), 8, 148, 312
    drawing.box(left, 8, 424, 30, "images, augmented once")
    drawing.arrow((left + STUDENT / 2, 38), (left + STUDENT / 2, 58))
    drawing.arrow((teacher + 60, 38), (teacher + 60, 108))
    for x, width, name in ((left, 60, "cls"), (left + 68, 60, "dist"), (right, 122, "patches")):
        drawing.box(x, 58, width, 30, name, colour=colours[name])
    drawing.arrow((left + STUDENT / 2, 88), (left + STUDENT / 2, 108))
    drawing.box(left, 108, STUDENT, 34, "student: all tokens, all blocks")
    drawing.box(teacher, 108, 120, 34, "teacher, fixed", dashed=True)
    for middle, name, partner in ((left + 60, "cls", "label"), (right + 61, "dist", "teacher")):
        drawing.arrow((middle, 142), (middle, 162))
        drawing.box(middle - 58, 162, 116, 30, f"head of {name}", colour=colours[name])
        drawing.text(middle, 206, "(batch, classes)", size=SMALL)
        drawing.arrow((middle, 218), (middle, 238))
        drawing.box(middle - 58, 238, 116, 30, "loss")
        drawing.text(middle, 284, f"with the {partner}", size=SMALL)
        drawing.arrow((middle, 296), (middle, 314))
    drawing.arrow((teacher + 60, 142), (teacher + 60, 253), (right + 119, 253), dashed=True)
    drawing.text(teacher + 54, 206, "its shares", anchor="end", size=SMALL)
    drawing.box(left, 314, STUDENT, 34, "(1 − w) · first + w · second")
    return drawing
