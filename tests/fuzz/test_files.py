"""Pictures, folders and shards that nobody meant."""

import io
import os
import random
import tarfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dtl_lib import data
from dtl_lib.data.decoding import endings
from dtl_lib.data.photos import open_image, prepare
from dtl_lib.data.splits import part_of
from tests.fuzz.limited import NASTY_TEXT, examples, limited

MODES = (
    "1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "RGBX", "La", "RGBa",
)  # fmt: skip
EXACT = "PNG", "BMP", "TIFF", "PPM", "TGA"  # formats that keep every value
FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "EPS", "PDF", "PCX", "SGI", "IM", "JPEG2000",
    "MPO", "DDS", "AVIF", "SPIDER", "MSP", "XBM", "PALM", "BUFR", "ICNS",
)  # fmt: skip
SIZES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(((1, 1), (20_000, 1), (1, 50_000), (3_000, 2), (4, 4_000))),
)  # fmt: skip


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """A picture in which every value is random."""
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))


def encoded(mode: str, size: tuple[int, int], kind: str, seed: int) -> bytes | None:
    """A file of noise; None where Pillow cannot write one."""
    file = io.BytesIO()
    try:
        noise(size, seed).convert(mode).save(file, kind)
    except (ValueError, OSError, KeyError, SystemError):
        return None
    return file.getvalue()


def expected(mode: str, size: tuple[int, int], seed: int) -> np.ndarray:
    """What the file of `encoded` shows; grey values that lie in 16 bits are shares of 65,535."""
    wide = mode in ("I", "I;16")
    pixels = np.asarray(noise(size, seed).convert("L" if wide else mode).convert("RGB"))
    return np.round(pixels / 257).astype(np.uint8) if wide else pixels


def coloured(text: str) -> tuple[bytes, tuple[int, ...]]:
    """A picture of one colour that the text decides, as a file, and the colour."""
    colour = tuple(zlib.crc32(text.encode(errors="surrogatepass")).to_bytes(4, "big")[:3])
    file = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(file, "PNG")
    return file.getvalue(), colour


def check_pixels(images, numbers: torch.Tensor, colours: list[tuple[int, ...]]) -> None:
    """That each of the images has its one colour, to a step of a grey level."""
    raw = images.raw(numbers)
    assert raw.float().amax((2, 3)).tolist() == raw.float().amin((2, 3)).tolist()
    assert raw[:, :, 0, 0].tolist() == list(map(list, colours))


def damaged(content: bytes, at: list[tuple[float, int]], keep: float) -> bytes:
    """Some bytes changed, and the end cut off."""
    spoilt = bytearray(content)
    for place, value in at:
        spoilt[int(place * (len(spoilt) - 1))] = value
    return bytes(spoilt[: max(1, int(len(spoilt) * keep))])


KINDS = [(mode, kind) for mode in MODES for kind in FORMATS if encoded(mode, (9, 9), kind, 0)]
PICTURES = [ending[1:] for ending in endings()]
HITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4)
KEEP = st.sampled_from((1.0, 1.0, 1.0, 0.9, 0.5, 0.1))
NAMES = st.one_of(st.sampled_from(("picture.png", "a.jpg", "b.bin", "c.tiff", "d")), st.sampled_from(NASTY_TEXT))


@examples(150)
@given(st.sampled_from(KINDS), SIZES, st.integers(0, 9), HITS, KEEP)
def test_pictures(tmp_path_factory, kind, size, seed, hits, keep):
    check_picture(tmp_path_factory.mktemp("picture") / "one.png", *kind, size, seed, hits, keep)


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_whole_pictures(tmp_path, kind):
    """Each kind of picture at least once: by chance some would be left out."""
    check_picture(tmp_path / "one.png", *kind, size=(9, 7), seed=0)


def check_picture(path, mode: str, kind: str, size: tuple[int, int], seed: int, hits=(), keep: float = 1.0) -> None:
    content = encoded(mode, size, kind, seed)
    if content is None:  # this size does not fit the format
        return
    path.write_bytes(damaged(content, list(hits), keep))
    with limited():
        pixels = open_image(path)
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and str(pixels.dtype) == "uint8"
        if kind in EXACT and not hits and keep == 1:
            assert np.array_equal(pixels, expected(mode, size, seed))
        x = prepare(pixels, size=16)
        assert x.shape == (1, 3, 16, 16) and torch.isfinite(x).all()


PARTS = st.sampled_from(
    ("train", "Train", "training", "val", "Valid", "validation", "test", "TESTING", "images", ".git")
)
CLASSES = st.sampled_from(("cat", "dog", "owl", "0", "1", "n01440764", "train", "__MACOSX", ".hidden", "Ünïcode"))
FILES = st.sampled_from(
    ("a.png", "b.JPG", "._a.png", ".DS_Store", "c.txt", "d.mpg", "e.h5", "f.pdf", "g.eps", "h.tiff", "classes.txt")
)


USABLE = [(part, kind, name, 1) for part in ("train", "val") for kind in ("cat", "dog") for name in ("1.png", "2.png")]


@examples(120)
@given(
    st.sampled_from(([], USABLE)),  # alone, what is drawn is refused nearly always
    st.lists(st.tuples(PARTS | st.none(), CLASSES | st.none(), FILES, st.integers(0, 12)), max_size=14), st.data()
)  # fmt: skip
def test_folders(tmp_path_factory, usable, entries, drawn):
    root, colours = tmp_path_factory.mktemp("folder"), {}
    for part, kind, name, spoil in [*usable, *entries]:
        folder = root.joinpath(*(each for each in (part, kind) if each))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            good, colour = coloured(str(folder / name))
            (folder / name).write_bytes(b"no picture" if spoil == 0 else good)
            colours[str(folder / name)] = colour
        except OSError:
            continue
    with limited():
        sets = data.load("folder", root, image_size=16)
        sets.describe()
        for images in (sets.train, sets.held_out, sets.test):
            if len(images):
                numbers = torch.arange(min(4, len(images)))
                x, y = images.batch(numbers)
                assert x.shape[1:] == (3, 16, 16) and x.isfinite().all()
                files = [images.source(int(images.members[number]))[0] for number in numbers]
                check_pixels(images, numbers, [colours[file] for file in files])
                for file, label in zip(files, y):
                    above, *rest = os.path.relpath(file, root).split(os.sep)
                    assert images.classes[label] == (rest[0] if part_of(above) and len(rest) > 1 else above)


SAMPLES = [(f"s{n}", *part) for n in range(4) for part in (("png", b""), ("cls", b"%d" % (n % 3)))]


@examples(200)
@given(
    st.sampled_from(([], SAMPLES)),
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
def test_shards(tmp_path_factory, usable, members, kind, hits, keep, headers):
    root, file, wanted = tmp_path_factory.mktemp("shards"), io.BytesIO(), {}
    whole = not (hits or headers) and keep == 1
    with tarfile.open(fileobj=file, mode="w", format=kind) as shard:
        for stem, ending, content in [*usable, *members]:
            about = tarfile.TarInfo(f"{stem}.{ending}")
            content = coloured(f"{stem}.{ending}")[0] if ending in PICTURES else content
            wanted.setdefault(stem, {})[ending] = content
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
        numbers = torch.arange(min(4, len(sets.train)))
        x, y = sets.train.batch(numbers)
        assert x.shape[1:] == (3, 16, 16) and int(y.max()) < len(sets.train.classes)
        if whole:
            keys = [sets.train.source(int(sets.train.members[number]))[1].rpartition(":")[2] for number in numbers]
            best = [next(ending for ending in PICTURES if ending in wanted[key]) for key in keys]
            check_pixels(sets.train, numbers, [coloured(f"{k}.{ending}")[1] for k, ending in zip(keys, best)])
            classes = [int(wanted[key]["cls"]) if "cls" in wanted[key] else 1 for key in keys]
            assert y.tolist() == classes


@pytest.mark.parametrize("name", [text for text in NASTY_TEXT if not text.startswith("hfds")])
def test_paths_and_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (lambda: open_image(name), lambda: data.load("folder", name), lambda: data.load(name, name)):
        with limited():
            call()
    assert not list(tmp_path.iterdir())
