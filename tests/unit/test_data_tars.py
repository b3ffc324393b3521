"""WebDataset shards by an index: what `tarfile` sees, the pixels of the same pictures in folders, refusals."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import data
from dtl_lib.data import CorruptImage
from dtl_lib.data import loader as batches
from dtl_lib.data.corrupt import CorruptImages
from dtl_lib.data.tar import members
from dtl_lib.train import Recipe
from tests.unit.shards import pack

SMALL = SimpleNamespace(image_size=(24, 32), crop=0.9, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bilinear")
CLASSES = ("ant", "bee", "cat")


def picture(number: int, ending: str = "jpg") -> bytes:
    generator = np.random.default_rng(number)
    height, width = generator.integers(30, 60, 2)
    image = Image.fromarray(generator.integers(0, 256, (height // 6, width // 6, 3), np.uint8)).resize((width, height))
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[ending])
    return buffer.getvalue()


def sample(number: int, ending: str = "jpg", label: str = "cls") -> dict[str, bytes]:
    target = number % 3
    content = str(target).encode() if label == "cls" else json.dumps({"label": target, "size": 5}).encode()
    return {f"{number:04}.{ending}": picture(number, ending), f"{number:04}.{label}": content}


def shard(path: Path, numbers) -> None:
    pack(path, {name: content for number in numbers for name, content in sample(number).items()})


@pytest.fixture
def shards(tmp_path):
    """40 samples to train on in two shards, 6 to test on in one."""
    root = tmp_path / "shards"
    shard(root / "train" / "photos-000.tar", range(25))
    shard(root / "train" / "photos-001.tar", range(25, 40))
    shard(root / "val" / "photos-000.tar", range(100, 106))
    return root


def load(root, **more):
    return data.load("wds", root, config=SMALL, **more)


def names_of(images) -> list[str]:
    return [images.source.keys[number].decode() for number in images.members.tolist()]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(tmp_path, kind):
    path, long = tmp_path / "all.tar", "/".join(["folder"] * 20) + "/" + 20 * "long" + ".jpg"
    names = ["a.cls", "deep/b.jpg", "empty.txt", long]
    if kind != tarfile.USTAR_FORMAT:
        names.append("über/" + 60 * "größe" + ".png")
    pack(path, {name: bytes(range(256)) * number for number, name in enumerate(names)}, kind)
    with tarfile.open(path, "a", format=kind) as tar:
        for name, type_ in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = type_, "a.cls" * 30 if kind != tarfile.USTAR_FORMAT else "a.cls"
            tar.addfile(entry)
        tar.addfile(tarfile.TarInfo("last.jpg"))
    with tarfile.open(path) as tar:
        expected = [(entry.name, entry.offset_data, entry.size) for entry in tar if entry.isfile()]
    assert len(expected) == len(names) + 1
    assert list(members(path)) == expected


def test_a_sample_has_the_pixels_and_class_it_has_in_a_folder(shards, tmp_path):
    for part, numbers in (("train", range(40)), ("val", range(100, 106))):
        for number in numbers:
            file = tmp_path / "folder" / part / CLASSES[number % 3] / f"{number:04}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(number))
    (shards / "classes.txt").write_text("\n".join(CLASSES))
    ours, theirs = load(shards), data.load("folder", tmp_path / "folder", config=SMALL)
    pixels = {}
    for images in (theirs.train, theirs.held_out, theirs.test):
        x, y = images.batch(range(len(images)))
        files = [Path(images.source.files[number]).stem for number in images.members.tolist()]
        pixels |= dict(zip(files, zip(x, y.tolist())))
    seen = []
    for images in (ours.train, ours.held_out, ours.test):
        assert images.classes == CLASSES
        x, y = images.batch(range(len(images)))
        for name, image, target in zip(names_of(images), x, y.tolist(), strict=True):
            assert torch.equal(image, pixels[name][0]) and target == pixels[name][1]
            seen.append(name)
    assert sorted(seen) == sorted(pixels)
    assert [len(part) for part in (ours.train, ours.held_out, ours.test)] == [36, 4, 6]


@pytest.mark.parametrize(
    "names",
    [("train/0.tar", "val/0.tar"), ("training/0.tar", "test/0.tar"), ("x1k-train-00.tar", "x1k-validation-00.tar")],
)
def test_shards_are_found_by_folder_or_name(tmp_path, names):
    for name, numbers in zip(names, (range(20), range(20, 23)), strict=True):
        shard(tmp_path / name, numbers)
    sets = load(tmp_path)
    assert (len(sets.train), len(sets.held_out), len(sets.test)) == (18, 2, 3)
    assert names_of(sets.test) == ["0020", "0021", "0022"] and sets.train.classes == ("0", "1", "2")
    assert load(tmp_path, samples=5, image_size=16).train.batch(range(5))[0].shape == (5, 3, 16, 16)


def test_shards_without_either_word_are_cut_in_three(tmp_path, monkeypatch):
    shard(tmp_path / "wds" / "0.tar", range(20))
    monkeypatch.setenv("DTL_DATA", str(tmp_path))
    sets = data.load("wds", config=SMALL)
    assert sorted(names_of(sets.train) + names_of(sets.held_out) + names_of(sets.test)) == [
        f"{number:04}" for number in range(20)
    ]
    assert len(sets.test) == 1


def test_picture_formats_folders_and_json(tmp_path):
    files = {}
    for number, (ending, label) in enumerate([("jpeg", "json"), ("png", "cls"), ("webp", "json"), ("JPG", "cls")]):
        made = sample(number, ending.lower(), label)
        files |= {f"v1.0/{name.replace(ending.lower(), ending)}": content for name, content in made.items()}
        files[f"v1.0/{number:04}.seg.png"] = b"not the picture"
    pack(tmp_path / "train" / "0.tar", files)
    sets = load(tmp_path)
    source = sets.train.source
    assert [key.decode() for key in source.keys] == [f"v1.0/{number:04}" for number in range(4)]
    assert source.targets.tolist() == [0, 1, 2, 0]
    for number in range(4):
        file, name, target = source(number)
        ending = ("jpeg", "png", "webp", "jpg")[number]
        assert file.getvalue() == picture(number, ending) and name.endswith(f"0.tar:v1.0/{number:04}")


def test_fingerprints_follow_the_shards(shards):
    before = sorted(path.name for path in shards.rglob("*"))
    first, again = load(shards).train.fingerprint(), load(shards).train.fingerprint()
    assert first == again and sorted(path.name for path in shards.rglob("*")) == before  # nothing is written there
    changed = sample(24) | {"0024.cls": b"1"}
    pack(shards / "train" / "photos-000.tar", {k: v for n in range(24) for k, v in sample(n).items()} | changed)
    assert load(shards).train.fingerprint() != first


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_read_the_same(shards, workers):
    images, recipe = load(shards).train, Recipe(batch_size=6, crop=1, flip=True, randaugment=4)
    alone = list(batches.training_batches(images, recipe, 0, 8, 0))
    shares = [
        list(batches.training_batches(images, recipe, 0, 8, workers, rank=rank, world_size=2)) for rank in range(2)
    ]
    for (x, y), (first, first_y), (second, second_y) in zip(alone, *shares, strict=True):
        assert torch.equal(x, torch.cat([first, second])) and torch.equal(y, torch.cat([first_y, second_y]))


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_of_a_shard_that_vanishes_are_corrupt(shards, workers):
    images, recipe, corrupt = load(shards).train, Recipe(batch_size=6, crop=1), CorruptImages(0.5)
    whole = list(batches.training_batches(images, recipe, 0, 12, 0))
    gone = {names_of(images).index(name) for name in names_of(images) if int(name) >= 25}
    (shards / "train" / "photos-001.tar").unlink()
    loaded = list(batches.training_batches(images, recipe, 0, 12, workers, corrupt=corrupt))
    assert len(corrupt) == len(gone) and all("photos-001.tar:00" in name for name in corrupt.names)
    order = [part for _, part in batches.indices(len(images), 6, 0, 0, 12)]
    for part, (x, y), (good_x, good_y) in zip(order, loaded, whole, strict=True):
        kept = torch.tensor([number not in gone for number in part.tolist()])
        assert torch.equal(x[kept], good_x[kept]) and torch.equal(y[kept], good_y[kept])
    with pytest.raises(CorruptImage, match="cannot be opened .No such file or directory.; put the shard back"):
        images.batch(sorted(gone))
    with pytest.raises(ValueError, match="of the 36 images of wds train cannot be read, more than the 10.0%"):
        list(batches.training_batches(images, recipe, 0, 12, workers, corrupt=CorruptImages(0.1)))


def test_a_picture_that_is_none_is_named(shards):
    pack(shards / "val" / "photos-000.tar", sample(1) | {"0002.jpg": picture(2)[:300], "0002.cls": b"2"})
    with pytest.raises(CorruptImage, match="photos-000.tar:0002 is damaged or cut short"):
        load(shards).test.batch([0, 1])


def test_a_missing_shard_is_named(shards, tmp_path):
    for number in (3, 6):
        shutil.copy(shards / "train" / "photos-001.tar", shards / "train" / f"photos-{number:03}.tar")
    with pytest.raises(ValueError, match=r"photos-002.tar is missing among shards 0 to 6 \(3 in all\)") as caught:
        load(shards)
    assert "\n" not in str(caught.value)


def test_a_shard_that_cannot_be_read_is_named(shards, tmp_path):
    file = shards / "train" / "photos-001.tar"
    content = file.read_bytes()
    for changed, says in [
        *((content[:length], "is cut short: it has no end mark after .* bytes") for length in (9000, 512, 0)),
        (content[: content.rindex(b"0039")], "is cut short"),
        (b"x" * 9000, "is not a tar file, or damaged"),
        (content[:700] + b"?" * 8300, "is not a tar file, or damaged"),
    ]:
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=f"photos-001.tar {says}.*get it again") as caught:
            load(shards)
        assert "\n" not in str(caught.value)
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        ValueError, match="photos-001.tar cannot be read .No such file or directory.; put the shard back"
    ):
        load(shards)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"7.cls": b"1"}, r"0.tar: 7 has no image \(.jfif, .jpe, .jpg, .jpeg, .png and \d+ more\)"),
        ({"7.jpg": b""}, "0.tar: 7 has no class: a number in .cls"),
        (
            {"7.jpg": b"", "7.cls": b"cat"},
            "0.tar: 7.cls has no class: a number from 0 to 1,000,000 is needed, not b'cat'",
        ),
        ({"7.jpg": b"", "7.cls": b"-1"}, "0.tar: 7.cls has no class"),
        ({"7.jpg": b"", "7.json": b'{"class": 1}'}, "0.tar: 7.json has no class"),
        ({"7.jpg": b"", "7.json": b"["}, "0.tar: 7.json has no class"),
        ({}, "the train shards of .* hold no samples"),
    ],
)
def test_samples_without_picture_or_class_are_refused(tmp_path, files, says):
    pack(tmp_path / "train" / "0.tar", files)
    with pytest.raises(ValueError, match=says):
        load(tmp_path)


def test_folders_without_shards_say_what_was_expected(tmp_path, shards):
    with pytest.raises(ValueError, match="none is not a folder; one with train/.*tar"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no shards: train/.*tar and val"):
        load(tmp_path)
    (shards / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(ValueError, match="classes.txt names 2 classes and the shards have 3"):
        load(shards)
