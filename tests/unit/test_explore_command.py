"""`dtl explore`: a folder that opens from disk, with the reader's model and pictures; bad input is one line."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import checkpoint
from dtl_lib.cli.main import main
from dtl_lib.explore import browser, page, shown
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tokens import TokenPlan

SCRIPT = re.compile(r'<script src="([^"]+)"')


@pytest.fixture
def saved(tmp_path):
    """A checkpoint that says what it was trained on, and two pictures beside it."""
    torch.manual_seed(0)
    plan = TokenPlan.of(2, 1, 0, 2)
    model = ViT(ViTConfig(16, 8, dim=12, depth=2, heads=2, plan=plan, classes=3, crop=1.0)).eval()
    card = {"classes": ["cat", "dog", "<owl>"], "data": {"name": "cifar10 train"}, "test": {"accuracy": 0.75}}
    checkpoint.save_model(tmp_path / "best.safetensors", model, card)
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), "teal").save(tmp_path / "pictures" / name)
    return tmp_path


def index_of(folder):
    return json.loads((folder / "index.js").read_text("utf8").removeprefix("window.dtlExplorer = ").rstrip(";\n"))


def test_the_folder_holds_all_that_the_page_loads(saved, capsys):
    folder, images = saved / "page", str(saved / "pictures")
    line = ["explore", "--model_path", str(saved / "best.safetensors"), "--images", images, "--output_dir", str(folder)]
    assert main([*line, "--title", "Mine & <yours>", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert f"{folder / 'index.html'}: 2 pictures" in said and said.count("\n") == 1
    html = (folder / "index.html").read_text("utf8")
    assert "<title>Mine &amp; &lt;yours></title>" in html and "http" not in html
    assert all((folder / name).is_file() for name in SCRIPT.findall(html)) and (folder / "page.css").is_file()
    index = index_of(folder)
    (about,) = index["models"]
    assert about["says"] == (
        "Class token at 1, 2 registers at 0. Trained on CIFAR-10, photos of 32×32 pixels in ten classes; it gets 75% "
        "of the test images right."
    )
    assert about["classes"] == ["cat", "dog", "<owl>"] and [each["name"] for each in index["pictures"]] == [
        "a.png",
        "b.png",
    ]
    assert "<owl>" not in (folder / "index.js").read_text("utf8")
    parts = [(folder / f"weights_m0_{number}.js").read_text("utf8") for number in range(about["runs"]["parts"])]
    data = b"".join(base64.b64decode(text.split('"')[3]) for text in parts)
    assert data == browser.pack(checkpoint.load_model(saved / "best.safetensors")).data
    assert {file.name for file in folder.glob("seen_*")} == {"seen_m0_p0.js", "seen_m0_p1.js"}
    assert not [path for path in saved.iterdir() if path.name.startswith(".")]


def test_force_writes_over_a_page_and_leaves_what_is_not_ours(saved, capsys):
    folder = saved / "page"
    line = ["explore", str(saved / "best.safetensors"), "--output-dir", str(folder), "--quiet"]
    assert main([*line, "--images", str(saved / "pictures")]) == 0
    (folder / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(line) == 2
    assert "is not empty: give --force" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert main([*line, "--images", str(saved / "pictures" / "a.png"), "--force"]) == 0
    assert [each["name"] for each in index_of(folder)["pictures"]] == ["a.png"]
    assert [file.name for file in folder.glob("seen_*")] == ["seen_m0_p0.js"]
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_model_that_a_browser_cannot_run_has_its_stored_views(tmp_path, capsys):
    folder = tmp_path / "page"
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "a.png")
    line = ["explore", "zoo/shapes_cait4", "--images", str(tmp_path / "a.png"), "--output-dir", str(folder), "--quiet"]
    assert main(line) == 0
    assert (
        "does not run on the page: the ViT in the browser is a plain one, without talking_heads"
        in capsys.readouterr().out
    )
    (about,) = index_of(folder)["models"]
    assert about["runs"] is None and "talking_heads" in about["why"] and about["kind"] == "shapes"
    assert not list(folder.glob("weights_*")) and list(folder.glob("seen_*"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["best.safetensors"], "say where to"),
        (["--output-dir", "new"], "say which model"),
        (["best.safetensors", "--output-dir", "best.safetensors"], "is a file: give a folder"),
        (["best.safetensors", "--output-dir", "pictures"], "pictures is not empty"),
        (["missing.safetensors", "--output-dir", "new"], "missing.safetensors"),
        (["best.safetensors", "--images", "none.png", "--output-dir", "new"], "none.png"),
        (["best.safetensors", "--images", "bad.png", "pictures", "--output-dir", "new"], "bad.png"),
        (
            ["best.safetensors", "--images", *["pictures"] * 21, "--output-dir", "new"],
            "42 pictures, and a page takes 40",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(saved, monkeypatch, capsys, given, says):
    monkeypatch.chdir(saved)
    (saved / "bad.png").write_bytes(b"no picture")
    before = sorted(saved.rglob("*"))
    assert main(["explore", *given, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and sorted(saved.rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_said_without_a_temporary_name(saved, capsys):
    (saved / "file").write_text("")
    assert main(["explore", str(saved / "best.safetensors"), "--output-dir", str(saved / "file" / "page")]) == 2
    err = capsys.readouterr().err
    assert f"{saved / 'file' / 'page'} cannot be made (" in err and len(err.splitlines()) == 1


def test_cards_of_strangers_are_not_believed():
    model = ViT(ViTConfig(16, 8, dim=12, depth=2, heads=2, classes=3))
    for card in (
        {},
        {"data": 3, "test": []},
        {"data": {"name": 5}, "test": {"accuracy": "all"}},
        {"test": {"accuracy": 7.0}},
    ):
        model.card = card
        assert "test images right" not in shown.described("a", model).says


def test_a_large_model_is_stored_as_int8_or_not_at_all(monkeypatch):
    model = ViT(ViTConfig(16, 8, dim=64, depth=2, heads=2, classes=3))
    assert browser.packed_to_fit(model).spec["storage"] == "float16" and page.why_not(model) == ""
    monkeypatch.setattr(browser, "LARGEST", 100_000)
    packed = browser.packed_to_fit(model)
    assert packed.spec["storage"] == "int8" and browser.error(packed, model, torch.randn(2, 3, 16, 16))["logit"] > 0
    monkeypatch.setattr(browser, "HEAVIEST", 1000)
    assert "a browser is given" in page.why_not(model)


def test_float16_that_overflows_goes_to_int8():
    model = ViT(ViTConfig(16, 8, dim=12, depth=2, heads=2, classes=3))
    with torch.no_grad():
        model.blocks[0].mlp.expand.weight[0, 0] = 1e5
    packed = browser.packed_to_fit(model)
    assert packed.spec["storage"] == "int8"
    kept = packed.model.blocks[0].mlp.expand.weight
    np.testing.assert_allclose(kept[0, 0].detach(), 1e5, rtol=1e-6)
