"""Pictures of every kind open right or are refused by name, and no picture starts a program."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import data
from dtl_lib.data import CorruptImage
from dtl_lib.data.decoding import FORMATS, decode, endings
from dtl_lib.data.sources.folder import pictures_by_class

ROOT = Path(__file__).parents[2]
RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(3, 0)  # level v of 8 bits is 257 v
LEVELS = np.arange(256)[None].repeat(3, 0)


def saved(image: Image.Image, form: str, **how) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, form, **how)
    file.seek(0)
    return file


def netpbm(mark: str, values, most: int) -> io.BytesIO:
    height, width = values.shape[:2]
    kind = ">u2" if most > 255 else "u1"
    return io.BytesIO(f"{mark} {width} {height} {most}\n".encode() + np.asarray(values).astype(kind).tobytes())


def tiff(values, bits: int, photometric: int = 1, samples: int = 1, form: int = 1, kind="<u2") -> io.BytesIO:
    """A TIFF by hand: one strip, little-endian."""
    height, width = values.shape[:2]
    pixels = np.asarray(values).astype(kind).tobytes()
    places = 8 + len(pixels)
    bit_values = struct.pack(f"<{samples}H", *[bits] * samples)
    where = places if samples > 2 else int.from_bytes(bit_values.ljust(4, b"\0"), "little")
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, samples, where), (259, 3, 1, 1), (262, 3, 1, photometric),
        (273, 4, 1, 8), (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, len(pixels)), (339, 3, 1, form),
    ]  # fmt: skip
    extra = bit_values if samples > 2 else b""
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return io.BytesIO(b"II*\0" + struct.pack("<I", places + len(extra)) + pixels + extra + directory)


def png16(values, kind: int) -> io.BytesIO:
    """A PNG by hand of 16 bits a sample; kind 2 is RGB, 4 grey with alpha, 6 RGBA."""
    import zlib

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + parts)


def colours(values):
    return np.stack([values, values[:, ::-1], values // 2], -1)


GREY16 = {
    "png": lambda: saved(Image.fromarray(RAMP), "PNG"),
    "tiff": lambda: saved(Image.fromarray(RAMP), "TIFF"),
    "tiff, deflate": lambda: saved(Image.fromarray(RAMP), "TIFF", compression="tiff_deflate"),
    "tiff, big-endian": lambda: saved(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
    "tiff, white is zero": lambda: tiff(65535 - RAMP, 16, photometric=0),
    "jpeg 2000": lambda: saved(Image.fromarray(RAMP), "JPEG2000"),
    "pgm": lambda: netpbm("P5", RAMP, 65535),
    "pgm of 12 bits": lambda: netpbm("P5", np.round(LEVELS / 255 * 4095), 4095),
}


@pytest.mark.parametrize("kind", GREY16)
@pytest.mark.parametrize("upright", [True, False])
def test_sixteen_bits_of_grey_are_scaled(kind, upright):
    """torchvision and timm clip at 255: all but the first pixel is white there."""
    picture = np.asarray(decode(GREY16[kind](), kind, upright))
    assert picture.shape == (3, 256, 3) and np.array_equal(picture, LEVELS[..., None].repeat(3, 2))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_an_image_of_16_bits_in_memory_is_scaled(mode):
    kind = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    image = Image.frombytes(mode, (256, 3), RAMP.astype(kind).tobytes())
    expected = data.prepare(LEVELS[..., None].repeat(3, 2).astype(np.uint8), size=(3, 256), crop=1.0)
    assert torch.equal(data.prepare(image, size=(3, 256), crop=1.0), expected)


COLOUR16 = {
    "png": lambda: png16(colours(RAMP), 2),
    "tiff": lambda: tiff(colours(RAMP), 16, photometric=2, samples=3),
    "ppm": lambda: netpbm("P6", colours(RAMP), 65535),
}


@pytest.mark.parametrize("kind", COLOUR16)
def test_sixteen_bits_of_colour_are_scaled(kind):
    picture = np.asarray(decode(COLOUR16[kind](), kind), int)
    assert picture.shape == (3, 256, 3) and abs(picture - colours(RAMP) / 257).max() <= 1


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (lambda: tiff(RAMP, 32, kind="<u4"), "32-bit integers"),
        (lambda: tiff(RAMP, 16, form=2), "32-bit integers"),  # Pillow's mode of signed ones
        (lambda: tiff(RAMP, 32, form=3, kind="<f4"), "floating-point"),
        (lambda: Image.new("I", (2, 2)), "32-bit integers"),
        (lambda: Image.new("F", (2, 2)), "floating-point"),
    ],
)
def test_numbers_of_no_known_range_are_refused(file, what):
    for open_it in (lambda: decode(file(), "x.tif"), lambda: decode(file(), "x.tif", upright=True)):
        with pytest.raises(CorruptImage, match=f"x.tif holds .*{what}.* which of them is white is not known"):
            open_it()
    if isinstance(image := file(), Image.Image):
        with pytest.raises(ValueError, match=what):
            data.prepare(image)


RED = (200, 30, 60)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "P", "PA"])
def test_colours_survive_every_mode(mode):
    picture = Image.new("RGB", (4, 3), RED)
    if mode in ("P", "PA"):  # converting would dither, in some versions
        image = Image.new(mode, (4, 3), (1, 255) if mode == "PA" else 1)
        image.putpalette([0, 0, 0, *RED])
    else:
        image = (picture.convert("RGBA") if mode == "RGBa" else picture).convert(mode)
    for upright in (True, False):
        pixels = np.asarray(decode(image.copy(), mode, upright), int)
        assert abs(pixels - RED).max() <= (4 if mode == "LAB" else 2 if mode in ("YCbCr", "HSV") else 0), pixels[0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_survives_every_mode(mode):
    image = Image.new("L", (4, 3), 255 if mode == "1" else 77).convert(mode)
    assert (np.asarray(decode(image, mode)) == (255 if mode == "1" else 77)).all()


def clear():
    """Left half opaque red, right half transparent, in every way a file can say so."""
    half = Image.new("RGBA", (4, 2), (*RED, 255))
    half.paste((0, 255, 0, 0), (2, 0, 4, 2))
    palette = Image.new("P", (4, 2), 0)
    palette.putpalette([*RED, 0, 255, 0])
    palette.paste(1, (2, 0, 4, 2))
    solid = half.convert("RGB")
    return {
        "rgba": (half, {}),
        "one of a palette": (palette, {"transparency": 1}),
        "a palette of alphas": (palette, {"transparency": bytes([255, 0])}),
        "a colour": (solid, {"transparency": (0, 255, 0)}),
    }


@pytest.mark.parametrize("kind", clear())
def test_what_is_transparent_is_white_for_open_image_and_prepare_alike(tmp_path, kind):
    image, how = clear()[kind]
    image.save(tmp_path / "clear.png", **how)
    picture = data.open_image(tmp_path / "clear.png")
    assert (picture[:, :2] == RED).all() and (picture[:, 2:] == 255).all()
    with Image.open(tmp_path / "clear.png") as opened:
        x = data.prepare(opened, size=(2, 4), crop=1.0)
    assert torch.equal(x, data.prepare(picture, size=(2, 4), crop=1.0))


def test_a_transparent_grey_of_16_bits_is_white():
    png = saved(Image.fromarray(RAMP), "PNG").getvalue()
    chunk, at = b"tRNS" + (257 * 7).to_bytes(2, "big"), png.index(b"IDAT") - 4  # written by hand: not every Pillow can
    file = io.BytesIO(png[:at] + (2).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + png[at:])
    picture = np.asarray(decode(file, "grey", upright=True))
    assert (picture[:, 7] == 255).all() and (picture[:, 6] == 6).all()


def test_grey_levels_of_16_bits_are_told_apart_in_a_folder(tmp_path):
    """torchvision's own loader would give white three times."""
    for name, level in (("dark", 8_000), ("middle", 30_000), ("light", 60_000)):
        for part, count in (("train", 4), ("val", 1)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(np.full((8, 8), level, np.uint16)).save(tmp_path / part / name / f"{number}.png")
    for source in ("folder", "torch/image_folder"):
        images = data.load(source, tmp_path, image_size=8).test
        means = images.raw(range(3)).float().mean((1, 2, 3)).tolist()
        assert dict(zip(images.classes, means)) == {"dark": 31, "middle": 117, "light": 233}


TRAP = """#!/bin/sh
touch "$TRAP"
"""
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n10 10 scale\nshowpage\n%%EOF\n"
OPEN = """
import sys
import zlib
from pathlib import Path
from PIL import Image
trap, folder = Path(sys.argv[1]), Path(sys.argv[2])
from dtl_lib import data
def tried(what, work):
    try:
        work()
        print(what, "opened")
    except (ValueError, OSError) as error:
        print(what, "refused", trap.exists())
files = sorted((folder / "val/eps").iterdir())
for file in files:
    tried(file.name, lambda: data.open_image(file))
for source in ("folder", "torch/image_folder"):
    images = data.load(source, folder, image_size=8).test
    for number in range(len(images)):
        tried(source, lambda: images.raw([number]))
Image.init()
"""


def iptc(content: bytes) -> bytes:
    """A picture inside an IPTC record, which Pillow opens as whatever it is."""

    def field(record, dataset, body):
        return struct.pack(">BBBH", 0x1C, record, dataset, len(body)) + body

    head = field(3, 60, b"\x01\x00") + field(3, 20, struct.pack(">H", 10)) + field(3, 30, struct.pack(">H", 10))
    return head + field(3, 120, b"\x01") + field(8, 10, content)


def test_no_picture_starts_a_program(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text(TRAP)
    (tmp_path / "bin/gs").chmod(0o755)
    contents = {"0.jpg": EPS, "1.png": b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, len(EPS), 0, 0, 0, 0) + EPS}
    contents |= {"2.tif": iptc(EPS), "3.jpg": b"%!PS\n" + EPS}
    for part in ("train", "val"):
        (tmp_path / part / "eps").mkdir(parents=True)
        (tmp_path / part / "other").mkdir()
        for number in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / part / "other" / f"{number}.png")
        for name, content in contents.items():
            (tmp_path / part / "eps" / name).write_bytes(content)
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TRAP": str(tmp_path / "trap")}
    control = f"from PIL import Image; Image.open({str(tmp_path / 'val/eps/0.jpg')!r}).load()"
    subprocess.run([sys.executable, "-c", control], env=env, capture_output=True)
    assert (tmp_path / "trap").exists(), "Pillow alone would start it"
    (tmp_path / "trap").unlink()
    line = [sys.executable, "-c", OPEN, tmp_path / "trap", tmp_path]
    done = subprocess.run(line, env=env, capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert sum("refused" in said for said in lines) == 12 and "True" not in done.stdout, done
    assert sum("opened" in said for said in lines) == 8 and not (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["film.mpg", "data.h5", "page.pdf", "page.ps", "page.eps", "a.wmf", "a.fits", "a.iim"])
def test_files_that_are_no_pictures_do_not_stop_a_folder(tmp_path, name):
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat/0.png")
    (tmp_path / "cat" / name).write_bytes(b"no picture")
    assert [Path(file).name for file in pictures_by_class(tmp_path)["cat"]] == ["0.png"]


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm", ".pgm", ".tga"])
def test_photos_and_what_data_sets_are_stored_in_are_opened(tmp_path, ending):
    assert ending in endings() and not {"EPS", "IPTC", "WMF", "PDF", "MPEG", "HDF5"} & set(FORMATS)
    Image.new("L" if ending == ".pgm" else "RGB", (8, 8), 99 if ending == ".pgm" else (99, 99, 99)).save(
        tmp_path / f"0{ending}"
    )
    assert abs(data.open_image(tmp_path / f"0{ending}").astype(int) - 99).max() <= 2
