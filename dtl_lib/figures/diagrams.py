"""What the book draws: the sequence, a block, one token's attention, the whole model, a step of training."""

from ..tokens import PATCHES, TokenPlan
from .drawing import SMALL, Drawing
from .style import token_colours

LEFT = 104  # where the boxes of a sequence begin; their names stand before it
BOX = 24
MOST = 4  # boxes of one group that are drawn; the rest is an ellipsis


def draw_sequence(plan: TokenPlan, patches: int) -> Drawing:
    """The tokens that are in the sequence, a row for each run of blocks that sees the same ones.

    Args:
        plan: the token plan.
        patches: how many patches the image has; four boxes stand for them.
    """
    stages = plan_stages(plan)
    colours = token_colours([*(group.name for group in plan.groups), PATCHES])
    sizes = {group.name: group.tokens for group in plan.groups} | {PATCHES: patches}
    drawing = Drawing(len(stages) * 44 + 34, _in_words(stages, sizes))
    for row, (first, last, names) in enumerate(stages):
        y = 8 + row * 44
        drawing.text(LEFT - 12, y + BOX / 2, _blocks(first, last), anchor="end", size=SMALL)
        x = float(LEFT)
        for name in names:
            x = _row_of_boxes(drawing, x, y, sizes[name], colours[name])
        drawing.text(x + 6, y + BOX / 2, f"{sum(sizes[name] for name in names)} tokens", anchor="start", size=SMALL)
    _legend(drawing, colours, sizes, 8 + len(stages) * 44 + 8)
    return drawing


def plan_stages(plan: TokenPlan) -> list[tuple[int, int, tuple[str, ...]]]:
    """(first block, last block, names of the groups present) for each run of blocks that sees the same tokens."""
    stages: list[tuple[int, int, tuple[str, ...]]] = []
    for block in range(plan.blocks):
        names = tuple(plan.layout(block))
        if stages and stages[-1][2] == names and block != plan.depth:
            stages[-1] = (stages[-1][0], block, names)
        else:
            stages.append((block, block, names))
    return stages


def draw_block(dim: int, layer_scale: bool = False) -> Drawing:
    """A pre-norm block: the residual stream runs down, two branches read it and add to it.

    Args:
        dim: the width of a token.
        layer_scale: whether each branch ends with LayerScale.
    """
    drawing = Drawing(
        390,
        f"A block. The residual stream runs straight down, {dim} channels a token. Two branches leave it, the first "
        "through a norm and attention, the second through a norm and an MLP; each is added back to the stream.",
    )
    road = 70
    drawing.text(road, 12, f"x  (tokens, {dim})")
    y = 24.0
    for name, notes in (
        ("attention", ("tokens exchange", "information")),
        ("MLP", ("each token alone,", f"{4 * dim} wide inside")),
    ):
        drawing.line((road, y), (road, y + 142))
        _branch(drawing, road, y + 16, ["norm", name] + ["LayerScale"] * layer_scale, notes)
        y += 162
    drawing.arrow((road, y), (road, y + 20))
    drawing.text(road, y + 32, f"x  (tokens, {dim})")
    return drawing


def _branch(drawing: Drawing, road: float, top: float, steps: list[str], notes: tuple[str, str]) -> None:
    """One branch of a block: out of the road, through the steps, and back into it 136 units below."""
    left, width, tall = road + 60, 150, 26
    middle, pitch = left + width / 2, 110 / len(steps)
    for index, step in enumerate(steps):
        y = top + index * pitch
        drawing.box(left, y, width, tall, step)
        start = (road, y + tall / 2) if index == 0 else (middle, y - pitch + tall)
        drawing.arrow(start, (left, y + tall / 2) if index == 0 else (middle, y))
    for index, note in enumerate(notes):
        drawing.text(left + width + 10, top + pitch + tall / 2 + 16 * index - 8, note, anchor="start", size=SMALL)
    drawing.arrow((middle, top + (len(steps) - 1) * pitch + tall), (middle, top + 136), (road + 10, top + 136))
    drawing.sign(road, top + 136)


def draw_attention(tokens: int, head_dim: int) -> Drawing:
    """One token's attention in one head, with shapes: its query meets every key, and the shares mix the values.

    Args:
        tokens: tokens in the sequence.
        head_dim: channels of one head.
    """
    drawing = Drawing(
        300,
        f"One token's attention in one head. Its query, {head_dim} numbers, meets the keys of all {tokens} tokens; the "
        f"scores become {tokens} shares that sum to 1; the shares mix the values into {head_dim} numbers.",
    )
    colours = {"q": "#0072B2", "k": "#5d646b", "v": "#00735a"}
    drawing.text(70, 14, "this token", size=SMALL)
    drawing.text(314, 14, f"all {tokens} tokens", size=SMALL)
    for x, name, shape in (
        (30, "q", f"({head_dim})"),
        (200, "k", f"({tokens}, {head_dim})"),
        (348, "v", f"({tokens}, {head_dim})"),
    ):
        drawing.box(x, 28, 80, 32, name, colour=colours[name])
        drawing.text(x + 40, 74, shape, size=SMALL, code=True)
    drawing.box(60, 104, 220, 32, "q · k / √d")
    drawing.arrow((70, 84), (70, 104))
    drawing.arrow((240, 84), (240, 104))
    drawing.text(292, 120, f"scores ({tokens})", anchor="start", size=SMALL)
    drawing.box(60, 160, 220, 32, "softmax")
    drawing.arrow((170, 136), (170, 160))
    drawing.text(292, 176, f"shares ({tokens}), sum 1", anchor="start", size=SMALL)
    drawing.box(60, 216, 372, 32, "sum of share × value")
    drawing.arrow((170, 192), (170, 216))
    drawing.arrow((420, 84), (420, 216))
    drawing.arrow((246, 248), (246, 272))
    drawing.text(246, 286, f"out ({head_dim})")
    return drawing


def draw_model(plan: TokenPlan, image: str, patches: int, dim: int, classes: int) -> Drawing:
    """The whole model: patches, runs of blocks, tokens that enter or leave between them, the head.

    Args:
        plan: the token plan.
        image: the image's shape in words, such as "3 × 224 × 224".
        patches: how many patches it has.
        dim: the width of a token.
        classes: logits of the head.
    """
    stages = plan_stages(plan)
    colours = token_colours([*(group.name for group in plan.groups), PATCHES])
    drawing = Drawing(150 + 92 * len(stages), _in_words(stages, _sizes(plan, patches)))
    middle, left, width = 150, 60, 180
    drawing.text(middle, 12, f"image ({image})")
    drawing.arrow((middle, 22), (middle, 36))
    drawing.box(left, 36, width, 32, "patches + positions", colour="#5d646b")
    y, present = 68.0, {PATCHES}
    for first, last, names in stages:
        drawing.arrow((middle, y), (middle, y + 56))
        for column, (name, enters) in enumerate(_changes(present, names)):
            x = left + width + 16 + column * 62
            drawing.box(x, y + 16, 54, 24, name, colour=colours[name])
            drawing.arrow(*[(x, y + 28), (middle + 4, y + 28)][:: 1 if enters else -1], dashed=not enters)
        drawing.text(
            middle - 8,
            y + 14,
            f"({sum(_sizes(plan, patches)[name] for name in present)}, {dim})",
            anchor="end",
            size=SMALL,
        )
        kind = "class attention" if first >= plan.depth else _blocks(first, last)
        drawing.box(left, y + 56, width, 36, kind)
        y, present = y + 92, set(names)
    drawing.arrow((middle, y), (middle, y + 26))
    reads = "the class token" if "cls" in present else "the mean of the patches"
    drawing.box(left - 30, y + 26, width + 60, 32, f"norm, head on {reads}", colour="")
    drawing.text(middle, y + 72, f"logits ({classes})")
    return drawing


def draw_step() -> Drawing:
    """One step of training: what flows forward, what flows back, and what is updated."""
    drawing = Drawing(
        300,
        "A training step. Images and labels are mixed; the model turns images into logits; the loss compares them with "
        "the labels; its gradients flow back, are clipped, and the optimizer changes the weights, which the model uses "
        "in the next step; a moving average follows the weights.",
    )
    left, right, width, tall, pitch = 8, 272, 150, 36, 62
    forward = {
        "images, labels": "",
        "mixup, CutMix": "(batch, 3, height, width)",
        "model": "logits (batch, classes)",
        "loss": "",
    }
    for index, (name, shape) in enumerate(forward.items()):
        y = 8 + index * pitch
        drawing.box(left, y, width, tall, name)
        if index < len(forward) - 1:
            drawing.arrow((left + 30, y + tall), (left + 30, y + pitch))
            if shape:
                drawing.text(left + 40, y + (tall + pitch) / 2, shape, anchor="start", size=SMALL)
    back = ["moving average", "weights", "optimizer", "clip", "gradients"]
    for index, name in enumerate(back):
        y = 8 + index * pitch
        drawing.box(right, y, width, tall, name)
        if index:
            drawing.arrow((right + width / 2, y), (right + width / 2, y - pitch + tall))
    low, middle = 8 + 4 * pitch + tall / 2, left + 30
    drawing.arrow((middle, 8 + 3 * pitch + tall), (middle, low), (right, low))
    drawing.text((middle + right) / 2, low - 12, "backward", size=SMALL)
    high, turn = 8 + pitch + tall / 2, right - 40
    drawing.arrow((right, high), (turn, high), (turn, high + pitch), (left + width, high + pitch), dashed=True)
    return drawing


def draw_data_parallel(processes: int = 2) -> Drawing:
    """One step of data-parallel training: a part of the batch for each process, one all-reduce, the same step in all.

    Args:
        processes: how many are drawn, 2 or 3.

    Raises:
        ValueError: for another number.
    """
    if processes not in (2, 3):
        raise ValueError(f"2 or 3 processes are drawn, not {processes}")
    drawing = Drawing(
        324,
        f"Data-parallel training in {processes} processes. The batch is cut into {processes} equal parts; each process "
        "takes its own through its copy of the model, forward and backward, and has a gradient of its own. An "
        "all-reduce gives every process the mean of the gradients; each makes the same step, so the copies stay equal.",
    )
    gap, tall = 12, 34
    width = (drawing.width - 16 - gap * (processes - 1)) / processes
    drawing.box(8, 8, drawing.width - 16, tall, "batch: images, labels")
    steps = [(66, "1/{} of the batch"), (124, "model, a copy"), (182, "gradient {}")]
    for index in range(processes):
        left = 8 + index * (width + gap)
        middle = left + width / 2
        for (y, name), above in zip(steps, (8, 66, 124)):
            drawing.arrow((middle, above + tall), (middle, y))
            drawing.box(left, y, width, tall, name.format(processes if y == 66 else index))
        drawing.arrow((middle, 182 + tall), (middle, 236))
        drawing.arrow((middle, 236 + tall), (middle, 284))
        drawing.box(left, 284, width, tall, "the same step")
        drawing.text(left + 4, 52, f"process {index}", anchor="start", size=SMALL)
    drawing.box(8, 236, drawing.width - 16, tall, "all-reduce: the mean of the gradients", dashed=True)
    return drawing


def _row_of_boxes(drawing: Drawing, x: float, y: float, count: int, colour: str) -> float:
    shown = min(count, MOST)
    for index in range(shown):
        if count > MOST and index == MOST - 2:
            drawing.text(x + BOX / 2, y + BOX / 2, "…")
        else:
            drawing.box(x, y, BOX - 4, BOX, colour=colour)
        x += BOX
    return x + 6


def _legend(drawing: Drawing, colours: dict[str, str], sizes: dict[str, int], y: float) -> None:
    x = 8.0
    for name, colour in colours.items():
        drawing.box(x, y - 6, 12, 12, colour=colour)
        label = f"{sizes[name]} × {name}"
        drawing.text(x + 18, y, label, anchor="start", size=SMALL)
        x += 34 + 7 * len(label)


def _changes(present: set[str], names: tuple[str, ...]) -> list[tuple[str, bool]]:
    entering = [(name, True) for name in names if name not in present]
    return entering + [(name, False) for name in sorted(present - set(names))]


def _sizes(plan: TokenPlan, patches: int) -> dict[str, int]:
    return {group.name: group.tokens for group in plan.groups} | {PATCHES: patches}


def _blocks(first: int, last: int) -> str:
    return f"block {first}" if first == last else f"blocks {first} … {last}"


def _in_words(stages: list[tuple[int, int, tuple[str, ...]]], sizes: dict[str, int]) -> str:
    rows = (
        f"{_blocks(first, last)}: {', '.join(f'{sizes[name]} {name}' for name in names)}"
        for first, last, names in stages
    )
    return "Tokens in the sequence. " + "; ".join(rows) + "."
