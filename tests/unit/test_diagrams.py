"""The drawings show the plan they are given, in colours that mean the same in every figure."""

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest

from dtl_lib import TokenPlan, figures
from dtl_lib.figures.diagrams import plan_stages
from dtl_lib.tokens import Group

MOVED = TokenPlan.of(12, cls_pos=6, reg_pos=3, num_reg=4)
CAIT = TokenPlan.of(4, cls_pos=4, class_blocks=2)
COMES_AND_GOES = TokenPlan(6, (Group("cls", 1, 0), Group("early", 2, 0, 3), Group("late", 3, 2)))
ROUTES = [[[1, 0, 0], [0, 0.6, 0.4], [0, 0, 1]], [[0.6, 0.4, 0], [0, 1, 0], [0, 0, 1]]]
SEEN = "Two curves: one that rises, and one that is hardly there."
CURVES = {"a": "#0072B2", "b": "#D55E00"}
SVG = "{http://www.w3.org/2000/svg}"

DRAWN = {
    "sequence": lambda: figures.draw_sequence(MOVED, 196),
    "long sequence": lambda: figures.draw_sequence(COMES_AND_GOES, 64),
    "block": lambda: figures.draw_block(192),
    "scaled block": lambda: figures.draw_block(192, layer_scale=True),
    "attention": lambda: figures.draw_attention(197, 64),
    "model": lambda: figures.draw_model(MOVED, "3 × 32 × 32", 64, 192, 10),
    "two stages": lambda: figures.draw_model(CAIT, "3 × 32 × 32", 64, 192, 10),
    "comes and goes": lambda: figures.draw_model(COMES_AND_GOES, "3 × 32 × 32", 64, 192, 10),
    "lens": lambda: figures.draw_lens(12, 197, 192, 1000),
    "lens of two blocks": lambda: figures.draw_lens(2, 17, 64, 10),
    "lost": lambda: figures.draw_lost(196, 192),
    "lost of many": lambda: figures.draw_lost(2074, 1024),
    "sinks": figures.draw_sinks,
    "probe": figures.draw_probe,
    "step": figures.draw_step,
    "routes": lambda: figures.draw_routes(["class token", "patch p", "patch q"], ROUTES),
    "data parallel": figures.draw_data_parallel,
    "distillation": figures.draw_distillation,
    "deletion": lambda: figures.draw_deletion([4, 0, 2, 5, 1, 3]),
    "verdicts": lambda: figures.draw_verdicts([("reproduced", 0.4, 2.2), ("undecided", -3.0, 2.4)], 1.0),
    "moved": lambda: figures.draw_moved([0, 177, 2]),
    "curves": lambda: figures.draw_curves({"a": ([0, 1], [3, 400]), "b": ([1], [5])}, "x", SEEN, CURVES, log=True),
    "shares": lambda: figures.draw_curves(
        {"a": ([0, 9, 23], [0.1, 0.2, 0]), "b": ([], [])}, "x", SEEN, CURVES, False, True
    ),
    "three processes": lambda: figures.draw_data_parallel(3),
}


def words(drawing) -> list[str]:
    return [text.text for text in ElementTree.fromstring(str(drawing)).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", DRAWN)
def test_a_drawing_is_described_and_takes_the_pages_colour(name):
    drawing = DRAWN[name]()
    root = ElementTree.fromstring(drawing._repr_svg_())
    assert root.get("role") == "img" and len(root.get("aria-label")) > 40
    assert root.find(f"{SVG}style").text.startswith("svg:root{background:#fff"), "black on black where it is an image"
    assert not any(part.tail for part in root), "characters between the shapes: markup that is not closed well"
    assert {text.get("fill") for text in root.iter(f"{SVG}text")} <= {"currentColor", "white"}
    width, height = (float(root.get(side)) for side in ("width", "height"))
    assert width <= 440
    for text in root.iter(f"{SVG}text"):
        size, middle = float(text.get("font-size")), text.get("text-anchor")
        assert size * 330 / width >= 9, "pixels of text on a telephone"
        long, x = 0.56 * size * len(text.text), float(text.get("x"))
        start = x - {"start": 0, "middle": long / 2, "end": long}[middle]
        assert start >= 0 and start + long <= width and 0 < float(text.get("y")) < height, text.text


def test_stages_are_runs_of_blocks_that_see_the_same_tokens():
    assert plan_stages(MOVED) == [
        (0, 2, ("patches",)),
        (3, 5, ("reg", "patches")),
        (6, 11, ("cls", "reg", "patches")),
    ]
    assert plan_stages(TokenPlan.of(4, class_blocks=2)) == [(0, 3, ("cls", "patches")), (4, 5, ("cls", "patches"))]


def test_boxes_of_a_sequence_have_their_groups_colours():
    boxes = Counter(rect.get("fill") for rect in ElementTree.fromstring(str(DRAWN["sequence"]())).iter(f"{SVG}rect"))
    colours = figures.token_colours(["cls", "reg", "patches"])
    legend = 1
    assert boxes[colours["cls"]] == 1 + legend
    assert boxes[colours["reg"]] == 2 * 4 + legend
    assert boxes[colours["patches"]] == 3 * 3 + legend, "three boxes and an ellipsis stand for the patches of a row"
    assert {"196 tokens", "200 tokens", "201 tokens"} <= set(words(DRAWN["sequence"]()))


def test_the_timeline_has_the_same_colours():
    from matplotlib.colors import to_hex

    bars = [to_hex(bar.get_facecolor()) for bar in figures.show_timeline(MOVED).axes[0].patches]
    assert bars == [colour.lower() for colour in figures.token_colours(["cls", "reg", "patches"]).values()]


def test_the_model_says_where_tokens_enter_and_what_the_head_reads():
    shown = words(DRAWN["two stages"]())
    assert "class attention" in shown and "norm, head on the class token" in shown and shown.count("(64, 192)") == 2
    assert "norm, head on the mean of the patches" in words(
        figures.draw_model(TokenPlan.of(2, cls_pos=None), "1 × 8 × 8", 4, 8, 2)
    )
    goes = str(DRAWN["comes and goes"]())
    assert goes.count("stroke-dasharray") == 1, "one arrow, dashed, for the group that leaves"


def test_a_wide_drawing_is_refused():
    with pytest.raises(ValueError, match="440"):
        figures.Drawing(10, "too wide", width=900)


@pytest.mark.parametrize("processes", [2, 3])
def test_every_process_has_its_part_its_gradient_and_the_same_step(processes):
    shown = words(figures.draw_data_parallel(processes))
    assert shown.count(f"1/{processes} of the batch") == shown.count("the same step") == processes
    assert {f"gradient {rank}" for rank in range(processes)} | {f"process {rank}" for rank in range(processes)} <= set(
        shown
    )
    assert sum("all-reduce" in text for text in shown) == 1


def test_the_largest_activation_is_at_the_new_token_and_nowhere_else():
    shown = words(figures.draw_moved([3, 177, 2]))
    assert shown.count("177") == 2 and shown.count("0") == 1 + 4, "the class token before; afterwards all but one"


def test_a_number_of_processes_that_is_not_drawn_is_refused():
    with pytest.raises(ValueError, match="2 or 3 processes"):
        figures.draw_data_parallel(8)


def test_routes_are_as_thick_as_their_weights_and_run_from_before_to_after():
    drawn = ElementTree.fromstring(str(figures.draw_routes(["a", "b", "c"], ROUTES)))
    lines = [(line.get("points"), float(line.get("stroke-width"))) for line in drawn.iter(f"{SVG}polyline")]
    assert len(lines) == 8, "a weight of 0 has no line"
    from_q_to_p, p_to_itself = (next(line for line in lines[:4] if line[0].startswith(x)) for x in ("400,", "275,"))
    assert from_q_to_p[0] == "400,40 275,118", "before is above, after below"
    assert from_q_to_p[1] / p_to_itself[1] == pytest.approx(0.4 / 0.6)


def test_an_interval_is_drawn_where_its_ends_are():
    drawing = str(figures.draw_verdicts([("null", -1.0, 2.0), ("opposite", -4.0, -2.0)], 2.0))
    places = [tuple(map(float, found)) for found in re.findall(r'points="([\d.]+),[\d.]+ ([\d.]+),', drawing)]
    low, zero, high = (place for place, _ in places[:3])
    unit = (high - zero) / 2
    assert zero - low == high - zero, "the margin, on both sides"
    assert places[3:] == [(zero - unit, zero + 2 * unit), (zero - 4 * unit, zero - 2 * unit)]
    assert "null: from -1 to 2" in drawing
