"""Which folder is which part, what is refused because it is not one, and what a fingerprint sees.

torchvision's ImageFolder and timm's reader take `Train` and `Test` for two classes, one class for a data set, and the
folders of a level too high for classes, without a word.
"""

import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dtl_lib import data
from dtl_lib.data import labelled, splits
from dtl_lib.data.images import InMemory
from dtl_lib.data.sources.folder import wordnet_classes
from tests.unit.shards import pack
from tests.unit.test_data_tars import sample

SMALL = SimpleNamespace(image_size=8, crop=1.0, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="nearest")
COUNTS = {"train": 20, "held_out": 4, "test": 6}


def paint(root: Path, count: int, classes=("cat", "dog")) -> None:
    for number in range(count):
        place = root / classes[number % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 40, 80)).save(place / f"{number}.png")


def shard(root: Path, count: int) -> None:
    pack(root / "0.tar", {name: content for number in range(count) for name, content in sample(number).items()})


def load(root: Path, name: str = "folder") -> data.Sets:
    return data.load(name, root, config=SMALL)


def folders_of(images) -> set[str]:
    """The parts' folders that images are in."""
    files = (images.source.files[number] for number in images.members.tolist())
    return {os.path.relpath(file, images.source.root.parent).split(os.sep)[0] for file in files}


@pytest.mark.parametrize("case", [str, str.upper, str.title])
@pytest.mark.parametrize("kind", ["folder", "wds"])
@pytest.mark.parametrize(
    ("train", "held_out", "test"),
    [("train", "val", "test"), ("training", "validation", "testing"), ("train", "valid", "test"),
     ("train", "dev", "test"), ("training", "eval", "test")],
)  # fmt: skip
def test_val_chooses_and_test_reports_whatever_they_are_called(tmp_path, kind, case, train, held_out, test):
    write = paint if kind == "folder" else shard
    for name, count in zip((train, held_out, test), COUNTS.values()):
        write(tmp_path / case(name), count)
    sets = load(tmp_path, kind)
    assert {part: len(getattr(sets, part)) for part in COUNTS} == COUNTS
    for part, name in zip(COUNTS, (train, held_out, test)):
        assert str(tmp_path / case(name)) in getattr(sets, part).describe()


@pytest.mark.parametrize("kind", ["folder", "wds"])
@pytest.mark.parametrize("other", ["val", "valid", "Validation", "dev", "eval", "test", "Testing"])
def test_one_of_them_reports_and_what_chooses_is_cut_from_train(tmp_path, kind, other):
    for name, count in (("Train", 20), (other, 6)):
        (paint if kind == "folder" else shard)(tmp_path / name, count)
    sets = load(tmp_path, kind)
    assert (len(sets.train), len(sets.held_out), len(sets.test)) == (18, 2, 6)
    assert str(tmp_path / other) in sets.test.describe() and "cut off from it" in sets.held_out.describe()
    if kind == "folder":
        assert sets.train.classes == ("cat", "dog") and folders_of(sets.held_out) == {"Train"}


def test_shards_are_told_apart_by_the_words_in_their_names(tmp_path):
    for name, count in (("x-Train-0", 20), ("x-VALID-0", 4), ("x_testing_0", 6)):
        shard(tmp_path / name, count)
        (tmp_path / name / "0.tar").rename(tmp_path / f"{name}.tar")
    assert {part: len(getattr(load(tmp_path, "wds"), part)) for part in COUNTS} == COUNTS
    (tmp_path / "x-train-test-0.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="x-train-test-0.tar is named after two parts, train and test"):
        load(tmp_path, "wds")


def test_val_and_test_alone_are_evaluated(tmp_path):
    paint(tmp_path / "Val", 4)
    paint(tmp_path / "Test", 6)
    sets = load(tmp_path)
    assert (len(sets.train), len(sets.held_out), len(sets.test)) == (0, 4, 6)


def test_a_test_without_classes_as_imagenets_is_left_out_beside_a_val(tmp_path, caplog):
    paint(tmp_path / "train", 20)
    paint(tmp_path / "val", 4)
    (tmp_path / "test").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "test" / "1.png")
    assert len(load(tmp_path).test) == 4
    assert "test holds no classes" in caplog.text and "val is the test" in caplog.text


@pytest.mark.parametrize("other", ["holdout", "validate", "extra"])
def test_a_folder_beside_the_parts_is_named(tmp_path, caplog, other):
    paint(tmp_path / "train", 20)
    paint(tmp_path / other, 4)
    load(tmp_path)
    assert f"{other} not used; the parts are train" in caplog.text


@pytest.mark.parametrize("kind", ["folder", "wds"])
@pytest.mark.parametrize("pair", [("train", "Training"), ("val", "valid"), ("test", "TEST")])
def test_two_folders_for_one_part_are_refused(tmp_path, kind, pair):
    for name in {"train", *pair}:
        (paint if kind == "folder" else shard)(tmp_path / name, 4)
    with pytest.raises(ValueError, match="which are names of one part"):
        load(tmp_path, kind)


@pytest.mark.parametrize("kind", ["folder", "imagenet", "wds"])
@pytest.mark.parametrize("part", ["", "train"])
def test_one_class_cannot_be_trained_on(tmp_path, kind, part):
    if kind == "wds":
        pack(tmp_path / part / "0.tar", {f"{n}.{e}": c for n in range(9) for e, c in (("jpg", b"x"), ("cls", b"3"))})
    else:
        paint(tmp_path / part, 20, wordnet_classes()[0][:1])
    with pytest.raises(ValueError, match="one class, .*nothing to tell it from"):
        load(tmp_path, kind)


def test_one_class_can_be_evaluated(tmp_path):
    paint(tmp_path / "val", 5, ("dog",))
    assert len(load(tmp_path).test) == 5


@pytest.mark.parametrize(
    ("inner", "right"),
    [
        (("pets/train", "pets/val"), "holds the folders train, val; .* give {root}/pets as the data's folder"),
        (("a/Train", "a/Test", "b/Train", "b/Test"), "holds the folders Test, Train; .* give {root}/a"),
        (("pets",), "holds the folders cat, dog; .* give {root}/pets"),
        (("2023", "2024"), "holds the folders cat, dog; .* give {root}/2023"),
        (("train/pets",), "holds the folders cat, dog; .* move them up to {root}/train"),
        (("train", "val/all"), "holds the folders cat, dog; .* move them up to {root}/val"),
    ],
)
def test_folders_of_folders_are_refused_with_what_would_be_right(tmp_path, inner, right):
    for folder in inner:
        paint(tmp_path / folder, 6)
    with pytest.raises(ValueError, match=right.format(root=re.escape(str(tmp_path)))) as caught:
        load(tmp_path)
    assert "lie a folder too deep" in str(caught.value) and "\n" not in str(caught.value)


def test_one_folder_in_each_class_belongs_to_it(tmp_path):
    """As Tiny ImageNet has them: train/n01443537/images/1.JPEG."""
    for label in ("cat", "dog"):
        paint(tmp_path / "train" / label, 10, ("images",))
    assert load(tmp_path).train.classes == ("cat", "dog")


@pytest.mark.parametrize("dropping", ["__MACOSX", "@eaDir", ".ipynb_checkpoints"])
def test_what_operating_systems_leave_is_no_class(tmp_path, dropping):
    paint(tmp_path, 20)
    paint(tmp_path / dropping, 4)
    paint(tmp_path, 4, (dropping,))
    (tmp_path / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"Bud1")
    sets = load(tmp_path)
    assert sets.train.classes == ("cat", "dog") and len(sets.train) + len(sets.held_out) + len(sets.test) == 20


def test_a_class_whose_name_is_no_utf8_has_one_that_a_card_can_hold(tmp_path):
    paint(tmp_path, 10, (os.fsdecode(b"caf\xe9"), "dog"))
    assert load(tmp_path).train.class_ids == ("caf\\xe9", "dog")


def changed_pixel(root: Path) -> None:
    """Another pixel in a file that keeps its length and its date."""
    file = root / "cat" / "8.bmp"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def bitmaps(root: Path, count: int = 20) -> Path:
    for number in range(count):
        place = root / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 40, 80)).save(place / f"{number}.bmp")
    return root


def prints(sets: data.Sets) -> list[str]:
    return [part.fingerprint() for part in (sets.train, sets.held_out, sets.test)]


def test_a_fingerprint_sees_one_pixel_and_no_date(tmp_path):
    root = bitmaps(tmp_path / "a")
    before = prints(load(root))
    os.utime(root / "cat" / "8.bmp", (time.time(), 1_000_000_000))
    assert prints(load(root)) == before
    changed_pixel(root)
    assert sum(then != now for then, now in zip(before, prints(load(root)))) == 1
    assert before == prints(load(bitmaps(tmp_path / "b")))  # wherever it lies


def test_a_fingerprint_of_many_pictures_reads_some_and_knows_all_lengths(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled, "HASHED", 5)
    root = bitmaps(tmp_path, 200)
    opened = []
    images = load(root).train
    read = images._bytes
    images._bytes = lambda number: opened.append(number) or read(number)
    before = images.fingerprint()
    assert len(opened) == 5 and {opened[0], opened[-1]} == {int(images.members[0]), int(images.members[-1])}
    unread = next(number for number in images.members.tolist() if number not in opened)
    with open(images.source.files[unread], "ab") as file:
        file.write(b"\0")
    assert load(root).train.fingerprint() != before


@pytest.mark.parametrize("left", ["unreadable", "missing"])
def test_a_fingerprint_of_pictures_that_cannot_be_read_is_one_too(tmp_path, left):
    images = load(bitmaps(tmp_path)).train
    file = Path(images.source.files[int(images.members[0])])
    file.unlink()
    if left == "unreadable":
        file.mkdir()
    assert len(images.fingerprint()) == 12


def test_a_shards_fingerprint_sees_one_byte(tmp_path):
    shard(tmp_path, 20)
    before, file = prints(load(tmp_path, "wds")), tmp_path / "0.tar"
    content = bytearray(file.read_bytes())
    images = load(tmp_path, "wds").train
    _, offset, size = images.source.places[int(images.members[3])].tolist()
    content[offset + size - 1] ^= 1
    file.write_bytes(content)
    assert prints(load(tmp_path, "wds")) == [load(tmp_path, "wds").train.fingerprint(), *before[1:]]
    assert load(tmp_path, "wds").train.fingerprint() != before[0]


def in_memory(count: int) -> InMemory:
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return InMemory("some train", ("a", "b"), (0.5,) * 3, (0.5,) * 3, pixels, torch.arange(count) % 2)


@pytest.mark.parametrize("count", [1, 65, 5000])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_every_pixel_in_memory_counts(count, place):
    images, other = in_memory(count), in_memory(count)
    assert images.fingerprint() == other.fingerprint()
    other._bordered.view(-1)[(len(other) * 96 + place) % other._bordered.numel()] ^= 1
    assert images.fingerprint() != other.fingerprint()


def test_a_fingerprint_of_before_is_known_again():
    images, other = in_memory(200), in_memory(201)
    former = splits_former(images)
    assert former != images.fingerprint() and images.has_fingerprint(former)
    assert images.has_fingerprint(images.fingerprint()) and not images.has_fingerprint(splits_former(other))
    assert not images.has_fingerprint(None)


def splits_former(images) -> str:
    """As an earlier version told data apart: by names, targets and 64 of the images."""
    from dtl_lib.hashing import of_parts

    return of_parts((images.name, len(images), images.image_size, images.classes, *images.identity()))


def test_the_names_of_parts_are_no_two_parts():
    names = [name for part in splits.PART_NAMES.values() for name in part]
    assert len(names) == len(set(names)) and all(splits.part_of(name.upper()) for name in names)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    "pair", [("train_set", "test_set"), ("TrainData", "ValData"), ("1-train", "2-test"), ("training_set", "test_set")]
)
def test_folders_called_almost_like_parts_are_no_two_classes(tmp_path, pair, deep):
    for name in pair:
        paint(tmp_path / name if deep else tmp_path, 4, ("cat", "dog") if deep else (name,))
    with pytest.raises(
        ValueError, match="if those are parts, call them train, val and test; if they are classes, move"
    ):
        load(tmp_path)
    if not deep:
        (tmp_path / "train").mkdir()
        for name in pair:
            (tmp_path / name).rename(tmp_path / "train" / name)
        assert set(load(tmp_path).train.classes) == set(pair)


@pytest.mark.parametrize("pair", [("trainset", "testset"), ("TrainData", "ValData"), ("mytrain", "mytest")])
def test_shards_called_almost_like_parts_are_not_all_trained_on(tmp_path, pair):
    for name in pair:
        shard(tmp_path, 4)
        (tmp_path / "0.tar").rename(tmp_path / f"{name}-0.tar")
    with pytest.raises(ValueError, match="if those are parts, put them in folders train, val and test"):
        load(tmp_path, "wds")


def test_a_class_called_as_a_part_is_told_apart(tmp_path):
    paint(tmp_path, 8, ("bus", "train", "tv"))
    with pytest.raises(ValueError, match="if train is itself a class, as bus, tv may be, move all to .*/train$"):
        load(tmp_path)


def test_a_class_without_a_picture_that_can_be_read_is_named(tmp_path, caplog):
    paint(tmp_path / "train", 8)
    (tmp_path / "train" / "owl").mkdir()
    (tmp_path / "train" / "owl" / "1.heic").write_bytes(b"x")
    assert load(tmp_path).train.classes == ("cat", "dog")
    assert "no readable images in owl" in caplog.text


@pytest.mark.parametrize(
    ("names", "right"),
    [
        (b"\xef\xbb\xbfcat\r\ndog\r\nowl\r\n", ("cat", "dog")),
        ("c\u2028at\ndog\nowl\n\n".encode(), ("c\u2028at", "dog")),
        (b"cat\n\ndog\n", "line 2 of .*classes.txt is empty"),
        ("größe\ndog".encode("latin-1"), "classes.txt is not in UTF-8"),
    ],
)  # fmt: skip
def test_a_line_of_classes_txt_is_a_class(tmp_path, names, right):
    shard(tmp_path / "train", 8)
    (tmp_path / "classes.txt").write_bytes(names)
    if isinstance(right, str):
        with pytest.raises(ValueError, match=right):
            load(tmp_path, "wds")
    else:
        assert load(tmp_path, "wds").train.classes[:2] == right
