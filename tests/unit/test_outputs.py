"""A look is the tape's maps, what they leave out, and what the model saw; pages draw that and nothing else."""

import re
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch

from dtl_lib import TokenNotThere, ViT, ViTConfig, data, named, record
from dtl_lib.figures import overlay
from dtl_lib.figures.overlay import OPACITY
from dtl_lib.outputs import attention_pages, look, looking, parse_query, save_pages
from dtl_lib.outputs.pages import scale_of
from dtl_lib.tape import Tape
from dtl_lib.tokens import Group, TokenPlan
from tests.unit.fixed import noise
from tests.unit.small import SMALL, build, images

PLAN = TokenPlan(3, (Group("cls", 1, enter=1), Group("reg", 3), Group("late", 2, enter=1, leave=2)))
LATE = replace(SMALL, plan=PLAN)
CAIT = ViTConfig(
    16, 4, dim=12, depth=2, heads=3, classes=2, talking_heads=True, layer_scale=1.0,
    plan=TokenPlan(2, (Group("cls", 1, enter=2), Group("reg", 2)), class_blocks=1),
)  # fmt: skip
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)


def single(model):
    return model.float()


def maps_of(model, x, block, of, **how):
    with torch.inference_mode(), record(model) as tape:
        model(x)
    return tape.maps(block, of, **how)[0].numpy()


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_look_holds_the_tapes_maps_exactly_and_what_they_leave_out(block):
    model = single(build(LATE))
    x = images(LATE, batch=1).float()
    seen = look(model, x, block)
    expected = {"reg_0": ("reg", 0), "reg_1": ("reg", 1), "reg_2": ("reg", 2)}
    expected |= {"cls": "cls"} if block else {}
    expected |= {"late_0": ("late", 0), "late_1": ("late", 1)} if block == 1 else {}
    expected |= {} if block else {"patches": "patches"}
    assert {token.name for token in seen.tokens} == set(expected)
    for token in seen.tokens:
        if token.name != "patches":
            np.testing.assert_array_equal(token.maps, maps_of(model, x, block, expected[token.name]))
        shares = token.maps.sum(axis=(1, 2)) + token.elsewhere
        np.testing.assert_allclose(shares, 1, atol=1e-6)
        assert (token.elsewhere > 1e-3).all(), "other tokens get some"
        assert seen.arrays()[token.name] is token.maps


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_the_mean_over_the_patches_is_the_mean_of_their_maps(rows, monkeypatch):
    """However many rows of attention are made at a time, and no more are."""
    made, attention = [], Tape.attention

    def counted(tape, block, stage="attention", queries=slice(None)):
        made.append(attention(tape, block, stage, queries))
        return made[-1]

    monkeypatch.setattr(Tape, "attention", counted)
    model = single(build(LATE))
    x = images(LATE, batch=1).float()
    down, across = LATE.grid
    monkeypatch.setattr(looking, "ROWS", 4 * LATE.heads * rows * (down * across + LATE.plan.tokens(1)))
    (token,) = look(model, x, 1, ["patches"]).tokens
    assert max(part.shape[2] for part in made) == min(rows, down * across)
    monkeypatch.undo()
    rows, columns = LATE.grid
    each = [maps_of(model, x, 1, ("patch", row, column)) for row in range(rows) for column in range(columns)]
    np.testing.assert_allclose(token.maps, np.mean(each, axis=0), atol=1e-6)


def test_a_look_ends_after_its_block_and_leaves_the_model_as_it_was():
    model = single(build(LATE))
    x = images(LATE, batch=1).float()
    before = model(x)
    calls = []
    model.blocks[2].register_forward_hook(lambda *_: calls.append(1))
    look(model, x, 1)
    assert not calls
    look(model, x, 2)
    assert calls
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


def test_where_there_is_no_class_token_the_patches_stand_in():
    config = replace(SMALL, plan=TokenPlan.of(3, None, 1, 2), pool="patches")
    model = single(build(config))
    x = images(config, batch=1).float()
    assert [token.name for token in look(model, x, 0).tokens] == ["patches"]
    assert [token.name for token in look(model, x, 1).tokens] == ["patches", "reg_0", "reg_1"]
    with pytest.raises(TokenNotThere, match="this plan has no cls"):
        look(model, x, 1, ["cls"])


def test_of_talking_heads_the_softmax_is_shown_and_of_class_attention_what_asks():
    model = single(build(CAIT))
    x = images(CAIT, batch=1).float()
    seen = look(model, x, 1, ["reg"])
    assert seen.stage == "softmax" and [token.name for token in seen.tokens] == ["reg_0", "reg_1"]
    mixed = maps_of(model, x, 1, ("reg", 0))
    plain = maps_of(model, x, 1, ("reg", 0), stage="softmax")
    assert not np.allclose(mixed, plain, atol=1e-4)
    np.testing.assert_array_equal(seen.tokens[0].maps, plain)
    last = look(model, x, 2)
    assert last.stage == "attention" and [token.name for token in last.tokens] == ["cls"]
    with pytest.raises(TokenNotThere, match="only cls attends"):
        look(model, x, 2, ["patches"])
    (page,) = attention_pages(look(model, x, 1, [("reg", 1)])).values()
    assert any("before the heads are mixed again" in text.get_text() for text in page.texts)


@pytest.mark.parametrize(
    ("block", "of", "message"),
    [
        (0, "cls", "cls enters at block 1; in block 0"),
        (2, "late", "late enters at block 1 and leaves at 2"),
        (1, ("reg", 3), "reg has tokens 0 … 2, not 3"),
        (1, ("patch", 2, 0), "there is no patch"),
        (3, "cls", "there is no block 3: this plan has blocks 0 … 2"),
    ],
)
def test_what_is_not_there_is_said(block, of, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        look(single(build(LATE)), images(LATE, batch=1).float(), block, [of])


def test_attention_that_is_no_number_is_not_shown():
    model = single(build(LATE))
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[3] = float("nan")
    with pytest.raises(ValueError, match="block 0 is non-finite"):
        look(model, images(LATE, batch=1).float(), 0)


@pytest.mark.parametrize(("mean", "std"), [((0.5,) * 3, (0.5,) * 3), ((0.1, 0.6, 0.9), (0.3, 0.2, 0.05))])
def test_the_photo_is_what_the_model_saw(mean, std):
    config = replace(SMALL, mean=mean, std=std, crop=0.8)
    seen = look(single(build(config)), PHOTO, 1)
    whole = data.photos.centre(PHOTO, config.image_size, 0.8, config.interpolation)
    np.testing.assert_array_equal(seen.photo, whole.movedim(0, -1).numpy())
    grey = replace(config, channels=1)
    shades = look(single(build(grey)), PHOTO, 1).photo
    assert shades.shape == (8, 12, 3) and (shades == shades[..., :1]).all() and shades.std() > 5


def test_a_query_is_read():
    tokens = {
        "cls": "cls",
        "reg": "reg",
        "reg:2": ("reg", 2),
        "patch:4,17": ("patch", 4, 17),
        "patch:4, 7": ("patch", 4, 7),
        "patches": "patches",
    }
    assert {text: parse_query(text) for text in tokens} == tokens
    for wrong in ("", "reg:", "reg:-1", "reg:1,2", "patch", "patch:4", "patch:1,2,3", "4,7", "reg:١x", "a b", "reg:²"):
        if wrong != "patch":
            with pytest.raises(ValueError, match="a query is cls"):
                parse_query(wrong)


def colours(photo, values, high) -> np.ndarray:
    """The overlay again, in floating point: torch's interpolation, matplotlib's colours."""
    values = torch.as_tensor(np.asarray(values))[None, None].float()
    up = torch.nn.functional.interpolate(values, photo.shape[:2], mode="bilinear", align_corners=False)[0, 0]
    shown = matplotlib.colormaps["viridis"](np.clip(up.numpy() / high, 0, 1))[..., :3] * 255
    return OPACITY * shown + (1 - OPACITY) * (photo @ np.array([0.299, 0.587, 0.114]))[..., None]


def test_an_overlay_lies_over_the_whole_photo_with_rows_down():
    values = noise(3, 5).abs()
    drawn = overlay(PHOTO, values, high=1.2).astype(float)
    assert drawn.shape == PHOTO.shape
    assert np.abs(drawn - colours(PHOTO, values, 1.2)).mean() < 2
    for wrong in (values.flip(0), values.flip(1), values.flip(0, 1)):
        assert np.abs(drawn - colours(PHOTO, wrong, 1.2)).mean() > 8
    flat = overlay(PHOTO, np.zeros((3, 5)), high=0)
    assert np.abs(flat - colours(PHOTO, np.zeros((3, 5)), 1)).mean() < 2


def page_of(seen, **how):
    (page,) = attention_pages(seen, "cat.jpg", "model", **how).values()
    return page


def test_a_page_draws_photo_mean_and_heads_on_one_scale():
    model = ViT.build("vit_shapes_patch8_32", depth=3, plan=TokenPlan.of(3, 1, 0, 2)).eval()
    seen = look(model, PHOTO, 1, ["cls"])
    page = page_of(seen)
    pictures = [
        axis.images[0].get_array() for axis in page.axes if axis.images and axis.images[0].get_array().ndim == 3
    ]
    maps = seen.tokens[0].maps
    photo = seen.photo.repeat(7, axis=0).repeat(7, axis=1)  # to 224 pixels
    np.testing.assert_array_equal(pictures[0], photo)
    high = scale_of(np.stack([maps.mean(axis=0), *maps]))
    expected = [maps.mean(axis=0), *maps]
    assert len(pictures) == 1 + len(expected)
    for picture, values in zip(pictures[1:], expected):
        np.testing.assert_array_equal(picture, overlay(photo, values, high))
    texts = [text.get_text() for text in page.findobj(matplotlib.text.Text)]
    assert [text for text in texts if text.startswith("head ")] == [f"head {n}" for n in range(4)]
    for values, share in zip(maps, seen.tokens[0].elsewhere):
        assert f"max {values.max():.2g}\nnot drawn {share:.1%}" in texts
    assert {"class token, block 1 of 0 to 2", "cat.jpg", "model", "cls × 1", "reg × 2"} <= set(texts)


def test_a_page_can_have_some_heads_alone():
    seen = look(ViT.build("vit_shapes_patch8_32").eval(), PHOTO, 1)
    texts = [text.get_text() for text in page_of(seen, heads=[2]).findobj(matplotlib.text.Text)]
    assert "head 2" in texts and not {"head 0", "mean"} & set(texts)
    with pytest.raises(ValueError, match="there is no head 4: this block has heads 0 … 3"):
        attention_pages(seen, heads=[4])


@pytest.mark.parametrize("heads", [1, 6, 12, 16])
def test_nothing_on_a_page_is_cut_off_or_overlaps(heads):
    plan = TokenPlan.of(24, 3, 2, 4) if heads > 1 else TokenPlan.of(24, 24, class_blocks=2)
    config = replace(named("vit_tiny_patch16_224"), dim=heads * 8, heads=heads, depth=24, plan=plan)
    seen = look(ViT(config).eval(), PHOTO, 5, [("patch", 3, 4)])
    page = page_of(seen)
    width, height = page.get_size_inches() * page.dpi
    shown = [text for text in page.findobj(matplotlib.text.Text) if text.get_text().strip() and text.get_visible()]
    ticks = [label for axis in page.axes for label in (*axis.get_xticklabels(), *axis.get_yticklabels())]
    boxes = [text.get_window_extent() for text in shown if text not in ticks]
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    assert not [(one, two) for at, one in enumerate(boxes) for two in boxes[:at] if one.overlaps(two)]


def test_a_long_name_is_cut_in_its_middle():
    seen = look(ViT.build("vit_shapes_patch8_32").eval(), PHOTO, 1)
    (page,) = attention_pages(seen, "a" * 300 + "z.jpg").values()
    (line,) = (text for text in page.texts if "…" in text.get_text())
    assert line.get_text().startswith("aaa") and line.get_text().endswith("z.jpg")
    assert line.get_window_extent().x1 < 0.6 * page.get_size_inches()[0] * page.dpi


def test_a_pdf_has_its_pages_and_the_same_bytes_again(tmp_path):
    model = ViT.build("vit_shapes_patch8_32", plan=TokenPlan.of(4, 0, 0, 2)).eval()
    pages = attention_pages(look(model, PHOTO, 1))
    for name in ("a.pdf", "b.pdf"):
        save_pages(pages, tmp_path / name, "cat")
    content = (tmp_path / "a.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", content)) == 3 == len(pages)
    assert content == (tmp_path / "b.pdf").read_bytes()
