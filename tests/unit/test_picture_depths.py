"""Every depth and mode of a picture looks as it was saved, or is refused by name; no program is started for one."""

import importlib.util
import io
import os
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from dtl_lib import data
from dtl_lib.data.decoding import decode, start_nothing
from dtl_lib.data.files import ImageFiles
from dtl_lib.data.sources.timm_readers import IndexedDataset

RAMP = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
GREY = (RAMP >> 8).astype(np.uint8)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"


def every_way(path) -> list[np.ndarray]:
    """A grey picture as a reader's photo, as a data set's image and prepared, each (height, width)."""
    photo, image = data.open_image(path), np.asarray(decode(path, "p"))
    plain = {"size": photo.shape[:2], "crop": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1)}
    with Image.open(path) as opened:
        prepared = data.prepare(opened, **plain)[0].mul(255).round().byte().permute(1, 2, 0).numpy()
    members = torch.arange(1)
    files = ImageFiles("f", ["a"], lambda _: (str(path), "p", 0), members, image_size=photo.shape[:2])
    files.crop = 1.0
    raw = files.raw([0])[0].permute(1, 2, 0).numpy()
    for picture in (photo, image, prepared, raw):
        assert picture.dtype == np.uint8 and picture.shape == (*photo.shape[:2], 3)
        assert (picture[..., 0] == picture[..., 1]).all() and (picture[..., 1] == picture[..., 2]).all()
    return [photo[..., 0], image[..., 0], prepared[..., 0], raw[..., 0]]


def tiff(values: np.ndarray, **tags) -> bytes:
    """An uncompressed little-endian TIFF of one strip, with tags that Pillow does not write."""
    height, width = values.shape
    content = values.tobytes()
    fields = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(content), 339: 1}
    fields |= {int(tag[1:]): value for tag, value in tags.items()}
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
        for tag, value in sorted(fields.items())
    )
    directory = len(fields).to_bytes(2, "little") + entries + bytes(4)
    return b"II*\0" + (8 + len(content)).to_bytes(4, "little") + content + directory


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2", "big.tif"])
def test_sixteen_bits_of_grey_are_the_ramp_they_were(tmp_path, name):
    kind = RAMP.astype(">u2") if name == "big.tif" else RAMP
    Image.fromarray(kind).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.mode in ("I;16", "I;16B", "I")  # Pillow before 10.3 calls a PNG of 16 bits I
    for picture in every_way(tmp_path / name):
        np.testing.assert_array_equal(picture, GREY)
    # timm and torchvision convert to RGB at once, for which Pillow cuts at 255: all but 256 of 65,536 values are white
    with Image.open(tmp_path / name) as image:
        assert np.asarray(image.convert("RGB")).mean() > 250


def test_tiffs_that_pillow_does_not_write(tmp_path):
    (tmp_path / "white.tif").write_bytes(tiff(RAMP, t262=0))  # 0 is white
    for picture in every_way(tmp_path / "white.tif"):
        np.testing.assert_array_equal(picture, 255 - GREY)
    twelve = (RAMP >> 4).reshape(-1, 2).astype(np.uint32)
    packed = np.stack([twelve[:, 0] >> 4, (twelve[:, 0] & 15) << 4 | twelve[:, 1] >> 8, twelve[:, 1] & 255], axis=1)
    (tmp_path / "twelve.tif").write_bytes(tiff(packed.astype(np.uint8).reshape(16, -1), t256=16, t258=12))
    for picture in every_way(tmp_path / "twelve.tif"):
        np.testing.assert_array_equal(picture, GREY)


def test_a_tiff_of_signed_bytes_is_refused(tmp_path):
    (tmp_path / "signed.tif").write_bytes(tiff(RAMP.astype(np.uint8), t258=8, t339=2))
    with pytest.raises(ValueError, match="signed.tif holds signed numbers"):
        decode(tmp_path / "signed.tif", tmp_path / "signed.tif")
    (tmp_path / "plain.tif").write_bytes(tiff(RAMP.astype(np.uint8), t258=8, t339=1))
    assert np.array_equal(np.asarray(decode(tmp_path / "plain.tif", "plain"))[..., 0], RAMP.astype(np.uint8))


def test_portable_greymaps_of_any_maximum(tmp_path):
    for most in (65535, 1023, 300):
        values = (RAMP.astype(np.float64) / 65535 * most).round().astype(">u2")
        (tmp_path / "a.pgm").write_bytes(b"P5 16 16 %d\n" % most + values.tobytes())
        for picture in every_way(tmp_path / "a.pgm"):
            assert abs(picture.astype(float) - values / most * 255).max() <= 1


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "PA", "La", "RGBa", "RGBX"]
)
def test_every_mode_of_eight_bits_keeps_its_colours(mode):
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    grey = mode in ("1", "L", "LA", "La")
    source = colours.convert("L") if grey else colours.convert("P").convert("RGB") if mode in ("P", "PA") else colours
    steps = {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA")}.get(mode, (mode,))
    image = source
    for step in steps:
        image = image.convert(step)
    expected = np.asarray((image.convert("L") if mode == "1" else source).convert("RGB")).astype(int)
    for picture in (decode(image.copy(), "p"), decode(image.copy(), "p", upright=True)):
        difference = abs(np.asarray(picture).astype(int) - expected).max()
        assert difference <= (8 if mode in ("YCbCr", "HSV") else 0), "rounding of the conversion there and back"
    prepared = data.prepare(image, size=8, crop=1.0, mean=(0,) * 3, std=(1,) * 3)[0].mul(255).round()
    assert abs(prepared.permute(1, 2, 0).numpy() - expected).max() <= (8 if mode in ("YCbCr", "HSV") else 0)


def test_sixteen_bits_of_colour_are_read_from_their_upper_eight(tmp_path):
    def png(colour: int, values: np.ndarray, *more: bytes) -> bytes:
        def chunk(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        height, width = values.shape[:2]
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
        rest = b"".join(chunk(part[:4], part[4:]) for part in more)
        return b"\x89PNG\r\n\x1a\n" + header + rest + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    opaque = np.full_like(RAMP, 65535)
    kinds = {2: [RAMP] * 3, 4: [RAMP, opaque], 6: [RAMP, RAMP, RAMP, opaque], 0: [RAMP]}
    for colour, channels in kinds.items():
        (tmp_path / "a.png").write_bytes(png(colour, np.stack(channels, axis=-1)))
        for picture in every_way(tmp_path / "a.png"):
            np.testing.assert_array_equal(picture, GREY)
    clear = struct.pack(">H", RAMP[3, 4])
    for colour, channels, mark in ((0, [RAMP], clear), (2, [RAMP] * 3, 3 * clear)):  # one value is transparent
        (tmp_path / "a.png").write_bytes(png(colour, np.stack(channels, axis=-1), b"tRNS" + mark))
        white = GREY.copy()
        white[3, 4] = 255
        photo, image, prepared, raw = every_way(tmp_path / "a.png")
        for picture, expected in ((photo, white), (prepared, white), (image, GREY), (raw, GREY)):
            np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.fromarray(RAMP.astype(np.int32)), "32-bit integers"),
        (Image.fromarray(RAMP.astype(np.float32)), "floating-point numbers"),
        (Image.fromarray(RAMP.astype(np.float32) / 65535), "floating-point numbers"),
    ],
)
def test_depths_without_a_scale_are_refused_by_name(tmp_path, image, says):
    image.save(tmp_path / "a.tif")
    for read in (data.open_image, lambda path: decode(path, path), lambda path: data.prepare(Image.open(path))):
        with pytest.raises(data.CorruptImage, match=says) as caught:
            read(tmp_path / "a.tif")
        assert "in 8 or 16 bits" in str(caught.value)


def test_what_is_transparent_is_white_to_a_reader_and_dropped_in_a_data_set(tmp_path):
    half = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    half.paste((10, 20, 30, 255), (0, 0, 2, 4))
    palette = half.convert("RGB").quantize(2)
    palette.info["transparency"] = palette.getpixel((0, 0))
    grey = half.convert("LA")
    for image, name in ((half, "a.png"), (half, "b.webp"), (half, "c.tif"), (grey, "d.png"), (palette, "e.png")):
        image.save(tmp_path / name, **({"lossless": True, "exact": True} if name == "b.webp" else {}))
        photo = data.open_image(tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            prepared = data.prepare(opened, size=4, crop=1.0, mean=(0,) * 3, std=(1,) * 3)
        np.testing.assert_array_equal(prepared[0].mul(255).round().byte().permute(1, 2, 0).numpy(), photo)
        assert (photo[:, 2:] == 255).all() and ((photo[:, :2] < 40).all() or name == "e.png")
        assert (np.asarray(decode(tmp_path / name, name)) < 40).all(), "as timm and torchvision read it"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program of Ghostscript's name, which leaves a mark; EPS under names of pictures."""
    mark, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    spec = importlib.util.find_spec("PIL.EpsImagePlugin")
    spec.loader.exec_module(fresh := importlib.util.module_from_spec(spec))
    Image.register_open("EPS", EpsImagePlugin.EpsImageFile, EpsImagePlugin._accept)  # instead of the fresh one
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", fresh.Ghostscript)  # an earlier test has had it refused
    for part in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "pictures" / part).mkdir(parents=True)
        for name in ("1.png", "2.jpg", "3.tif"):
            (tmp_path / "pictures" / part / name).write_bytes(EPS)
    yield tmp_path / "pictures"
    assert not mark.exists(), "a program has been started"


def test_no_way_to_a_picture_starts_a_program(ghostscript):
    Image.init()
    file = ghostscript / "val" / "a" / "1.png"
    opened = Image.open(file)
    with pytest.raises(ValueError, match="1.png is not an image"):
        data.open_image(file)
    with pytest.raises(ValueError, match="b is not an image"):
        decode(io.BytesIO(EPS), "b")
    with pytest.raises(ValueError, match="the image is of the format EPS"):
        data.prepare(opened)
    for name in ("folder", "torch/image_folder"):
        with pytest.raises(ValueError, match="is not an image"):
            data.load(name, ghostscript, image_size=8).test.raw([0])

    class Own:
        """Opens its pictures itself, as several of torchvision's do."""

        def __len__(self):
            return 1

        def __getitem__(self, number):
            return Image.open(file).convert("RGB"), 0

    with pytest.raises(data.CorruptImage, match="own, sample 0 is not an image that can be read"):
        IndexedDataset(Own(), "own")(0)


def test_readers_of_others_leave_pillow_its_formats(ghostscript):
    """Whoever else is in this process opens what Pillow opens; an EPS can be looked at, and is not drawn."""
    Image.init()
    before, file = (dict(Image.OPEN), list(Image.ID)), io.BytesIO()
    start_nothing()
    assert (Image.OPEN, Image.ID) == before and {"PCX", "EPS", "ICO"} <= set(Image.ID)
    Image.new("RGB", (4, 2), (7, 8, 9)).save(file, "PCX")
    assert Image.open(file).getpixel((0, 0)) == (7, 8, 9)
    eps = Image.open(io.BytesIO(EPS))
    assert eps.size == (16, 16)
    with pytest.raises(OSError, match="Ghostscript, which is not started"):
        eps.load()


@pytest.mark.parametrize(
    "error", [Image.DecompressionBombError("x"), SyntaxError("x"), struct.error("x"), EOFError("x")]
)
def test_whatever_a_reader_raises_as_it_decodes_is_one_line(error):
    class Own:
        def __getitem__(self, number):
            raise error

    with pytest.raises(data.CorruptImage, match="own, sample 3 is ") as caught:
        IndexedDataset(Own(), "own")(3)
    assert "\n" not in str(caught.value)


def test_a_picture_beyond_the_limit_is_called_large_and_not_damaged(tmp_path, monkeypatch):
    Image.new("L", (30, 50), 7).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(
        ValueError, match="a.png is too large: images of at most 1,000 pixels are read; make it smaller"
    ):
        data.open_image(tmp_path / "a.png")


def test_sixteen_bits_of_a_stream_are_not_clipped(monkeypatch):
    """timm's readers of streams turn pictures into RGB before anybody sees them, which clips 16 bits of grey."""
    import timm.data

    def create(*_, input_img_mode="RGB", **__):
        picture = Image.fromarray(RAMP)
        stream = [(picture.convert(input_img_mode) if input_img_mode else picture, 0) for _ in range(8)]
        return timm.data.IterableImageDataset(None, reader=stream)

    monkeypatch.setattr(timm.data, "create_dataset", create)
    monkeypatch.setattr("dtl_lib.data.sources.timm_readers._hub_options", lambda *_: {})
    streamed = data.load("hfids/x", samples=8, image_size=16, config=SimpleNamespace(crop=1.0)).test.raw([0])
    np.testing.assert_array_equal(streamed[0, 0].numpy(), GREY)


def test_a_picture_opened_and_cut_short_is_one_line(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    with pytest.raises(ValueError, match="the image is damaged or cut short"):
        data.prepare(Image.open(tmp_path / "a.png"))
