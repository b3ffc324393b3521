"""Pictures, folders and shards that nobody meant."""

import io
import random
import tarfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dtl_lib import data
from dtl_lib.data.photos import open_image, prepare
from tests.fuzz.limited import NASTY_TEXT, examples, limited

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
    "RGBX",
    "La",
    "RGBa",
)
FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "EPS", "PDF", "PCX", "SGI", "IM", "JPEG2000",
    "MPO", "DDS", "AVIF", "SPIDER", "MSP", "XBM", "PALM", "BUFR", "ICNS",
)  # fmt: skip
SIZES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(((1, 1), (20_000, 1), (1, 50_000), (3_000, 2), (4, 4_000))),
)  # fmt: skip


def encoded(mode: str, size: tuple[int, int], kind: str, seed: int) -> bytes | None:
    """A file of noise; None where Pillow cannot write one."""
    picture = Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))
    file = io.BytesIO()
    try:
        picture.convert(mode).save(file, kind)
    except (ValueError, OSError, KeyError, SystemError):
        return None
    return file.getvalue()


def damaged(content: bytes, at: list[tuple[float, int]], keep: float) -> bytes:
    """Some bytes changed, and the end cut off."""
    spoilt = bytearray(content)
    for place, value in at:
        spoilt[int(place * (len(spoilt) - 1))] = value
    return bytes(spoilt[: max(1, int(len(spoilt) * keep))])


HITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4)
KEEP = st.sampled_from((1.0, 1.0, 1.0, 0.9, 0.5, 0.1))
NAMES = st.one_of(st.sampled_from(("picture.png", "a.jpg", "b.bin", "c.tiff", "d")), st.sampled_from(NASTY_TEXT))


@examples(250)
@given(st.sampled_from(MODES), SIZES, st.sampled_from(FORMATS), st.integers(0, 9), HITS, KEEP)
def test_pictures(tmp_path_factory, mode, size, kind, seed, hits, keep):
    content = encoded(mode, size, kind, seed)
    if content is None:
        return
    path = tmp_path_factory.mktemp("picture") / "one.png"
    path.write_bytes(damaged(content, hits, keep))
    with limited():
        pixels = open_image(path)
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and str(pixels.dtype) == "uint8"
        x = prepare(pixels, size=16)
        assert x.shape == (1, 3, 16, 16) and torch.isfinite(x).all()


PARTS = st.sampled_from(
    ("train", "Train", "training", "val", "Valid", "validation", "test", "TESTING", "images", ".git")
)
CLASSES = st.sampled_from(("cat", "dog", "owl", "0", "1", "n01440764", "train", "__MACOSX", ".hidden", "Ünïcode"))
FILES = st.sampled_from(
    ("a.png", "b.JPG", "._a.png", ".DS_Store", "c.txt", "d.mpg", "e.h5", "f.pdf", "g.eps", "h.tiff", "classes.txt")
)


@examples(120)
@given(
    st.lists(st.tuples(PARTS | st.none(), CLASSES | st.none(), FILES, st.integers(0, 12)), max_size=14), st.data()
)  # fmt: skip
def test_folders(tmp_path_factory, entries, drawn):
    root, good = tmp_path_factory.mktemp("folder"), encoded("RGB", (9, 9), "PNG", 0)
    for part, kind, name, spoil in entries:
        folder = root.joinpath(*(each for each in (part, kind) if each))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"no picture" if spoil == 0 else good)
        except OSError:
            continue
    with limited():
        sets = data.load("folder", root, image_size=16)
        sets.describe()
        for images in (sets.train, sets.held_out, sets.test):
            if len(images):
                x, y = images.batch(torch.arange(min(4, len(images))))
                assert x.shape[1:] == (3, 16, 16) and int(y.max()) < len(images.classes)


@examples(200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("a", "b", "b", "c", "._a", "x/._b", ".DS_Store", "x/d", "/e", "../f")),
            st.sampled_from(("png", "jpg", "cls", "cls", "json", "txt", "bmp", "mpg")),
            st.sampled_from(
                (b"0", b"1", b"7", b"1000000000", b"9" * 20, b"-1", b"x", b'{"label": 1e999}', b'{"label": 1}')
            ),
        ),
        max_size=12,
    ),
    st.sampled_from((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)),
    HITS,
    KEEP,
    st.lists(st.tuples(st.sampled_from((124, 136, 0, 156, 257, 345)), st.binary(min_size=1, max_size=12)), max_size=2),
)
def test_shards(tmp_path_factory, members, kind, hits, keep, headers):
    root, picture = tmp_path_factory.mktemp("shards"), encoded("RGB", (9, 9), "PNG", 0)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as shard:
        for stem, ending, content in members:
            about = tarfile.TarInfo(f"{stem}.{ending}")
            content = picture if ending in ("png", "jpg", "bmp") else content
            about.size = len(content)
            if len(members) % 3 == 0:
                about.pax_headers = {"size": "-1536" if len(stem) > 1 else "99999999999999999999", "comment": "x"}
            shard.addfile(about, io.BytesIO(content))
    content = bytearray(file.getvalue())
    for place, value in headers:
        content[place : place + len(value)] = value
    (root / "train").mkdir()
    (root / "train" / "s-0.tar").write_bytes(damaged(bytes(content), hits, keep))
    with limited():
        sets = data.load("wds", root, image_size=16)
        x, y = sets.train.batch(torch.arange(min(4, len(sets.train))))
        assert x.shape[1:] == (3, 16, 16) and int(y.max()) < len(sets.train.classes)


@pytest.mark.parametrize("name", [text for text in NASTY_TEXT if not text.startswith("hfds")])
def test_paths_and_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (lambda: open_image(name), lambda: data.load("folder", name), lambda: data.load(name, name)):
        with limited():
            call()
    assert not list(tmp_path.iterdir())
