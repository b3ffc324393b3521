"""Every figure draws what it is given, and leaves pyplot and the reader's style as they were."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from dtl_lib import figures
from dtl_lib.figures.style import ABSENT, COLOURS, SIZE
from dtl_lib.figures.verdicts import VERDICTS
from dtl_lib.tokens import Group, TokenPlan

PHOTO = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
MAPS = torch.rand(3, 2, 3)
PLAN = TokenPlan(4, (Group("cls", 1, 2), Group("reg", 4, 1, 3)), class_blocks=2)

SURFACE = {"values": [[1.0, 2.0, 3.0], [4.0, float("nan"), 6.0]], "rows": ["0", "2"], "columns": ["none", "0", "2"]}
POINTS = {"a": (1.0, 40.0, 0.5), "b": (2.0, 39.0, 0.5), "c": (2.01, 41.0, 0.5), "d": (3.0, 42.0)}
PARETO = {"points": POINTS, "front": ["a", "c", "d"], "kinds": {"a": "one", "b": "one", "c": "two", "d": "two"}}

HEADS = torch.arange(12.0).reshape(4, 3) + 5
FLOW = {"cls gives": {"cls": [float("nan"), 0.2], "patches": [float("nan"), 0.8]}, "all give": {"patches": [1.0, 0.9]}}

TILES = {
    "a paper": {"figure": [(f"{n}{part}", "built") for n in range(1, 9) for part in "ab"], "table": [("1", "null")]},
    "another": {"equation": [("1", "out of reach"), ("2", "not tried")]},
}
DRAWN = {
    "images": lambda: figures.show_images([PHOTO, PHOTO[..., 0]], ["colour", "grey"]),
    "marked images": lambda: figures.show_images([PHOTO, PHOTO], ["with", "without"], marked=[torch.eye(4) > 0]),
    "patches": lambda: figures.show_patches(PHOTO, 16, mark=(1, 2)),
    "maps": lambda: figures.show_maps(MAPS, ["a", "b", "c"], image=PHOTO, mark=(1, 1)),
    "maps, own scale": lambda: figures.show_maps(list(MAPS), shared=False),
    "matrix": lambda: figures.show_matrix(MAPS[0], "share", numbers=True),
    "matrix, named": lambda: figures.show_matrix(torch.rand(8, 8), "share", names=PLAN.layout(2), signed=True),
    "similarity": lambda: figures.show_similarity(torch.rand(2, 3, 2, 3), [(0, 0), (1, 2)]),
    "table": lambda: figures.show_table([PHOTO, PHOTO, MAPS[0], MAPS[1]], ["photo", "map"], columns=2),
    "timeline": lambda: figures.show_timeline(PLAN),
    "curves": lambda: figures.show_curves({"a": ([1, 2], [3, 4], [2, 3], [4, 5])}, "x", "y", level=(3, "l"), log="xy"),
    "lines": lambda: figures.show_lines(torch.rand(2, 5), ["a", "b"], "x", "y"),
    "intervals": lambda: figures.show_intervals({"a": (1.0, 0.1), "b": (2.0, 0.2)}, "x", reference="a"),
    "agreement": lambda: figures.show_agreement({"a": [(1.0, 1.1, 0.9, 1.2)], "b": [(0.9, 0.9, 0.8, 1)]}, "x", "y"),
    "differences": lambda: figures.show_intervals({"a": (1.0, 0.1), "b": (2.0, 1.9, 2.2)}, "x", level=0.0),
    "far apart": lambda: figures.show_intervals({"a": (1.0, 0.1), "b": (-20.0,)}, "x", level=0.0, linear=5),
    "surface": lambda: figures.show_surface(**SURFACE, half=0.25, label="accuracy, %", mark=(1, 2)),
    "pareto": lambda: figures.show_pareto(**PARETO),
    "pareto, bare": lambda: figures.show_pareto(POINTS),
    "atlas": lambda: figures.show_atlas({**SURFACE, "mark": (0, 0)}, PARETO),
    "roofline": lambda: figures.show_roofline(1e11, 1e10, {"a": (0.5, 1e9), "b": (40.0, 9e10)}),
    "ratios": lambda: figures.show_ratios({"a": [(1.0, 1.1, 0.9, 1.2)], "b": [(20.0, 0.9, 0.8, 1)]}, "x", "y"),
    "histograms": lambda: figures.show_histograms({"a": [1.0, 2.0, 400.0], "b": [3.0, 4.0]}, "x", "y"),
    "cosines": lambda: figures.show_cosines([torch.eye(2), -torch.eye(2)], ["a", "b"], ["c", "d"]),
    "runs": lambda: figures.show_runs({"a": [1.0], "b": [2.0, 2.5, 4.0]}, "x", level=0.0),
    "bars": lambda: figures.show_bars(["a", "b"], [0.3, 0.7], "share"),
    "filters": lambda: figures.show_filters({"all": torch.rand(11, 4, 6, 3), "grey": torch.rand(3, 8, 8, 1)}, 4),
    "positions": lambda: figures.show_positions(torch.rand(2, 3, 2, 3)),
    "positions, many": lambda: figures.show_positions(torch.rand(20, 9, 20, 9), low=0, most=5),
    "heads": lambda: figures.show_heads(HEADS, "y", HEADS - 1, HEADS + 2, HEADS / 2),
    "heads, bare": lambda: figures.show_heads(HEADS[:1], "y"),
    "flow": lambda: figures.show_flow(FLOW),
    "boxes": lambda: figures.show_boxes([PHOTO, MAPS[0]], {"a": [(0, 1, 3, 4), None], "b": [(0, 0, 1, 1)] * 2}, ["x"]),
    "modes": lambda: figures.show_modes([[1, 0, 4], [2, 2, 0]], (1, 100), ["a", "b"], "x", [20.0, None]),
    "tiles": lambda: figures.show_tiles(TILES),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_and_leaves_nothing_open(name):
    before = style()
    drawn = DRAWN[name]()
    assert isinstance(drawn, Figure) and drawn.axes
    assert plt.get_fignums() == [] and style() == before


ODD = r"$\frac{$"  # no mathematics: matplotlib would raise
SURFACES = {**SURFACE, "rows": [ODD, "2"], "columns": [ODD, "0", "2"], "label": ODD}
PARETOS = {
    "points": {ODD: (1.0, 40.0), "b": (2.0, 41.0, 0.5)},
    "front": [ODD, "b"],
    "kinds": {ODD: ODD},
    "x": ODD,
    "y": ODD,
}
LABELLED = {
    "show_images": (lambda label: figures.show_images([PHOTO], [label]), 1),
    "show_patches": (lambda label: figures.show_patches(PHOTO, 16), 0),
    "show_boxes": (lambda label: figures.show_boxes([PHOTO], {label: [(0, 1, 2, 3)]}, [label], [label]), 3),
    "show_maps": (lambda label: figures.show_maps(MAPS, [label] * 3, label=label), 4),
    "show_matrix": (lambda label: figures.show_matrix(MAPS[0], label, label, label, {label: slice(0, 1)}), 5),
    "show_similarity": (lambda label: figures.show_similarity(torch.rand(2, 3, 2, 3), [(0, 0)]), 0),
    "show_table": (lambda label: figures.show_table([PHOTO, PHOTO], [label], 2, [label, label]), 3),
    "show_timeline": (lambda label: figures.show_timeline(PLAN), 0),
    "show_curves": (lambda label: figures.show_curves(
        {label: ([1, 20], [3, 4]), "b": ([1], [2])}, label, label, (3, label), "xy"), 4),
    "show_lines": (lambda label: figures.show_lines(torch.rand(1, 5), [label], label, label), 3),
    "show_intervals": (lambda label: figures.show_intervals({label: (1.0, 0.1)}, label, reference=label), 2),
    "show_runs": (lambda label: figures.show_runs({label: [1.0, 2.0]}, label), 2),
    "show_agreement": (lambda label: figures.show_agreement({label: [(1.0, 1.1, 0.9, 1.2)]}, label, label), 3),
    "show_ratios": (lambda label: figures.show_ratios({label: [(1.0, 1.1, 0.9, 1.2)]}, label, label), 3),
    "show_histograms": (lambda label: figures.show_histograms({label: [1.0, 2.0], "b": [3.0]}, label, label), 3),
    "show_cosines": (lambda label: figures.show_cosines([torch.eye(1)], [label], [label]), 3),
    "show_surface": (lambda label: figures.show_surface(**SURFACES, half=0.25), 2),
    "show_pareto": (lambda label: figures.show_pareto(**PARETOS), 4),
    "show_atlas": (lambda label: figures.show_atlas(SURFACES, PARETOS), 7),
    "show_roofline": (lambda label: figures.show_roofline(1e11, 1e10, {label: (0.5, 1e9)}), 1),
    "show_filters": (lambda label: figures.show_filters({label: torch.rand(2, 4, 4, 3)}), 1),
    "show_positions": (lambda label: figures.show_positions(torch.rand(2, 3, 2, 3)), 0),
    "show_heads": (lambda label: figures.show_heads(HEADS, label, control=HEADS, control_name=label), 2),
    "show_flow": (lambda label: figures.show_flow({label: {label: [0.2, 0.8]}}), 2),
    "show_modes": (lambda label: figures.show_modes([[1, 4]], (1, 10), [label], label, [None]), 2),
    "show_bars": (lambda label: figures.show_bars([label], [0.3], label), 2),
    "show_tiles": (lambda label: figures.show_tiles({label: {label: [(label, "null")]}}), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELLED)
def test_a_label_is_no_mathematics(name, tmp_path):
    assert set(LABELLED) == {function for function in figures.__all__ if function.startswith("show_")}
    draw, expected = LABELLED[name]
    drawn = draw(ODD)
    drawn.savefig(tmp_path / "drawn.svg")  # outside the style, as a notebook does
    shown = [text for text in drawn.findobj(Text) if ODD in text.get_text()]
    assert len(shown) >= expected and not any(text.get_parse_math() for text in shown)


@pytest.mark.parametrize(("high", "arrow"), [(None, False), (0.5, True), (2.0, False)])
def test_a_scale_says_where_values_lie_beyond_it(high, arrow):
    maps = torch.tensor([[[0.0, 1.0]], [[0.2, 0.3]]])
    image = np.zeros((8, 16, 3), np.uint8)
    for over in (False, True):
        drawn = figures.show_maps(list(maps), ["a", "b"], image, over=over, high=high)
        scale = drawn.axes[-1]
        assert scale.get_ylim() == (0, high or 1.0)
        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
        pixels, box = np.asarray(canvas.buffer_rgba())[..., :3], scale.get_window_extent()
        above = pixels[: round(len(pixels) - box.y1) - 1, round(box.x0 + box.x1) // 2].astype(int)
        yellow = (above[:, 0] > 200) & (above[:, 1] > 200) & (above[:, 2] < 100)
        assert yellow.any() == arrow, "the last colour goes on above the scale's end"


def test_intervals_that_are_unknown_are_not_drawn():
    unknown = figures.show_heads(HEADS, "y", HEADS * np.nan, HEADS * np.nan)
    known = figures.show_heads(HEADS, "y", HEADS - 1, HEADS + 1)
    assert [bool(drawn.findobj(LineCollection)) for drawn in (unknown, known)] == [False, True]


@pytest.mark.parametrize("log", ["x", "y", "xy"])
def test_a_logarithmic_axis_writes_plain_numbers(log):
    across = [1.5 * 2**power for power in range(14)]
    drawn = figures.show_curves({"a": (across, across)}, "x", "y", log=log)
    for axis in ([drawn.axes[0].xaxis] if "x" in log else []) + ([drawn.axes[0].yaxis] if "y" in log else []):
        labels = [label.get_text() for label in axis.get_ticklabels(which="both") if label.get_text()]
        assert len(labels) > 2 and all(float(label) > 0 for label in labels)


def test_places_that_are_near_each_other_on_a_logarithmic_axis_have_one_number():
    across = [0, 1, 3, 10, 30, 100, 300, 1000, 2000]
    (axis,) = figures.show_curves({"a": (across, [2] * 9)}, "x", "y", log="x").axes
    labels = [label.get_text() for label in axis.get_xticklabels() if label.get_text()]
    assert labels == ["1", "3", "10", "30", "100", "300", "2000"]


@pytest.mark.parametrize("name", DRAWN)
def test_text_has_one_size_and_can_be_read_on_a_telephone(name):
    drawn = DRAWN[name]()
    shown = {text.get_fontsize() for text in drawn.findobj(Text) if text.get_text().strip()}
    assert shown == {SIZE}
    assert SIZE * 330 / (72 * drawn.get_size_inches()[0]) > 9, "pixels of text where a page leaves a figure 330"


def test_a_map_of_its_own_scale_says_its_maximum_and_what_it_is_told():
    texts = [text.get_text() for axis in DRAWN["maps, own scale"]().axes for text in axis.texts]
    assert texts == [f"max {float(values.max()):.2g}" for values in MAPS]
    noted = figures.show_table(list(MAPS), [], columns=3, notes=["a", "b", "c"])
    assert [axis.texts[-1].get_text() for axis in noted.axes] == ["a", "b", "c"]


def test_a_tables_maps_can_share_one_scale():
    drawn = figures.show_table(list(MAPS), [], columns=3, high=0.25)
    assert [axis.images[0].get_clim() for axis in drawn.axes] == [(0, 0.25)] * 3


def test_histograms_hold_every_value_as_a_share_of_its_group():
    drawn = figures.show_histograms({"a": [1.0, 2.0, 400.0], "b": [3.0, 4.0]}, "x", "y", bins=6)
    heights = [[bar.get_height() for bar in axis.patches] for axis in drawn.axes]
    assert [sum(one) for one in heights] == [pytest.approx(1)] * 2
    assert heights[0][0] == pytest.approx(2 / 3) and heights[0][-1] == pytest.approx(1 / 3)


@pytest.mark.parametrize("cut", [20.0, 10.0, 3.0])  # inside a bin, where two bins meet, left of the highest
def test_no_colour_of_a_mode_crosses_the_cut(cut):
    drawn = figures.show_modes([[1, 4, 2, 1], [1, 4, 2, 1]], (1, 1e4), ["a", "b"], "x", [cut, None], width=8)
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    pixels, (axis, plain) = np.asarray(canvas.buffer_rgba())[..., :3], drawn.axes
    for one, divided in ((axis, cut), (plain, 1e4)):
        box = one.get_window_extent()
        rows = pixels[pixels.shape[0] - int(box.y1) : pixels.shape[0] - int(box.y0)]
        line = one.transData.transform((divided, 0))[0]
        for number, sign in ((0, 1), (1, -1)):
            _, across = np.nonzero((rows == np.multiply(255, to_rgb(COLOURS[number])).round()).all(axis=-1))
            assert len(across) > 100 or (number == 1 and one is plain and not len(across))
            assert (sign * (line - across) > -2).all()
    assert "dashed: the cut" in plain.get_xlabel()


def test_ratios_stand_at_their_height():
    drawn = DRAWN["ratios"]().axes[0]
    assert [float(group.lines[0].get_ydata()[0]) for group in drawn.containers] == [1.1, 0.9]


def style():
    return {name: value for name, value in plt.rcParams.items() if name != "backend"}  # chosen at the first drawing


def test_maps_share_one_scale_from_zero():
    drawn = DRAWN["maps"]()
    shown = [axis.images[0] for axis in drawn.axes[1:4]]
    for image, one in zip(shown, MAPS):
        assert image.get_clim() == (0, pytest.approx(float(MAPS.max())))
        np.testing.assert_allclose(image.get_array(), one)


def test_the_marked_patch_is_where_it_is_in_the_photo():
    grid, alone = DRAWN["patches"]().axes
    (outline,) = grid.patches
    middle = outline.get_x() + outline.get_width() / 2, outline.get_y() + outline.get_height() / 2
    assert middle == (2 * 16 + 8 - 0.5, 16 + 8 - 0.5)
    assert 16 < outline.get_width() == outline.get_height() < 1.5 * 16, "the patch and its neighbours stay in sight"
    np.testing.assert_array_equal(alone.images[0].get_array(), PHOTO[16:32, 32:48])


def test_the_timeline_follows_the_plan():
    (axis,) = DRAWN["timeline"]().axes
    spans = [(bar.get_x() + 0.5, bar.get_x() + bar.get_width() + 0.5) for bar in axis.patches]
    assert spans == [(2, 6), (1, 3), (0, 6)]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cls × 1", "reg × 4", "patches"]


def test_a_map_that_is_no_numbers_is_grey_and_changes_no_other():
    absent = np.full((3, 3), np.nan)
    figure = figures.show_table([absent, MAPS[0]], ["model"], columns=2)
    grey, drawn = (axis.images[0] for axis in figure.axes)
    assert grey.get_array().mask.all() and to_hex(grey.get_cmap().get_bad()) == ABSENT
    assert drawn.get_clim() == (0, pytest.approx(float(np.asarray(MAPS[0]).max())))


def luminance(colour) -> float:
    """What a grey printer makes of it: WCAG's relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_the_surface_says_every_number_once_and_leaves_blank_what_is_missing():
    (axis,) = DRAWN["surface"]().axes
    texts = {text.get_position(): text for text in axis.texts}
    expected = {(x, y): v for y, row in enumerate(SURFACE["values"]) for x, v in enumerate(row) if v == v}
    assert {place: float(text.get_text()) for place, text in texts.items()} == expected
    assert axis.get_xlabel() == "registers enter at" and axis.get_ylabel() == "class token enters at"
    assert [label.get_text() for label in axis.get_yticklabels()] == SURFACE["rows"]
    assert axis.get_title() == "accuracy, %\n± 0.25 a cell (95 %),\nthe seeds' own effect left out"
    for outline in axis.patches:
        assert (outline.get_x(), outline.get_y()) == (2 - 0.5, 1 - 0.5)


def test_the_surface_is_read_in_grey():
    values = np.arange(24.0).reshape(6, 4)
    axis = figures.show_surface(values, list("abcdef"), list("abcd")).axes[0]
    (image,) = axis.images
    shades = [luminance(image.to_rgba(value)[:3]) for value in values.flat]
    assert shades == sorted(shades) and len(set(shades)) == 24
    for text, shade in zip(axis.texts, shades):
        low, high = sorted((shade, luminance(text.get_color())))
        assert (high + 0.05) / (low + 0.05) > 4.4  # WCAG's contrast


def test_the_front_is_named_and_no_two_names_touch():
    (axis,) = DRAWN["pareto"]().axes
    letters = [text for text in axis.texts if text.get_text()]
    assert [letter.get_text() for letter in letters] == ["A", "B", "C"]
    assert [letter.xy for letter in letters] == [POINTS[name][:2] for name in PARETO["front"]]
    assert [text.get_text() for text in axis.figure.legends[0].get_texts()][-3:] == PARETO["front"]
    many = {str(at): (1 + at / 1000, 40 + at) for at in range(20)}
    (axis,) = figures.show_pareto({**many, "far": (9.0, 30.0)}, list(many)).axes
    boxes = [Text.get_window_extent(letter) for letter in axis.texts]  # without the line to its point
    assert len(boxes) == 20
    assert not any(one.overlaps(two) for at, one in enumerate(boxes) for two in boxes[:at])


def test_a_letter_stands_beside_its_point():
    (axis,) = DRAWN["pareto"]().axes
    for letter in axis.texts:
        point, box = axis.transData.transform(letter.xy), letter.get_window_extent()
        away = max(abs(point[0] - (box.x0 + box.x1) / 2), abs(point[1] - (box.y0 + box.y1) / 2))
        assert away * 72 / axis.figure.dpi < 25 and not box.contains(*point)


def test_the_front_rises_in_steps_and_shapes_tell_the_kinds():
    (axis,) = DRAWN["pareto"]().axes
    (steps,) = (line for line in axis.lines if line.get_drawstyle() == "steps-post")
    assert list(zip(*steps.get_data())) == [POINTS[name][:2] for name in PARETO["front"]]
    shapes = {line.get_xdata()[0]: line.get_marker() for line in axis.lines if line.get_marker() in ("o", "s")}
    assert shapes == {1.0: "o", 2.0: "o", 2.01: "s", 3.0: "s"}


def test_the_roof_is_the_lower_of_two_limits_and_dots_lie_where_they_are():
    reached = {"sum": (0.1, 0.8e9), "product": (50.0, 70e9)}
    (axis,) = figures.show_roofline(100e9, 10e9, reached).axes
    roof, dots = axis.lines
    for intensity, gflops in zip(*roof.get_data()):
        assert gflops == pytest.approx(min(100, 10 * intensity))
    assert roof.get_xdata()[1] == pytest.approx(10), "the corner: the rate over the bandwidth"
    assert list(zip(*dots.get_data())) == [(0.1, 0.8), (50.0, pytest.approx(70))]
    assert {"sum", "product", "10 GB/s", "100 GFLOP/s"} == {text.get_text() for text in axis.texts}
    low, high = axis.get_xlim()
    assert low < 0.1 and 50 < high


def test_words_of_a_wider_table_grow_with_it():
    drawn = [figures.show_table(list(MAPS), ["a"], 3, ["b"] * 3, size=3, width=width) for width in (5.0, 7.0)]
    assert [one.get_figwidth() for one in drawn] == pytest.approx([5, 7])
    for words in (lambda axis: axis.title, lambda axis: axis.texts[0]):
        narrow, wide = (words(one.axes[0]).get_fontsize() for one in drawn)
        assert wide == pytest.approx(7 / 5 * narrow)


def test_between_filters_there_is_nothing_so_that_the_page_shows():
    figure = figures.show_filters({"two": np.full((2, 8, 8, 3), 0.5)}, columns=2)
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.shape == (8, 17, 4)
    assert (drawn[:, 8] == 0).all() and (drawn[:, :8, 3] == 1).all() and (drawn[:, 9:, 3] == 1).all()


def test_maps_of_a_wide_image_leave_no_gap_below():
    wide, square = (figures.show_maps([torch.rand(8, across)] * 4, columns=2, size=2.4) for across in (16, 8))
    assert wide.get_figwidth() == square.get_figwidth()
    assert wide.get_figheight() < 0.8 * square.get_figheight()


@pytest.mark.parametrize("far", [-69.5, 12.0, 400.0])
def test_no_mark_of_an_interval_lies_on_the_edge(far):
    drawn = figures.show_intervals({"near": (1.0, 0.5), "far": (far, far - 3, far + 3)}, "x", level=0, linear=5)
    (axis,) = drawn.axes
    inside = axis.transAxes.inverted().transform(axis.transData.transform([(far - 3, 0), (far + 3, 0)]))[:, 0]
    assert 0.02 < inside.min() and inside.max() < 0.98
    plt.close(drawn)


def test_every_run_is_a_mark_and_the_line_is_their_mean():
    axis = DRAWN["runs"]().axes[0]
    marks = [line for line in axis.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in marks] == [[1.0], [2.0, 2.5, 4.0]]
    assert [line.get_ydata()[0] for line in marks] == [0, 1]
    means = [line.get_xdata()[0] for line in axis.lines if line.get_linewidth() == 2 and line.get_marker() != "o"]
    assert means == pytest.approx([1.0, 8.5 / 3])


def test_a_logarithmic_axis_of_many_decades_has_a_tick_a_decade():
    across = list(range(20))
    few, many = ([10 ** (-decades * x / 19) for x in across] for decades in (2, 6))
    for values, wanted in ((few, 0.2), (many, 1e-5)):
        (axis,) = figures.show_curves({"a": (across, values)}, "x", "y", log="y").axes
        low, high = axis.get_ylim()
        ticks = [tick for tick in axis.get_yticks() if low <= tick <= high]
        assert len(ticks) <= 9 and any(abs(tick / wanted - 1) < 1e-9 for tick in ticks)
    assert not any(abs(tick / 2e-5 - 1) < 1e-9 for tick in ticks)


def test_numbers_in_a_matrix_and_at_ticks_are_typeset():
    matrix = figures.show_matrix(torch.tensor([[-0.004, -0.25]]), "weight", numbers=True, signed=True)
    assert {text.get_text() for text in matrix.axes[0].texts} == {"0.00", "−0.25"}
    curve = figures.show_curves({"": ([0, 1, 2], [1e-6, 1e-3, 1])}, "x", "y", log="y")
    assert "1e-6" in {tick.get_text() for tick in curve.axes[0].get_yticklabels()}


def test_a_tile_has_the_colour_of_its_verdict_and_the_legend_counts_them():
    (axis,) = DRAWN["tiles"]().axes
    faces = [to_hex(patch.get_facecolor()) for patch in axis.patches]
    labels = [text.get_text() for text in axis.texts]
    built, null, untried = (VERDICTS[name].lower() for name in ("built", "null", "not tried"))
    assert faces[:17] == [*[built] * 16, null] and faces[18] == untried
    assert axis.patches[17].get_facecolor()[3] == 0, "an outline, through which a dark page is dark"
    assert labels[:4] == ["a paper", "figure", "1a", "1b"] and labels.count("1") == 2
    tops = [patch.get_y() for patch in axis.patches]
    assert len(set(tops[:16])) == 2 and tops == sorted(tops), "sixteen tiles take two rows"
    counted = [text.get_text() for text in axis.figure.legends[0].get_texts()]
    assert counted[0] == "built: 16" and "reproduced: 0" in counted
