"""Bundled photos and a reader's own: no download, the right pixels, timm's evaluation transform, clear refusals."""

import hashlib
import io
import socket
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import data


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a bundled photo asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", data.photo_names())
def test_bundled_photos_need_no_network_and_are_scikit_images_own(name, no_network):
    from skimage.data import _registry

    picture = data.photo(name)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and min(picture.shape[:2]) >= 300
    entry = data.PHOTOS[name]
    file = Path(find_spec("skimage").origin).parent / "data" / entry.file
    assert hashlib.sha256(file.read_bytes()).hexdigest() == _registry.registry[f"data/{entry.file}"]
    assert entry.source and entry.licence in ("CC0", "public domain", "no known copyright restrictions")


def test_chelsea_is_chelsea():
    from skimage.data import chelsea

    assert np.array_equal(data.photo("chelsea"), chelsea())


def test_an_unknown_photo_is_refused():
    with pytest.raises(ValueError, match="no bundled photo 'dog'; there are chelsea, coffee"):
        data.photo("dog")


@pytest.mark.parametrize(
    ("size", "crop", "interpolation"),
    [(224, 0.9, "bicubic"), (224, 1.0, "bilinear"), (160, 0.875, "bicubic"), ((96, 160), 0.95, "bicubic")],
)
def test_prepare_is_timms_evaluation_transform(size, crop, interpolation):
    from timm.data import create_transform

    picture = data.photo("coffee")
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    height, width = (size, size) if isinstance(size, int) else size
    timms = create_transform((3, height, width), crop_pct=crop, interpolation=interpolation, mean=mean, std=std)
    x = data.prepare(picture, size, crop, mean, std, interpolation)
    assert x.shape == (1, 3, height, width) and x.dtype == torch.float32
    torch.testing.assert_close(x[0], timms(Image.fromarray(picture)), rtol=0, atol=2e-6)


def test_prepare_reads_a_config_and_lets_arguments_win():
    config = SimpleNamespace(image_size=(64, 80), crop=1.0, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")
    picture = data.photo("coffee")
    by_hand = data.prepare(picture, (64, 80), 1.0, (0.5,) * 3, (0.5,) * 3, "bilinear")
    assert torch.equal(data.prepare(picture, config=config), by_hand)
    assert not torch.equal(data.prepare(picture, config=config, interpolation="nearest"), by_hand)
    assert data.prepare(picture, size=32, config=config).shape == (1, 3, 32, 32)


def test_undo_brings_the_pixels_back():
    picture = np.ascontiguousarray(data.photo("astronaut")[:64, :64])
    x = data.prepare(picture, size=64, crop=1.0)
    assert np.array_equal(data.undo(x[0]), picture)
    assert np.array_equal(data.undo(x), picture[None])
    assert not np.array_equal(data.undo(x[0], (0.5,) * 3, (0.5,) * 3), picture)


def test_prepare_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match="uint8"):
        data.prepare(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="uint8"):
        data.prepare(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="one of bilinear, bicubic"):
        data.prepare(data.photo("chelsea"), interpolation="cubic")
    with pytest.raises(ValueError, match="crop is 2"):
        data.prepare(data.photo("chelsea"), crop=2)


def test_open_image_turns_upright_and_puts_on_white(tmp_path):
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(data.open_image(tmp_path / "turned.png"), picture[::-1])
    Image.new("RGBA", (2, 3), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert (data.open_image(str(tmp_path / "clear.png")) == 255).all()
    Image.new("L", (2, 3), 7).save(tmp_path / "grey.png")
    assert data.open_image(tmp_path / "grey.png").shape == (3, 2, 3)


def damaged_files():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    png, jpeg = buffer.getvalue(), io.BytesIO()
    Image.open(buffer).save(jpeg, "JPEG")
    return {
        "text.jpg": b"this is text",
        "empty.png": b"",
        "half.png": png[: len(png) // 2],
        "half.jpg": jpeg.getvalue()[: len(jpeg.getvalue()) // 2],
        "flipped.png": png[:40] + bytes(255 - byte for byte in png[40:60]) + png[60:],
    }


@pytest.mark.parametrize("name", damaged_files())
def test_a_file_that_is_no_image_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(damaged_files()[name])
    with pytest.raises(ValueError, match=name) as caught:
        data.open_image(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_is_one_line(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(ValueError, match="does not exist|is a folder, not a file"):
            data.open_image(path)
