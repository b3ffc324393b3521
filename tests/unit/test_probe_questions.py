"""`dtl probe QUESTION`: the files hold what the probes find, on images, folders and data sets."""

import os
import signal
import time
import weakref
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from dtl_lib import data, probes, record
from dtl_lib.cli.probe import CONTROL
from dtl_lib.cli.questions import found as asked_of
from dtl_lib.cli.questions.answers import Answer, Files
from dtl_lib.cli.questions.outliers import outliers
from dtl_lib.figures import show_bars
from dtl_lib.tokens import Group, TokenPlan
from tests.unit.asked import CONFIG, NAMES, STEMS, ask, everything, pictures, read, saved, table


@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path)


@pytest.mark.parametrize("question", ["rollout", "gradient-rollout", "relevance"])
def test_a_map_of_each_image_is_the_probe_s(question, tmp_path, folder, capsys):
    model, path = saved(tmp_path)
    out = tmp_path / "out"
    named = [] if question == "rollout" else ["--class", "owl"]
    assert ask(question, path, folder, "--batch-size", 2, *named, folder=out) == 0
    said = capsys.readouterr().out
    x = everything(model, folder)
    with record(model, grad=True) as tape:
        model(x)[:, 2].sum().backward()
    probe = {"rollout": probes.rollout, "gradient-rollout": probes.gradient_rollout, "relevance": probes.relevance}
    expected = probe[question](tape)
    for number, stem in enumerate(STEMS):
        found = np.load(out / f"{question}_{stem}.npz")
        assert found["map"].shape == (2, 3)
        np.testing.assert_allclose(found["map"], expected[number], rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(found["photo"], data.undo(x[number], model.config.mean, model.config.std))
        assert Image.open(out / f"{question}_{stem}.png").width > 500
        assert str(found["model"]) == "model.safetensors" and str(found["query"]) == "cls"
        assert ("class" in found) is bool(named) and (not named or found["class"] == 2)
        assert ("fuse" in found) is (question != "relevance")
    assert len(os.listdir(out)) == 10 and "and 7 more files" in said
    assert ("class 2, owl" in said) is bool(named)


def test_flags_reach_the_probe(tmp_path, folder):
    model, path = saved(tmp_path)
    how = {"fuse": "max", "discard": 0.5, "residual": 0.2}
    flags = [part for name, value in how.items() for part in (f"--{name}", value)]
    assert ask("rollout", path, folder / "a.png", "--query", "reg:1", *flags, folder=tmp_path) == 0
    with torch.no_grad(), record(model) as tape:
        model(read(model, folder, "a.png"))
    found = np.load(tmp_path / "rollout_a.npz")
    assert {name: found[name].item() for name in how} == how
    assert found["query"].item() == "reg:1" and found["first"] == 0
    found = found["map"]
    np.testing.assert_allclose(found, probes.rollout(tape, ("reg", 1), **how)[0], rtol=1e-4)
    assert not np.allclose(found, probes.rollout(tape, ("reg", 1))[0], rtol=1e-2)
    assert ask("rollout", path, folder / "a.png", "--query", "patch:1,2", "--force", folder=tmp_path) == 0
    found = np.load(tmp_path / "rollout_a.npz")
    assert found["query"].item() == "patch:1,2"
    np.testing.assert_allclose(found["map"], probes.rollout(tape, ("patch", 1, 2))[0], rtol=1e-4)
    assert ask("rollout", path, folder / "b.jpg", "--image-size", 24, 16, "--format", "svg", folder=tmp_path) == 0
    assert np.load(tmp_path / "rollout_b.npz")["map"].shape == (3, 2)
    assert "<svg" in (tmp_path / "rollout_b.svg").read_text()


@pytest.mark.parametrize(
    ("question", "flags", "said"),
    [
        ("rollout", ("--fuse", "min", "--discard", 0.5), ["min of heads", "residual 0.5", "50% discarded"]),
        ("rollout", ("--discard", 0.004), ["0.4% discarded", "blocks 1 to 2"]),
        ("rollout", ("--query", "reg:1", "--discard", 0.99999), ["99.999% discarded"]),
        ("rollout", ("--residual", 1), ["residual 1", "0 everywhere"]),
        ("relevance", ("--class", "owl"), ["for owl (2)", "blocks 1 to 2"]),
        ("gradient-rollout", ("--class", "cat"), ["for cat (0)", "mean of heads", "residual 0.5"]),
        ("lens", ("--class", "owl"), ["probability of owl (2)"]),
        ("lost", (), ["keys of block 2,", "mean subtracted"]),
        ("pca", ("--features", "v", "--bias", "drop"), ["values of block 2,", "without bias"]),
        ("pca", ("--bias", "keep"), ["normed tokens of block 2 -->", "three components"]),
        ("distance", ("--original",), ["rows not renormalised"]),
    ],
)
def test_a_figure_says_of_which_model_and_how_it_was_made(question, flags, said, tmp_path, folder):
    _, path = saved(tmp_path)
    assert ask(question, path, folder / "a.png", *flags, "--format", "svg", folder=tmp_path) == 0
    text = next(tmp_path.glob(f"{question}_*.svg")).read_text()
    assert all(words in text for words in ["model.safetensors", *said])
    assert "−0" not in text, "a scale begins at 0"
    of_late = question in ("rollout", "relevance", "gradient-rollout") and "--query" not in flags
    assert ("blocks 1 to 2" in text) is of_late


def test_a_map_of_tokens_that_leave_says_over_which_blocks_it_is(tmp_path, folder):
    plan = TokenPlan(4, (Group("cls", 1, 0), Group("reg", 2, 0, 2)))
    _, path = saved(tmp_path, replace(CONFIG, depth=4, plan=plan))
    for query, said in (("cls", ""), ("reg:0", "blocks 0 to 1")):
        flags = ("--query", query, "--format", "svg", "--force")
        assert ask("rollout", path, folder / "a.png", *flags, folder=tmp_path) == 0
        text, found = (tmp_path / "rollout_a.svg").read_text(), np.load(tmp_path / "rollout_a.npz")
        assert said in text and ("blocks" in text) is bool(said)
        assert (found["first"], found["last"]) == ((0, 1) if said else (0, 3))


def test_a_label_is_no_longer_than_its_figure(tmp_path, folder, monkeypatch):
    _, path = saved(tmp_path)
    drawn, save = [], Files.save
    monkeypatch.setattr(Files, "save", lambda *given: drawn.append(given[2].figure) or save(*given))
    assert ask("distance", path, folder / "a.png", "--original", folder=tmp_path) == 0
    FigureCanvasAgg(drawn[0]).draw()
    assert drawn[0].axes[0].yaxis.label.get_window_extent().height < drawn[0].bbox.height


def test_each_image_s_map_is_of_its_own_class(tmp_path, folder):
    model, path = saved(tmp_path)
    assert ask("relevance", path, folder, "--batch-size", 5, folder=tmp_path) == 0
    with torch.no_grad():
        classes = model(everything(model, folder)).argmax(dim=1).tolist()
    assert len({*classes}) > 1, "or this test shows nothing"
    assert [np.load(tmp_path / f"relevance_{stem}.npz")["class"].item() for stem in STEMS] == classes


def test_a_scale_ends_below_the_few_values_that_stand_out_and_says_so(tmp_path, folder, monkeypatch):
    _, path = saved(tmp_path)
    drawn, save = [], Files.save
    monkeypatch.setattr(Files, "save", lambda *given: drawn.append(given[2]) or save(*given))
    assert ask("rollout", path, folder / "a.png", folder=tmp_path) == 0
    values = drawn[0].arrays["map"]
    end = drawn[0].figure.axes[-1].get_ylim()[1]
    assert end == pytest.approx(np.quantile(values, 0.99)) and end < values.max()
    said = "\n".join(text.get_text() for text in drawn[0].figure.findobj(Text))
    assert f"1 off the scale, to {values.max():.2g}" in said


@pytest.mark.parametrize(
    ("model", "weights", "heading"),
    [
        ("two\nlines", None, r"two\nlines"),
        (os.fsdecode(b"stray\xff"), None, r"stray\xff"),
        ("w" * 180, None, f"{'w' * 42}…{'w' * 42}"),
        ("vit_tiny", "a/fine\ntuned.pth", "vit_tiny\nweights: fine\\ntuned.pth"),
    ],
)
def test_a_model_has_a_line_of_the_heading_and_its_weights_another(model, weights, heading, tmp_path):
    given = Namespace(output_dir=tmp_path, format="png", force=False, question="q", model=model, weights=weights)
    figure = show_bars(["a"], [0.3], "share", width=5)
    Files(given, ["it"], table=False).save("it", Answer(figure, {}))
    assert figure.get_suptitle() == heading
    assert np.load(tmp_path / "q_it.npz")["model"] == heading.replace("\n", ", ") or "…" in heading


@pytest.mark.parametrize("name", ["a$b_{$c", r"a$\alpha^2$b", "w" * 180, "two\nlines"])
@pytest.mark.parametrize("question", ["rollout", "distance", "lost"])
def test_nothing_is_cut_off_whatever_the_model_is_called(name, question, tmp_path, folder):
    path = Path(saved(tmp_path)[1])
    path = path.rename(path.with_stem(name))
    flags = ("--discard", 0.3) if question == "rollout" else ()
    assert ask(question, path, folder / "a.png", *flags, folder=tmp_path / "out") == 0
    with Image.open(next((tmp_path / "out").glob("*.png"))) as image:
        pixels = np.asarray(image.convert("L"))
    edges = np.concatenate([pixels[:8].ravel(), pixels[-8:].ravel(), pixels[:, :8].ravel(), pixels[:, -8:].ravel()])
    assert edges.min() == 255 and pixels.shape[1] < 1400


def test_who_stops_a_run_is_told_how_many_images_are_done(tmp_path, folder, monkeypatch, capsys):
    _, path = saved(tmp_path)
    save = Files.save

    def stopping(self, name, answer):
        if name == STEMS[3]:
            weakref.finalize(type("Kept", (), {})(), signal.raise_signal, signal.SIGINT)  # Python drops it there
            time.sleep(10)
        save(self, name, answer)

    monkeypatch.setattr(Files, "save", stopping)
    out = tmp_path / "out"
    assert ask("rollout", path, folder, "--batch-size", 2, folder=out) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"dtl: stopped: 3 of 5 images written to {out}"
    assert sorted(os.listdir(out)) == sorted(f"rollout_{stem}.{end}" for stem in STEMS[:3] for end in ("npz", "png"))


@pytest.mark.parametrize("given", [(), ("--features", "v", "--bias", "drop")])
def test_boxes_and_components_are_the_probes(given, tmp_path, folder, capsys):
    model, path = saved(tmp_path)
    with torch.no_grad(), record(model) as tape:
        model(everything(model, folder))
    out = tmp_path / "out"
    for question, default in (("lost", "k"), ("pca", "token")):
        assert ask(question, path, folder, "--batch-size", 2, *given, folder=out) == 0
        of, bias = given[1::2] or (default, "centre")
        patches = probes.features(model, tape, 2, of, bias)["patches"]
        boxes, maps = probes.lost(patches), probes.pca_map(patches, joint=False)
        for number, stem in enumerate(STEMS):
            found = np.load(out / f"{question}_{stem}.npz")
            assert (found["block"], found["features"].item(), found["bias"].item()) == (2, of, bias)
            if question == "lost":
                np.testing.assert_array_equal(found["box"], 8 * boxes.boxes[number])
                np.testing.assert_array_equal(found["mask"], boxes.masks[number])
            else:
                np.testing.assert_allclose(found["maps"], maps.maps[number], atol=1e-4)
                assert found["colours"].shape == (2, 3, 3)
            assert Image.open(out / f"{question}_{stem}.png").width > 300
    assert (asked_of.KINDS, asked_of.BIASES) == (probes.qkv.KINDS, probes.qkv.BIASES)
    said = capsys.readouterr().out
    assert "pixels that the model saw" in said and "of the variance" in said


def test_without_a_class_token_the_patches_ask(tmp_path, folder):
    config = replace(CONFIG, plan=TokenPlan.of(3, None, 0, 2), pool="patches")
    model, path = saved(tmp_path, config)
    assert ask("relevance", path, folder / "a.png", folder=tmp_path) == 0
    with record(model, grad=True) as tape:
        model(read(model, folder, "a.png")).amax().backward()
    expected = probes.relevance(tape, "patches")[0]
    np.testing.assert_allclose(np.load(tmp_path / "relevance_a.npz")["map"], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("question", ["gradient-rollout", "relevance"])
def test_a_class_is_explained_by_what_the_head_reads(question, tmp_path, folder):
    """A class token that the head does not read says nothing of the class."""
    model, path = saved(tmp_path, replace(CONFIG, pool="patches"))
    assert ask(question, path, folder / "a.png", folder=tmp_path) == 0
    with record(model, grad=True) as tape:
        model(read(model, folder, "a.png")).amax().backward()
    probe = {"gradient-rollout": probes.gradient_rollout, "relevance": probes.relevance}[question]
    found = np.load(tmp_path / f"{question}_a.npz")["map"]
    np.testing.assert_allclose(found, probe(tape, "patches")[0], rtol=1e-4, atol=1e-7)
    assert np.abs(found - probe(tape, "cls")[0].numpy()).max() > 1e-3
    assert ask("rollout", path, folder / "a.png", folder=tmp_path) == 0
    np.testing.assert_allclose(np.load(tmp_path / "rollout_a.npz")["map"], probes.rollout(tape)[0], rtol=1e-4)


def test_names_that_would_be_one_file_are_told_apart(tmp_path):
    model, path = saved(tmp_path)
    names = ["a b.png", "a_b.png", "A_B.jpg", "a_b_2.png", "a/b.png", "x" * 200 + ".png"]
    folder = tmp_path / "images"
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 24, 3), 30 * number, np.uint8)).save(folder / name)
    assert ask("rollout", path, folder, folder=tmp_path / "out") == 0
    photos = [np.load(file)["photo"][0, 0, 0] for file in (tmp_path / "out").glob("*.npz")]
    assert sorted(map(int, photos)) == pytest.approx([30 * number for number in range(6)], abs=3)
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_positions_are_those_of_the_size_that_is_asked_for(tmp_path, capsys):
    model, path = saved(tmp_path)
    assert ask("positions", path, "--image-size", 32, 24, folder=tmp_path) == 0
    assert "4 × 3" in capsys.readouterr().out
    found = np.load(tmp_path / "positions_model.npz")["similarity"]
    np.testing.assert_allclose(found, probes.position_similarity(model, (4, 3)), rtol=1e-5)


def test_the_lens_says_class_and_probability_of_every_token(tmp_path, folder, capsys):
    model, path = saved(tmp_path)
    assert ask("lens", path, folder / "sub" / "c.png", "--class", 1, folder=tmp_path) == 0
    said = capsys.readouterr().out
    with torch.no_grad(), record(model) as tape:
        model(read(model, folder, "sub/c.png"))
    rows, arrays = table(tmp_path / "lens_c.csv"), np.load(tmp_path / "lens_c.npz")
    assert [row["token"] for row in rows if row["block"] == "1"][:4] == ["cls", "reg 0", "reg 1", "patches"]
    for block in range(3):
        p = probes.logit_lens(model, tape, block)[0].softmax(-1)
        np.testing.assert_allclose(arrays["map"][block], probes.class_map(model, tape, block, 1)[0], rtol=1e-4)
        here = [row for row in rows if row["block"] == str(block)]
        assert len(here) == len(p)
        for row, values in zip(here, p):
            assert row["name"] == NAMES[values.argmax()] and int(row["class"]) == values.argmax()
            assert float(row["probability"]) == pytest.approx(values.max().item(), rel=1e-3)
            assert float(row["probability of 1"]) == pytest.approx(values[1].item(), rel=1e-3)
    last = [row for row in rows if row["block"] == "2"][-1]
    assert (last["row"], last["column"]) == ("1", "2")
    assert (
        "class 1, dog" in said
        and "mean of patches" in said.splitlines()[2]
        and said.splitlines()[3].split()[1] == "cls"
    )


def test_distances_are_averages_over_all_images_with_a_control(tmp_path, folder):
    model, path = saved(tmp_path)
    assert ask("distance", path, folder, "--batch-size", 2, folder=tmp_path) == 0
    expected = probes.measure_distance(model, [everything(model, folder)])
    found, rows = np.load(tmp_path / "distance_model.npz"), table(tmp_path / "distance_model.csv")
    assert found["n"] == 5 and CONTROL >= 5
    for name, value in {
        "distance": expected.trained.mean, "distance_low": expected.trained.low,
        "distance_high": expected.trained.high, "distance_untrained": expected.untrained.mean,
    }.items():  # fmt: skip
        np.testing.assert_allclose(found[name], value, rtol=1e-5)
    assert [(row["block"], row["head"]) for row in rows] == [(str(b), str(h)) for b in range(3) for h in range(2)]
    assert float(rows[3]["mean"]) == pytest.approx(expected.trained.mean[1, 1].item(), rel=1e-4)
    assert float(rows[3]["untrained"]) == pytest.approx(expected.untrained.mean[1, 1].item(), rel=1e-4)
    assert ask("distance", path, folder, "--original", "--force", folder=tmp_path) == 0
    original = np.load(tmp_path / "distance_model.npz")["distance_original"]
    expected = probes.measure_distance(model, [everything(model, folder)], renormalise=False)
    np.testing.assert_allclose(original, expected.trained.mean, rtol=1e-5)


def test_flow_is_of_every_group_in_its_blocks(tmp_path, folder):
    model, path = saved(tmp_path)
    assert ask("flow", path, folder, folder=tmp_path) == 0
    with torch.no_grad(), record(model) as tape:
        model(everything(model, folder))
    found, flow = np.load(tmp_path / "flow_model.npz"), probes.flow(tape)
    np.testing.assert_allclose(found["cls to reg"][2], flow[2].given["cls", "reg"].mean(dim=0), rtol=1e-4)
    np.testing.assert_allclose(found["all to patches"][0], flow[0].received["patches"].mean(dim=0), rtol=1e-4)
    assert np.isnan(found["cls to reg"][0]).all() and np.isfinite(found["reg to reg"]).all()
    assert {row["value"] for row in table(tmp_path / "flow_model.csv") if row["block"] == "0"} == {
        "reg to reg", "reg to patches", "patches to reg", "patches to patches", "all to reg", "all to patches",
    }  # fmt: skip


def test_filters_and_positions_are_the_model_s(tmp_path):
    model, path = saved(tmp_path)
    assert ask("filters", path, folder=tmp_path) == 0 and ask("positions", path, folder=tmp_path) == 0
    found = np.load(tmp_path / "filters_model.npz")
    np.testing.assert_array_equal(found["filters"], probes.embedding_filters(model))
    np.testing.assert_allclose(found["shares"], probes.principal_filters(model).shares)
    assert float(table(tmp_path / "filters_model.csv")[0]["share"]) == pytest.approx(
        found["shares"][0].item(), rel=1e-4
    )
    similarity = np.load(tmp_path / "positions_model.npz")["similarity"]
    np.testing.assert_allclose(similarity, probes.position_similarity(model))


def test_the_model_s_own_data_or_a_photo_where_no_images_are_named(tmp_path, capsys, monkeypatch):
    assert ask("rollout", "zoo/shapes_depth6", folder=tmp_path) == 0
    assert "on shapes level 1 test" in capsys.readouterr().out
    (numbers,) = [name for name in os.listdir(tmp_path) if name.endswith(".npz")]
    number = int(numbers.removesuffix(".npz").rpartition("_")[2])
    photo = data.undo(*[one.batch([number])[0] for one in [data.load("shapes").test]], mean=0.5, std=0.5)
    assert np.load(tmp_path / numbers)["photo"].shape == photo[0].shape
    assert ask("flow", "zoo/shapes_depth6", "--samples", 7, "--batch-size", 3, folder=tmp_path) == 0
    assert np.load(tmp_path / "flow_shapes_depth6.npz")["n"] == 7
    monkeypatch.setenv("DTL_DATA", str(tmp_path / "nothing"))
    assert ask("lens", "zoo/cifar10_depth6", folder=tmp_path) == 0
    assert "on the bundled photo chelsea" in capsys.readouterr().out and (tmp_path / "lens_chelsea.png").is_file()


def test_a_photo_is_turned_as_its_camera_noted(tmp_path):
    model, path = saved(tmp_path)
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:, :24] = 255
    image = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=turned)
    assert ask("rollout", path, tmp_path / "turned.png", folder=tmp_path) == 0
    photo = np.load(tmp_path / "rollout_turned.npz")["photo"]
    assert photo[:, :8].max() < 30 and photo[:, -8:].min() > 225


def test_grey_models_see_grey(tmp_path, folder):
    _, path = saved(tmp_path, replace(CONFIG, channels=1, mean=(0.5,), std=(0.5,)))
    for question in ("rollout", "filters", "distance"):
        words = [] if question == "filters" else [folder / "a.png"]
        assert ask(question, path, *words, folder=tmp_path) == 0
    photo = np.load(tmp_path / "rollout_a.npz")["photo"]
    assert photo.shape == (16, 24, 3) and (photo[..., 0] == photo[..., 2]).all()


def test_outliers_are_those_of_all_images_together(tmp_path, capsys):
    from tests.unit.planted import planted, random_mask, small_model

    mask = random_mask(40, (8, 8), 0.03)
    model, x = small_model(), data.load("shapes").test.batch(range(40))[0]
    with planted(model, mask, 2):
        answer = outliers(model, [x])
        with torch.no_grad(), record(model) as tape:
            model(x)
    once = probes.find_outliers(tape)
    assert answer.arrays["start"] == 2 and answer.arrays["n"] == 40 and answer.arrays["counts"].sum() == 6 * 40 * 64
    np.testing.assert_allclose(answer.arrays["places"][3], once.mask(3).double().mean(dim=0))
    rows = [dict(zip(answer.header, row, strict=True)) for row in answer.rows]
    assert [row["outliers"] for row in rows] == [int(once.mask(block).sum()) for block in range(6)]
    kinds = [sum(row[kind] for kind in ("no-op", "broadcast", "content", "ignored")) for row in rows[3:]]
    assert kinds == [len(once.sinks[block].kinds) for block in range(3, 6)]
    assert answer.lines[0].startswith("outliers from block 2 on, in 40 images")
    assert ask("outliers", "zoo/shapes_depth6", "--samples", 20, folder=tmp_path) == 0
    assert "no outliers in 20 images" in capsys.readouterr().out
    assert np.load(tmp_path / "outliers_shapes_depth6.npz")["start"] == -1
    assert len(table(tmp_path / "outliers_shapes_depth6.csv")) == 6
