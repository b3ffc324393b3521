"""Images of one channel: grey pictures for models that take them, from every source, in training and after it."""

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import data
from dtl_lib.__main__ import main
from dtl_lib.checkpoint import load_model
from dtl_lib.config import IMAGENET_MEAN, ViTConfig
from dtl_lib.data.images import grey
from dtl_lib.data.photos import prepare, undo
from dtl_lib.models import ViT
from dtl_lib.train import Recipe, evaluate, fit

GREY = ViTConfig(16, 8, channels=1, dim=16, depth=1, heads=2, classes=10)


def test_grey_is_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert torch.equal(grey(torch.tensor(pixels).movedim(2, 0))[0], torch.tensor(expected))


def test_three_values_become_one():
    assert GREY.mean == (pytest.approx(0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406),) and len(GREY.std) == 1
    assert ViTConfig(16, 8, channels=1, dim=16, heads=2, mean=(0.2,), std=(0.3,)).mean == (0.2,)
    assert ViTConfig.from_dict(GREY.to_dict()) == GREY and ViTConfig(16, 8).mean == IMAGENET_MEAN


@pytest.fixture
def pictures(tmp_path):
    """Two classes that differ in brightness alone, in grey and in colour files."""
    for part, count in (("train", 24), ("val", 6)):
        for number in range(count):
            for name, value in (("dark", 40), ("light", 200)):
                (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
                image = Image.new("L" if number % 2 else "RGB", (20, 20), value if number % 2 else (value,) * 3)
                image.save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def test_batches_of_a_folder_have_one_channel(pictures):
    colour = data.load("folder", pictures, image_size=16)
    sets = data.load("folder", pictures, config=GREY)
    x, y = sets.train.batch(torch.arange(8), data.Augment(trivial=True), (0, 0))
    assert x.shape == (8, 1, 16, 16)
    x, y = sets.test.batch(torch.arange(12))
    for value, label in zip(x[:, 0, 8, 8], y):
        pixel = 40 if sets.test.classes[label] == "dark" else 200
        assert value.item() == pytest.approx((pixel / 255 - GREY.mean[0]) / GREY.std[0], abs=1e-5)
    assert colour.train.channels == 3 and colour.train.fingerprint() != sets.train.fingerprint()
    one = prepare(Image.new("RGB", (20, 20), (200, 200, 200)), config=GREY)
    assert one.shape == (1, 1, 16, 16) and torch.allclose(one[0], x[y == 1][0], atol=1e-5)


def test_a_grey_model_trains_and_evaluates(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "--channels 1 --image-size 16 --patch-size 8 --dim 16 --depth 1 --heads 2 --batch-size 8 --max-steps 30"
    flags = [*line.split(), "--lr", "0.01", "--quiet", "--device", "cpu", "--workers", "0", "--recipe", "shapes"]
    assert main(["train", "--data", "folder", "--data-path", str(pictures), "--output-dir", "run", *flags]) == 0
    model = load_model("run/best.safetensors")
    assert model.config.channels == 1 and model.card["test"]["accuracy"] == 1.0
    capsys.readouterr()
    assert main(["evaluate", "--model-path", "run/best.safetensors", "--quiet", "--device", "cpu"]) == 0
    assert "100.0%" in capsys.readouterr().out
    light = str(next((pictures / "val/light").iterdir()))
    assert main(["predict", light, "--model-path", "run/best.safetensors", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("light")


def test_sets_that_were_loaded_in_colour_follow_the_model():
    sets = data.load("shapes", image_size=16, samples=32)
    for part in (sets.held_out, sets.test):
        part.length = 20
    model = ViT(GREY)
    fit(model, sets, Recipe(max_steps=2, batch_size=8), progress=False)
    assert model.config.channels == 1 and len(model.config.mean) == 1 and evaluate(model, sets.test).n == 20
    assert sets.train.channels == 3 and sets.train.batch(torch.arange(2))[0].shape[1] == 3


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"has 3 channels or 1, grey, and the model takes {channels}"):
        data.load("shapes", config=ViTConfig(16, 8, channels=channels, dim=16, heads=2))


def test_a_set_that_was_loaded_in_grey_is_no_colour_again():
    sets = data.load("shapes", samples=32, config=GREY)
    assert "32×32, grey, 10 classes" in sets.train.describe()
    with pytest.raises(ValueError, match="level 1 test was loaded in grey, and the model takes 3 channels: load"):
        evaluate(ViT(ViTConfig(32, 8, dim=16, depth=1, heads=2, classes=10)), sets.test)


def test_values_of_three_channels_are_those_of_grey_in_one_picture_too():
    """Broadcast, they would make three channels of one."""
    picture = Image.new("RGB", (20, 20), (10, 200, 30))
    plain, given = prepare(picture, config=GREY), prepare(picture, mean=IMAGENET_MEAN, config=GREY)
    assert given.shape == (1, 1, 16, 16) and torch.equal(plain, given)
    with pytest.raises(ValueError, match="mean has 2 numbers, and the images 3 channels"):
        prepare(picture, mean=(0.5, 0.5))
    with pytest.raises(ValueError, match="with 3 channels, or with 1, grey; the model takes 4"):
        prepare(picture, config=ViTConfig(16, 8, channels=4, dim=16, heads=2))


def test_pixels_come_back_in_grey():
    picture = Image.new("RGB", (20, 20), (10, 200, 30))
    for mean, std in ((GREY.mean, GREY.std), (IMAGENET_MEAN, (0.229, 0.224, 0.225))):
        pixels = undo(prepare(picture, config=GREY), mean, std)
        assert pixels.shape == (1, 16, 16, 1) and (pixels == picture.convert("L").getpixel((0, 0))).all()
    with pytest.raises(ValueError, match="mean has 2 numbers"):
        undo(torch.zeros(3, 4, 4), (0.5, 0.5))
