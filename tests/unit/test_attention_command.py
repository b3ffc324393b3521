"""`dtl attention`: its files hold the tape's maps, and what cannot be read, drawn or replaced is said in a line."""

import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import TokenPlan, ViT, checkpoint, data, load_pretrained, record
from dtl_lib.cli.file_names import distinct
from dtl_lib.cli.main import main
from dtl_lib.cli.questions.answers import model_called
from dtl_lib.config import ViTConfig
from dtl_lib.outputs import pages as pages_of
from tests.unit.asked import DATA, TINY, needs, saved

PLAN = TokenPlan.of(4, 2, 1, 2)  # the class token enters last: reg_0, reg_1 at 1, cls at 2
CONFIG = ViTConfig(16, 4, dim=16, depth=4, heads=2, classes=3, crop=1.0, plan=PLAN)
pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def model(tmp_path):
    """A model with every parameter moved, saved as model.safetensors."""
    return saved(tmp_path, CONFIG)[0]


def photo(name: str, seed: int = 0, size=(40, 30)) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(name)
    return name


def run(*arguments) -> int:
    return main(["attention", *map(str, arguments), "--model-path", "model.safetensors", "--device", "cpu"])


def files(folder=".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.name.startswith((".", "attention")))


def pages(path) -> int:
    return len(re.findall(rb"/Type /Page\b", Path(path).read_bytes()))


def test_a_photo_becomes_a_pdf_with_a_page_for_each_token(model, capsys):
    assert run(photo("cat.png")) == 0
    assert files() == ["attention_cat_layer_2.pdf"] and pages("attention_cat_layer_2.pdf") == 3
    assert capsys.readouterr().out == "cat.png: attention_cat_layer_2.pdf\n"


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (
            {"model": "vit_small_patch14_dinov2", "weights": "a/tuned.pth"},
            ["vit_small_patch14_dinov2", "weights: tuned.pth"],
        ),
        ({"model": "zoo/shapes_depth6", "weights": None}, ["zoo/shapes_depth6"]),
        ({"model": None, "model_path": "runs/best.safetensors"}, ["best.safetensors"]),
    ],
)
def test_a_model_is_called_by_whose_weights_it_has(given, lines):
    assert model_called(Namespace(**given), "\n").splitlines() == lines
    assert model_called(Namespace(**given)) == ", ".join(lines)


@pytest.mark.parametrize(("block", "names"), [(0, ["patches"]), (1, ["patches", "reg_0", "reg_1"]), (3, None)])
def test_numbers_are_the_tapes_exactly(model, block, names):
    assert run(photo("cat.png"), "--layer_num", block, "--format", "npz", "png", "--output_dir", "a/b") == 0
    names = names or ["cls", "reg_0", "reg_1"]
    pngs = [f"attention_cat_layer_{block}_{name}.png" for name in names]
    assert files("a/b") == sorted([f"attention_cat_layer_{block}.npz", *pngs])
    arrays = np.load(f"a/b/attention_cat_layer_{block}.npz")
    x = data.prepare(data.open_image("cat.png"), config=CONFIG)
    with torch.inference_mode(), record(model) as tape:
        model(x)
    for name in names:
        if name != "patches":
            of = name if name == "cls" else ("reg", int(name[-1]))
            np.testing.assert_array_equal(arrays[name], tape.maps(block, of)[0].numpy())
            shares = 1 - arrays[name].sum(axis=(1, 2))
            np.testing.assert_allclose(arrays[f"{name}_elsewhere"], shares, atol=1e-6)
    assert set(arrays) == {"block", "model", "photo", *names, *(f"{name}_elsewhere" for name in names)}
    assert arrays["block"] == block and str(arrays["model"]) == "model.safetensors"
    assert all(Image.open(f"a/b/{name}").size[0] == 2000 for name in pngs)


def test_queries_heads_and_sizes_are_asked_for(model):
    flags = ["--query", "reg:1", "patch:1,5", "patches", "--head", 1, "--image-size", 16, 24, "--format", "npz", "pdf"]
    assert run(photo("cat.png"), *flags) == 0
    arrays = np.load("attention_cat_layer_2.npz")
    assert [name for name in arrays if arrays[name].ndim == 3] == ["photo", "reg_1", "patch_1_5", "patches"]
    assert arrays["patch_1_5"].shape == (2, 4, 6) and arrays["photo"].shape == (16, 24, 3)
    assert pages("attention_cat_layer_2.pdf") == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--query", "cls", "--layer-num", 1], "cls enters at block 2; in block 1 the sequence holds reg, patches"),
        (["--query", "reg:1", "--layer-num", 0], "reg enters at block 1; in block 0 the sequence holds only patches"),
        (["--query", "reg:2"], "reg has tokens 0 … 1, not 2"),
        (["--query", "patch:4,0"], "there is no patch (4, 0): the grid has 4 rows and 4 columns"),
        (["--query", "dist"], "this plan has no dist"),
        (["--query", "reg-1"], "a query is cls, dist, patches"),
        (["--layer-num", 4], "there is no block 4: this plan has blocks 0 … 3"),
        (["--head", 2], "there is no head 2: this block has heads 0 … 1"),
        (["--image-size", 17], "does not divide into patches of 4: the nearest that does is 16×16"),
        (["--output-dir", "cat.png"], "cat.png is a file: give a folder"),
        (["empty"], "empty holds no images"),
        (["--output-dir", "cat.png/maps"], "a map cannot be written to cat.png/maps/attention_cat_layer_2.pdf"),
        (["--model", "zoo/shapes_depth6"], "give --model-path or --model, not both"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(model, capsys, flags, message):
    Path("empty").mkdir()
    assert run(photo("cat.png"), *flags) == 2
    out, error = capsys.readouterr()
    assert message in error and error.count("\n") == 1 and not out and not files()


def test_weights_that_are_no_numbers_are_said_and_not_drawn(model, capsys):
    with torch.no_grad():
        model.blocks[3].attention.qkv.weight[0] = float("nan")
    checkpoint.save_model(Path("model.safetensors"), model, {})
    assert run(photo("cat.png")) == 2
    assert (
        "blocks.3.attention.qkv.weight of the model holds non-finite values" in capsys.readouterr().err and not files()
    )


def test_nothing_is_replaced_without_force(model, capsys):
    other = Path("attention_cat_layer_2.pdf")
    other.write_text("mine")
    Path("notes.txt").write_text("kept")
    photo("dog.png", 1)
    assert run(photo("cat.png"), "dog.png") == 2
    assert "attention_cat_layer_2.pdf is there already: give --force" in capsys.readouterr().err
    assert other.read_text() == "mine" and files() == [other.name]
    assert run("cat.png", "dog.png", "--force") == 0
    assert pages(other) == 3 and len(files()) == 2 and Path("notes.txt").read_text() == "kept"


def test_one_corrupt_image_among_many_is_said_and_the_rest_done(model, capsys):
    for number in range(5):
        photo(f"photos/{number}.png", number)
    Path("photos/2.png").write_bytes(Path("photos/1.png").read_bytes()[:80])
    Path("photos/notes.txt").write_text("no image")
    assert run("photos", "missing.png", "--output-dir", "maps", "--format", "npz") == 2
    out, error = capsys.readouterr()
    assert files("maps") == [f"attention_{number}_layer_2.npz" for number in (0, 1, 3, 4)]
    assert "4 of 6 images written to maps" in out
    line = error.splitlines()[-1]
    assert "2.png" in line and "2 images could not be read: photos/2.png, missing.png" in line


def test_names_that_collide_are_told_apart(model, capsys):
    photo("one/a.png", 1), photo("two/a.png", 2), photo("two/A.jpg", 3), photo("two/a_2.png", 4)
    assert run("one", "two", "--format", "npz") == 0
    assert len(files()) == 4
    out = capsys.readouterr().out
    said = {Path(line.partition(":")[0]): line.partition(": ")[2] for line in out.splitlines() if line.count(".npz")}
    names = {Path("one/a.png"): "attention_a_layer_2.npz"} | said
    assert len(names) == 4 and sorted(names.values()) == files()
    for path, name in names.items():
        prepared = data.prepare(data.open_image(path), config=CONFIG)
        np.testing.assert_array_equal(np.load(name)["photo"], data.undo(prepared, CONFIG.mean, CONFIG.std)[0])


@pytest.mark.slow
def test_any_name_becomes_a_name_of_a_file(model, capsys, recwarn):
    odd = ["猫 ñ", "a\nb\x1b[31m", "x" * 240, "q?*:", b"caf\xe9".decode(errors="surrogateescape")]
    names = [photo(f"{name}.png", number) for number, name in enumerate(odd)]
    assert run(*names, "--format", "pdf", "npz", "--query", "cls") == 0
    assert len(files()) == 10 and "attention_猫 ñ_layer_2.npz" in files()
    assert "\x1b" not in capsys.readouterr().out and not [one for one in recwarn if "Glyph" in str(one.message)]
    assert distinct(["a", "A", "a_2", "a"]) == ["a", "A_2", "a_2_2", "a_3"]


def test_who_stops_a_run_is_told_how_many_images_are_done(model, monkeypatch, capsys):
    read = data.open_image
    for number in range(3):
        photo(f"in/{number}.png", number)

    def stopping(file):
        if file.name == "2.png":
            raise KeyboardInterrupt
        return read(file)

    monkeypatch.setattr(data, "open_image", stopping)
    assert run("in", "--format", "npz", "--quiet", "--output-dir", "out") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "dtl: stopped: 2 of 3 images written to out"
    assert files("out") == ["attention_0_layer_2.npz", "attention_1_layer_2.npz"]


def test_a_page_says_of_which_image_and_model_it_is(model, monkeypatch):
    drawn, save = [], pages_of.save_pages
    monkeypatch.setattr(pages_of, "save_pages", lambda *given: drawn.append(given) or save(*given))
    assert run(photo("cat.png")) == 0
    ((pages, _, title),) = drawn
    assert title == "cat.png" and len(pages) == 3
    for figure in pages.values():
        texts = [text.get_text() for text in figure.texts]
        assert "cat.png" in texts and "model.safetensors" in texts


@pytest.mark.parametrize("model_name", ["zoo/shapes_depth6_reg4", "zoo/cifar10_depth6_attention"])
def test_without_an_image_the_models_data_or_a_photo_is_taken(model_name, monkeypatch, tmp_path):
    monkeypatch.setenv("DTL_DATA", str(tmp_path / "nothing"))
    assert main(["attention", "--model", model_name, "--format", "npz", "--device", "cpu"]) == 0
    (name,) = files()
    model, arrays = load_pretrained(model_name), np.load(name)
    if model_name.startswith("zoo/shapes"):
        assert name == "attention_shapes_test_0_layer_2.npz"
        shown = data.load("shapes").test.raw([0])[0].movedim(0, -1).numpy()
    else:
        assert name == "attention_chelsea_layer_2.npz"
        prepared = data.prepare(data.photo("chelsea"), config=model.config)
        shown = data.undo(prepared, model.config.mean, model.config.std)[0]
    assert np.abs(arrays["photo"].astype(int) - shown).max() <= 1


def test_the_usual_block_is_the_last_of_a_model_with_fewer(tmp_path):
    model = ViT(ViTConfig(16, 8, dim=8, depth=2, heads=2, classes=0, plan=TokenPlan.of(2)))
    checkpoint.save_model(tmp_path / "model.safetensors", model, {})
    assert run(photo("cat.png"), "--format", "npz") == 0
    assert files() == ["attention_cat_layer_1.npz"]


@needs(f"weights/{TINY}.safetensors", "imagenet/val")
def test_of_real_weights_and_a_real_photo_the_numbers_are_the_tapes():
    image = next((DATA / "imagenet" / "val").glob("*/*"))
    assert (
        main(["attention", str(image), "--model", TINY, "--layer-num", "9", "--format", "npz", "--device", "cpu"]) == 0
    )
    (name,) = files()
    model = load_pretrained(TINY)
    x = data.prepare(data.open_image(image), config=model.config)
    with torch.inference_mode(), record(model) as tape:
        model(x)
    np.testing.assert_array_equal(np.load(name)["cls"], tape.maps(9)[0].numpy())
    assert np.abs(np.load(name)["cls"] - tape.maps(8)[0].numpy()).max() > 1e-3
