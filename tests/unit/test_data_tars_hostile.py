"""Tar files that a stranger has written: each is indexed, or refused in a line that names it, in little memory.

Of the same input webdataset keeps the last of two members of one name, and reads `._0.jpg` as a sample; `tarfile`
raises its own errors, or goes on to the next header.
"""

import gzip
import io
import os
import random
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from dtl_lib import data
from dtl_lib.data.decoding import endings
from dtl_lib.data.sources.shards import LARGEST_CLASS
from dtl_lib.data.tar import BLOCK, END, LONGEST_HEADER, members
from tests.unit.shards import pack
from tests.unit.test_data_tars import SMALL, picture, sample

GOOD = {**sample(0), **sample(1), **sample(2)}


def header(
    name: bytes = b"0.jpg", size: bytes = b"00000000000", kind: bytes = b"0", magic: bytes = b"ustar\x0000"
) -> bytes:
    block = name.ljust(100, b"\0") + b"0000644\0" * 3 + size.ljust(12, b"\0") + bytes(20) + kind
    return (block.ljust(257, b"\0") + magic).ljust(BLOCK, b"\0")


def member(name: bytes, content: bytes, kind: bytes = b"0") -> bytes:
    return header(name, b"%011o" % len(content), kind) + content + bytes(-len(content) % BLOCK)


def pax(*records: bytes) -> bytes:
    return member(b"pax", b"".join(records), b"x")


def load(path: Path) -> data.Sets:
    return data.load("wds", path.parent.parent, config=SMALL)


@pytest.fixture
def shard(tmp_path) -> Path:
    path = tmp_path / "set" / "train" / "0.tar"
    path.parent.mkdir(parents=True)
    return path


def refused(shard: Path, says: str) -> None:
    """Within a second, in one line that names the shard."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(ValueError, match=says) as caught:
            load(shard)
        assert time.process_time() - start < 5 and tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert str(shard) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [b"0", b"\0", b"7", b"5", b"1", b"x", b"L", b"K", b"g", b"S"])
@pytest.mark.parametrize(
    "size",
    [b"-1000", b"-0000001000", b"+1000", b"1_000", b"0o17", b"00000000009", b"\xff" * 12, b"\x80" + b"\xff" * 11,
     b"\x80\0\0\0\x7f" + b"\xff" * 7, b"\xc0" + bytes(11), b"77777777777", b"1 2", b"\xb2"],
)  # fmt: skip
def test_a_size_that_is_none_or_reaches_beyond_the_file(shard, size, kind):
    shard.write_bytes(header(size=size, kind=kind) + bytes(BLOCK) + header() + END * 2)
    refused(shard, "is not a tar file, or damaged|is cut short")


@pytest.mark.parametrize(
    "size", [b"-1536", b"-512", b"+5", b"1_0", b"1e9", b"", b"9" * 5000, b"\xd9\xa3", b"0x1", b"9" * 20]
)
def test_a_size_of_pax_that_is_none_or_reaches_beyond_the_file(shard, size):
    text = b"size=" + size + b"\n"
    record = next(line for n in range(1, 9999) if len(line := b"%d " % n + text) == n)
    shard.write_bytes(pax(record) + member(b"0.jpg", b"x") + END * 2)
    refused(shard, "is not a tar file, or damaged|is cut short")


@pytest.mark.parametrize(
    "content",
    [b"0 a=b\n", b"3 \n", b"-5 a=b\n", b"9999 a=b\n", b"99999999999999 a=b\n", b"6 a=bc", b"a=b\n", b" 6 a=b\n",
     b"\0" * 40, b"1 " * 500_000, b"12 path=0.jpg\n" * 2],
)  # fmt: skip
def test_records_of_pax_that_are_none(shard, content):
    shard.write_bytes(pax(content) + member(b"0.jpg", b"x") + END * 2)
    refused(shard, "is not a tar file, or damaged")


@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_a_header_as_long_as_a_disk_is_not_read(shard, kind):
    with open(shard, "wb") as file:  # sparse: nothing of it lies on the disk
        file.write(header(kind=kind, size=b"%011o" % (2**32)))
        file.truncate(2**32 + 2 * BLOCK)
    refused(shard, "is not a tar file, or damaged")
    assert shard.stat().st_size > LONGEST_HEADER


@pytest.mark.parametrize(
    "make", [lambda name: member(b"long", name, b"L"), lambda name: pax(b"%d path=" % (len(name) + 13) + name + b"\n")]
)
def test_names_as_long_as_a_header_are_refused(shard, make):
    shard.write_bytes(make(b"a" * 99_987) + member(b"0.jpg", b"x") + END * 2)
    refused(shard, "is not a tar file, or damaged")


def test_what_is_no_tar(shard, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("0.jpg"))
    for content, says in ((gzip.compress(buffer.getvalue()) + bytes(600), "is compressed .gzip.*decompress it"),
                          (b"PK\3\4" + bytes(600), "is not a tar file"), (b"\0" * 100, "is cut short")):  # fmt: skip
        shard.write_bytes(content)
        refused(shard, says)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file(shard, kind):
    os.mkfifo(shard) if kind == "pipe" else shard.mkdir()
    refused(shard, "is not a file; a tar file was expected")


@pytest.mark.parametrize("name", ["0.tar.gz", "1.tgz", "b.TAR.BZ2", "c.tar.zst"])
@pytest.mark.parametrize("beside", [True, False])
def test_compressed_shards_are_not_passed_over(shard, name, beside):
    if beside:
        pack(shard, GOOD)
    (shard.parent / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(ValueError, match=f"{name} is compressed, which allows no random access.*decompress"):
        load(shard)


@pytest.mark.parametrize(
    ("ending", "content"),
    [("cls", b"1000000000"), ("cls", b"9" * 20), ("cls", b"9" * 5000), ("cls", b"1_0"), ("cls", b"1e3"),
     ("cls", b"0x1"), ("cls", b"1.0"), ("cls", "\u0663".encode()), ("cls", b""), ("json", b'{"label": 1e999}'),
     ("json", b'{"label": 1000000001}'), ("json", b'{"label": ' + b"9" * 5000 + b"}"), ("json", b'{"label": 1.5}'),
     ("json", b'{"label": NaN}'), ("json", b'{"label": true}'), ("json", b'{"label": null}'),
     ("json", b'{"label": [1]}'), ("json", b'{"label": "cat"}'), ("json", b"[" * 100_000), ("json", b"7"),
     ("json", b"\xff\xfe"), ("json", b"[]")],
)  # fmt: skip
def test_labels_that_are_no_class(shard, ending, content):
    pack(shard, {**GOOD, "7.jpg": b"x", f"7.{ending}": content})
    refused(shard, f"0.tar: 7.{ending} has no class: a number from 0 to 1,000,000 is needed")


@pytest.mark.parametrize(
    ("ending", "content", "number"),
    [("cls", b" 2\n", 2), ("cls", b"%d" % LARGEST_CLASS, LARGEST_CLASS),
     ("json", b'{"label": 2.0}', 2), ("json", b'{"label": "2"}', 2)],
)  # fmt: skip
def test_labels_that_are_one(shard, ending, content, number):
    pack(shard, {**GOOD, "7.jpg": picture(1), f"7.{ending}": content, "8.jpg": picture(2), "8.cls": b"1"})
    assert number in load(shard).train.source.targets.tolist()


@pytest.mark.parametrize("numbers", [("0", "999999999999"), ("1", "7" * 200), ("00", "99")])
def test_shards_numbered_far_apart(shard, numbers):
    for number in numbers:
        pack(shard.with_name(f"{number}.tar".rjust(204, "0")), GOOD)
    with pytest.raises(ValueError, match="is missing among shards .* in all"):
        load(shard)


@pytest.mark.parametrize("twice", ["0000.jpg", "0001.cls", "0002.JPG"])
def test_two_members_of_one_name_are_refused(shard, twice):
    pack(shard, GOOD)
    with tarfile.open(shard, "a") as tar:
        entry = tarfile.TarInfo(twice)
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"1"))
    refused(shard, f"holds {twice} twice")


def test_two_shards_may_number_their_samples_alike(shard):
    pack(shard, GOOD)
    pack(shard.with_name("1.tar"), GOOD)
    assert len(load(shard).train.source) == 6


@pytest.mark.parametrize(
    "dropping",
    ["._0000.jpg", ".DS_Store", "a/.DS_Store", "__MACOSX/._0000.jpg", "__MACOSX/0000.jpg", "a/__MACOSX/b/0.jpg",
     "Thumbs.db", "desktop.ini", "@eaDir/0000.jpg", ".hidden/0.jpg", "./._0001.cls"],
)  # fmt: skip
def test_droppings_of_operating_systems_are_ignored(shard, dropping):
    pack(shard, {dropping: b"\0\5\x16\7", **GOOD})
    images = load(shard).train
    assert [key.decode() for key in images.source.keys] == ["0000", "0001", "0002"]
    pack(shard, {f"./{name}": content for name, content in GOOD.items()})
    assert len(load(shard).train.source) == 3


def test_a_dropping_that_is_called_a_shard_is_none(shard):
    pack(shard, GOOD)
    for name in ("._0.tar", ".DS_Store"):
        (shard.parent / name).write_bytes(b"no tar")
    assert len(load(shard).train.source) == 3


@pytest.mark.parametrize("ending", ["bmp", "tiff", "tif", "TIF", "BMP"])
def test_pictures_without_compression(shard, ending):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 100, 50)).save(buffer, {"b": "BMP", "t": "TIFF"}[ending[0].lower()])
    pack(shard, {**GOOD, f"3.{ending}": buffer.getvalue(), "3.cls": b"1"})
    source = load(shard).train.source
    file, _, target = source(3)
    assert Image.open(file).getpixel((0, 0)) == (200, 100, 50) and target == 1
    assert f".{ending.lower()}" in endings()


def test_a_changed_byte_anywhere_comes_to_an_end(shard):
    """Shards with a few bytes of their headers changed: indexed or refused, never anything else."""
    pack(shard, GOOD, tarfile.PAX_FORMAT)
    good, draw = shard.read_bytes(), random.Random(7)
    headers = [place for place in range(0, len(good), BLOCK) if good[place + 257 : place + 262] == b"ustar"]
    outcomes = []
    for _ in range(500):
        content = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            where = draw.choice([draw.randrange(124, 136), draw.randrange(BLOCK), 156, draw.randrange(BLOCK, 600)])
            value = draw.choice([0, 32, 43, 45, 48, 55, 128, 255, draw.randrange(256)])
            content[min(draw.choice(headers) + where, len(good) - 1)] = value
        shard.write_bytes(content)
        try:
            found = list(members(shard))
        except ValueError as error:
            outcomes.append(str(error))
        else:
            outcomes.append("")
            assert all(0 < offset <= offset + size <= len(good) for _, offset, size in found)
            assert [offset for _, offset, _ in found] == sorted({offset for _, offset, _ in found})
    refusals = list(filter(None, outcomes))
    assert 0 < len(refusals) < len(outcomes)
    assert all(str(shard) in text and "\n" not in text for text in refusals)
