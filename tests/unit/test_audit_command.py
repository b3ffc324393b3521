"""`dtl audit`: a page, a PDF and numbers of any model, from a folder of anything; what cannot be is one line."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from dtl_lib import checkpoint, data, outputs, probes
from dtl_lib.cli.main import main
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.tokens import Group, TokenPlan
from tests.unit.asked import CONFIG, everything, pictures, saved
from tests.unit.planted import planted, random_mask, small_model

QUIET = ["--workers", "0", "--quiet", "--device", "cpu"]
MODELS = {
    "class attention": replace(
        CONFIG, talking_heads=True, layer_scale=0.3, plan=TokenPlan.of(3, cls_pos=3, class_blocks=2)
    ),
    "no class token": replace(CONFIG, plan=TokenPlan.of(3, None, 0, 2), pool="patches"),
    "attention pooling": replace(CONFIG, plan=TokenPlan.of(3, None), pool="attention"),
    "distillation": replace(CONFIG, plan=TokenPlan.of(3, dist=True)),
    "no classes": replace(CONFIG, classes=0),
    "registers that leave": replace(CONFIG, plan=TokenPlan(3, (Group("cls", 1, 1), Group("reg", 3, 0, 2)))),
    "grey": replace(CONFIG, channels=1),
}


@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path)


def audit(path, *words, folder) -> int:
    return main(["audit", str(path), *map(str, words), "--output_dir", str(folder), *QUIET])


def test_the_numbers_are_the_probes_and_all_three_files_are_there(tmp_path, folder, capsys):
    model, path = saved(tmp_path)
    assert audit(path, "--images", folder, folder=tmp_path / "out") == 0
    files = {file.suffix: file for file in (tmp_path / "out").iterdir()}
    assert {file.name for file in files.values()} == {f"audit_model.{e}" for e in ("html", "pdf", "json")}
    numbers = json.loads(files[".json"].read_text())
    expected = json.loads(json.dumps(probes.audit(model, [everything(model, folder)]).to_dict()))
    assert numbers["images"] == 5 and numbers["notes"] == [] and numbers["source"] == "from images"
    for block, other in zip(numbers["blocks"], expected["blocks"]):
        for group, norms in other["norms"].items():
            assert block["norms"][group] == pytest.approx(norms, rel=1e-3)
        assert block["received"] == pytest.approx(other["received"], rel=1e-3)
        assert block["rank"] == pytest.approx(other["rank"], rel=1e-3)
    assert files[".pdf"].read_bytes().startswith(b"%PDF") and numbers["verdict"] in capsys.readouterr().out


@pytest.mark.parametrize("name", MODELS)
def test_any_model(name, tmp_path, folder):
    _, path = saved(tmp_path, MODELS[name])
    assert audit(path, "--images", folder, "--image-size", 24, 40, folder=tmp_path) == 0
    numbers = json.loads((tmp_path / "audit_model.json").read_text())
    assert numbers["grid"] == [3, 5] and len(numbers["blocks"]) == MODELS[name].plan.blocks
    page = (tmp_path / "audit_model.html").read_text()
    others = {"no class token": "mean map of all tokens", "attention pooling": "map of attention pooling"}
    assert others.get(name, "class token&#x27;s map") in page


def test_the_page_needs_nothing_beside_it_and_says_what_is_to_be_seen(tmp_path, folder):
    _, path = saved(tmp_path)
    assert audit(path, "--images", folder, folder=tmp_path) == 0
    page = (tmp_path / "audit_model.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page and "url(" not in page
    for tag in re.findall(r"<img[^>]*>", page):
        assert len(re.search(r'alt="([^"]*)"', tag)[1]) > 10
    for tag in re.findall(r"<svg[^>]*>", page):
        assert len(re.search(r'aria-label="([^"]*)"', tag)[1]) > 20
    assert page.count("<table>") == page.count("<thead>") >= 2 and 'scope="col"' in page and 'scope="row"' in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page and "5 images" in page


def test_planted_outliers_are_on_the_page_with_their_type():
    model, mask, x = small_model(), random_mask(40, (8, 8), 0.03), data.load("shapes").test.batch(range(40))[0]
    with planted(model, mask, 2):
        found = probes.audit(model, [x])
    page = outputs.audit_html(found, "<b>odd & name", "from <i>here", ["1 image <was> left"])
    assert "<b>odd" not in page and "<i>here" not in page and "<was>" not in page and "&lt;b&gt;odd &amp; name" in page
    assert found.verdict in page.replace("&#x27;", "'") and "Where outliers are" in page
    rows = re.search(r"<h2>Outliers and their type</h2>.*?</table>", page, re.DOTALL)[0]
    shown = dict(re.findall(r'<th scope="row">(\d)</th><td>([\d.]+)</td>', rows))
    assert shown == {str(block): f"{found.blocks[block].outliers.n / 40:.2f}" for block in range(2, 6)}
    framed = outputs.audit_charts.pictured(found, found.pictures[0])
    title, photo = next(iter(framed.items()))
    assert title.startswith(f"{int(mask[0].sum())} outlier")
    marked = (photo == [0xFF, 0x2D, 0x6F]).all(axis=-1)
    side = photo.shape[0] // 8
    cells = marked.reshape(8, side, 8, side).any(axis=(1, 3))
    assert np.array_equal(cells, mask[0].numpy())
    assert set(outputs.audit_pages(found, "name", "from here")) == {"curves", "tables", "pictures"}


def test_photos_of_the_wheel_where_no_images_are_named(tmp_path, capsys):
    assert audit("zoo/shapes_depth6", folder=tmp_path) == 0
    said = "photos that come with scikit-image (no --images were given)"
    assert said in capsys.readouterr().out
    page = (tmp_path / "audit_shapes_depth6.html").read_text()
    assert said in page and f"{len(data.photo_names())} images" in page


@pytest.mark.slow
def test_the_page_says_what_a_file_of_weights_says_of_itself(tmp_path, folder):
    torch.manual_seed(0)
    tensors = {name: value.half() for name, value in timm.create_model("test_vit").state_dict().items()}
    said = "it says of itself: fine-tuned to predict <saliency>; float16 becomes float32."
    for file, title in (
        ("other", "Audit of test_vit, weights of other.safetensors"),
        ("test_vit", "Audit of test_vit"),
    ):
        path = tmp_path / f"{file}.safetensors"
        save_file(tensors, path, {"about": "fine-tuned to predict <saliency>"})
        assert audit("test_vit", "--weights", path, "--images", folder, folder=tmp_path) == 0
        page = (tmp_path / f"audit_{file}.html").read_text()
        assert f"<h1>{title}</h1>" in page and html.escape(f"{file}.safetensors: {said}") in page
        assert json.loads((tmp_path / f"audit_{file}.json").read_text())["notes"] == [f"{file}.safetensors: {said}"]


def test_channels_are_named_or_counted():
    named = [outputs.audit_charts._channels(channels) for channels in ((41,), (3, 5), range(21))]
    assert named == ["channel 41", "channels 3, 5", "21 channels"]


def test_one_corrupt_file_is_left_out_counted_and_said_at_the_end(tmp_path, folder, capsys):
    _, path = saved(tmp_path)
    (folder / "b.jpg").write_bytes(b"no image")
    assert audit(path, "--images", folder, folder=tmp_path) == 2
    out, err = capsys.readouterr()
    assert "1 image could not be read" in err and "b.jpg" in err and len(err.splitlines()) == 1 and "written" in out
    assert json.loads((tmp_path / "audit_model.json").read_text())["images"] == 4
    assert "1 image could not be read" in (tmp_path / "audit_model.html").read_text()
    assert audit(path, "--images", folder, "--force", "--max-corrupt", "0.5", folder=tmp_path) == 0


def test_nothing_is_overwritten_without_force(tmp_path, folder, capsys):
    _, path = saved(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit_model.pdf").write_text("mine")
    (tmp_path / "out" / "other.txt").write_text("mine")
    assert audit(path, "--images", folder, folder=tmp_path / "out") == 2
    assert "audit_model.pdf is there already" in capsys.readouterr().err
    assert (tmp_path / "out" / "audit_model.pdf").read_text() == "mine" and len([*(tmp_path / "out").iterdir()]) == 2
    assert audit(path, "--images", folder, "--force", folder=tmp_path / "out") == 0
    assert (tmp_path / "out" / "other.txt").read_text() == "mine" and len([*(tmp_path / "out").iterdir()]) == 4


@pytest.mark.parametrize(
    "words, said",
    [
        (["--images", "EMPTY"], "holds no images"),
        (["--images", "nowhere"], "nowhere does not exist"),
        (["--images", "FOLDER", "--image-size", "17"], "does not divide into patches of 8"),
        (["--images", "FOLDER", "--weights", "w.pth"], "leave one of them out"),
        (["--images", "FOLDER", "--device", "moon"], "there is no device"),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path, folder, capsys):
    _, path = saved(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "FOLDER": folder}
    words = [str(places.get(word, word)) for word in words]
    assert main(["audit", path, "--output-dir", str(tmp_path / "out"), "--quiet", *words]) == 2
    out, err = capsys.readouterr()
    assert said in err and len(err.splitlines()) == 1 and not out


def test_without_a_model_and_with_a_file_for_a_folder(tmp_path, capsys):
    assert main(["audit"]) == 2 and "say which model" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert audit("zoo/shapes_depth6", folder=tmp_path / "file") == 2
    assert "give a folder for --output-dir" in capsys.readouterr().err


def test_damaged_weights_are_said_and_not_drawn(tmp_path, folder, capsys):
    torch.manual_seed(0)
    model = ViT(ViTConfig((16, 24), 8, dim=16, depth=3, heads=2, classes=3)).eval()
    with torch.no_grad():
        model.blocks[1].mlp.contract.weight[0, 0] = float("nan")
    path = checkpoint.save_model(tmp_path / "model.safetensors", model, {})
    assert audit(path, "--images", folder, folder=tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "finite" in err and len(err.splitlines()) == 1 and not (tmp_path / "out" / "audit_model.html").exists()
