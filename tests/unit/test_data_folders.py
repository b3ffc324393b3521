"""ImageNet, class folders and timm's readers: classes, parts, keyed crops, refusals; real photos where they are."""

import io
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import data
from dtl_lib.data import Augment
from dtl_lib.data.files import resized_crop
from dtl_lib.data.sources import timm_readers as readers
from dtl_lib.data.sources.folder import wordnet_classes
from dtl_lib.data.splits import held_out_of

REAL = Path(os.environ.get("DTL_DATA", "")) / "imagenet"
needs_imagenet = pytest.mark.skipif(
    not os.environ.get("DTL_DATA") or not (REAL / "val").is_dir(),
    reason="needs ImageNet photos: DTL_DATA is not set or lacks imagenet/val",
)
SMALL = SimpleNamespace(image_size=(24, 32), crop=0.9, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bilinear")


def write(folder: Path, count: int, seed: int = 0, ending: str = "png") -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng([seed, *folder.name.encode()])
    for number in range(count):
        height, width = generator.integers(30, 60, 2)
        picture = Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))
        picture.save(folder / f"{number}.{ending}")


@pytest.fixture
def wordnet(tmp_path):
    ids, _ = wordnet_classes()
    write(tmp_path / "train" / ids[7], 10)
    write(tmp_path / "train" / ids[900], 10, ending="JPEG")
    write(tmp_path / "val" / ids[3], 4)
    return tmp_path


@pytest.fixture
def own(tmp_path):
    for number, label in enumerate(("cat", "ant", "bee")):
        write(tmp_path / "own" / "train" / label, 10, number)
        write(tmp_path / "own" / "val" / label, 2, 9 + number)
    return tmp_path / "own"


def test_wordnet_folders_give_imagenets_classes_whatever_subset_is_there(wordnet):
    sets = data.load("imagenet", wordnet, config=SMALL)
    assert len(sets.train.classes) == 1000 and sets.train.classes[0] == "tench, Tinca tinca"
    assert sets.train.labels(range(18)).unique().tolist() == [7, 900]
    assert sets.test.labels(range(4)).tolist() == [3] * 4
    assert (len(sets.train), len(sets.held_out), len(sets.test)) == (18, 2, 4)
    assert sets.train.image_size == (24, 32) and sets.train.mean == (0.5,) * 3


def test_parts_share_no_picture(own):
    sets = data.load("folder", own, config=SMALL)
    files = [
        [part.source.files[number] for number in part.members.tolist()]
        for part in (sets.train, sets.held_out, sets.test)
    ]
    assert [len(part) for part in files] == [27, 3, 6]
    assert len({file for part in files for file in part}) == 36
    assert sets.train.classes == ("ant", "bee", "cat")
    for part, names in zip((sets.train, sets.held_out, sets.test), files, strict=True):
        labels = [part.classes[number] for number in part.labels(range(len(part)))]
        assert labels == [Path(name).parent.name for name in names]


def test_a_folder_without_train_and_val_is_cut_in_three(own):
    sets = data.load("folder", own / "train", config=SMALL)
    numbers = [part.members.tolist() for part in (sets.train, sets.held_out, sets.test)]
    assert [len(part) for part in numbers] == [25, 3, 2]
    assert sorted(sum(numbers, [])) == list(range(30))


def test_a_folder_with_val_alone_has_only_a_test(own):
    for file in sorted((own / "train").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    (own / "train").rmdir()
    sets = data.load("folder", own, config=SMALL)
    assert (len(sets.train), len(sets.held_out), len(sets.test)) == (0, 0, 6)
    with pytest.raises(ValueError, match="holds no images"):
        sets.train.batch([0])


def test_samples_limit_training_alone_and_always_choose_the_same(own):
    some, again = (data.load("folder", own, samples=5, config=SMALL) for _ in range(2))
    assert len(some.train) == 5 and len(some.held_out) == 3
    assert torch.equal(some.train.members, again.train.members)
    assert some.train.fingerprint() == again.train.fingerprint()
    assert some.train.fingerprint() != data.load("folder", own, config=SMALL).train.fingerprint()
    with pytest.raises(ValueError, match="samples is 0"):
        data.load("folder", own, samples=0)


def test_evaluation_is_prepare(own):
    images = data.load("folder", own, config=SMALL).test
    x, _ = images.batch([4, 0])
    for row, index in enumerate((4, 0)):
        picture = data.open_image(images.source.files[int(images.members[index])])
        torch.testing.assert_close(x[row], data.prepare(picture, config=SMALL)[0], rtol=0, atol=2e-6)


def test_pictures_are_read_in_inference_mode(own):
    """As an evaluation without workers does; the threads that decode are in the mode that is usual."""
    images = data.load("folder", own, image_size=16).test
    with torch.inference_mode():
        x, y = images.batch(range(len(images)))
    torch.testing.assert_close(x, images.batch(range(len(images)))[0])
    assert y.tolist() == images.labels(range(len(images))).tolist()


def test_crops_are_keyed_and_do_not_depend_on_the_batch(own):
    images = data.load("folder", own, config=SMALL).train
    augment = Augment(crop=1, randaugment=5, erase=0.3)
    whole, labels = images.batch(range(27), augment, key=(1, 2))
    some, some_labels = pickle.loads(pickle.dumps(images)).batch([20, 3], augment, key=(1, 2))
    assert torch.equal(some, whole[[20, 3]]) and torch.equal(some_labels, labels[[20, 3]])
    other, _ = images.batch([20, 3], augment, key=(1, 3))
    assert not torch.equal(other[0], some[0]) and not torch.equal(other[1], some[1])


def test_resized_crop_takes_the_first_attempt_that_fits():
    box = resized_crop((400, 300), [(0.5, 0.5, 0.0, 0.999), (0, 0, 0, 0)], 0.08)
    assert box[0] == 0 and box[3] == 300
    area = (box[2] - box[0]) * (box[3] - box[1]) / (400 * 300)
    assert abs(area - 0.54) < 0.01
    too_wide = (0.9, 0.99, 0.5, 0.5)
    assert resized_crop((100, 400), [too_wide, (0.0, 0.5, 0, 0)], 0.08) == resized_crop(
        (100, 400), [(0.0, 0.5, 0, 0)], 0.08
    )
    left, top, right, bottom = resized_crop((100, 400), [too_wide], 0.08)
    assert (left, right) == (0, 100) and top + bottom == 400 and abs(bottom - top - 100 * 4 / 3) < 1e-9


def test_resized_crops_cover_area_and_place():
    draws = torch.rand(4000, 10, 4, generator=torch.Generator().manual_seed(0)).tolist()
    boxes = torch.tensor([resized_crop((200, 200), draw, 0.25) for draw in draws]).double()
    wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = wide * tall / 200**2
    assert boxes.min() == 0 and boxes.max() == 200
    assert 0.24 < area.min() < 0.27 and area.max() > 0.95
    assert 0.74 < (wide / tall).min() < 0.77 and 1.3 < (wide / tall).max() < 1.35
    assert abs((boxes[:, 0] + boxes[:, 2]).mean() - 200) < 3


def test_missing_and_empty_folders_say_what_was_expected(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="none is not a folder; one with train/CLASS/1.jpg"):
        data.load("imagenet", tmp_path / "none")
    monkeypatch.setenv("DTL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="imagenet is not a folder"):
        data.load("imagenet")
    with pytest.raises(ValueError, match="holds no classes: a folder for each class"):
        data.load("imagenet", tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "loose.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="train holds no classes"):
        data.load("folder", tmp_path)


def test_classes_that_are_not_imagenets_are_refused_with_the_way_out(own):
    with pytest.raises(ValueError, match="'ant', which is no WordNet id .* data set `folder`"):
        data.load("imagenet", own)


def test_a_test_class_that_training_lacks_is_refused(own):
    write(own / "val" / "dog", 1)
    with pytest.raises(ValueError, match="has a class folder 'dog', which .*train lacks"):
        data.load("folder", own)


def test_one_picture_cannot_be_trained_on(tmp_path):
    with pytest.raises(ValueError, match="it takes 2 or more"):
        held_out_of(1, tmp_path)


@pytest.mark.parametrize("content", [b"no image", b""])
def test_a_corrupt_picture_is_named_when_it_is_read(own, content):
    file = own / "val" / "bee" / "1.png"
    file.write_bytes(content)
    images = data.load("folder", own, config=SMALL).test
    with pytest.raises(ValueError, match="bee/1.png is not an image"):
        images.batch(range(6))


def test_a_cut_picture_is_named_when_it_is_read(own):
    file = own / "val" / "bee" / "1.png"
    file.write_bytes(file.read_bytes()[:400])
    images = data.load("folder", own, config=SMALL).test
    with pytest.raises(ValueError, match="bee/1.png is damaged or cut short"):
        images.batch(range(6))


def test_timm_readers_by_name(own):
    sets = data.load("torch/image_folder", own, config=SMALL)
    folder = data.load("folder", own, config=SMALL)
    assert sets.test.classes == folder.test.classes
    for part in ("train", "held_out", "test"):
        ours, theirs = getattr(sets, part), getattr(folder, part)
        x, y = ours.batch(range(len(ours)))
        expected, labels = theirs.batch(range(len(theirs)))
        assert torch.equal(x, expected) and torch.equal(y, labels)
        assert torch.equal(ours.labels([1]), labels[1:2])


def test_a_corrupt_picture_of_a_reader_is_named(own):
    (own / "val" / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="ant/0.png is not an image that can be read"):
        data.load("torch/image_folder", own, config=SMALL).test.batch([0])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hugging Face data set on disk, with CIFAR-10's column and split names or with ImageNet's: a function."""
    from pyarrow import binary, int64, parquet, schema, string, struct, table

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(column: str, test: str) -> str:
        kinds = {column: {"_type": "Image"}, "label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}
        about = {"huggingface": json.dumps({"info": {"features": kinds}})}
        types = {column: struct([("bytes", binary()), ("path", string())]), "label": int64()}
        folder = tmp_path / column / "data"
        folder.mkdir(parents=True)
        for part, count in (("train", 40), (test, 6)):
            write(tmp_path / "pictures" / part, count)
            files = [(tmp_path / "pictures" / part / f"{number}.png").read_bytes() for number in range(count)]
            rows = {column: [{"bytes": file, "path": None} for file in files], "label": [n % 3 for n in range(count)]}
            parquet.write_table(table(rows, schema(types, metadata=about)), folder / f"{part}-0-of-1.parquet")
        return str(tmp_path / column)

    return make


@pytest.mark.parametrize(("column", "test"), [("image", "validation"), ("img", "test")])
def test_hugging_face_data_sets_by_the_names_that_they_give(hub, tmp_path, column, test):
    where = hub(column, test)
    sets = data.load(f"hfds/{where}", config=SMALL)
    assert sets.train.classes == ("ant", "bee", "cat")
    assert (len(sets.train), len(sets.held_out), len(sets.test)) == (36, 4, 6)
    x, y = sets.test.batch([1, 5])
    assert y.tolist() == [1, 2]
    for picture, number in zip(x, (1, 5), strict=True):
        expected = data.prepare(Image.open(tmp_path / "pictures" / test / f"{number}.png"), config=SMALL)
        torch.testing.assert_close(picture, expected[0])
    streamed = data.load(f"hfids/{where}", samples=10, config=SMALL)
    assert (len(streamed.train), len(streamed.test)) == (9, 6)
    torch.testing.assert_close(streamed.test.batch([1, 5])[0], x)


def test_a_hugging_face_data_set_without_a_part_says_what_it_has(hub):
    where = hub("image", "extra")
    with pytest.raises(ValueError, match="no split validation or val or valid or test, only train"):
        data.load(f"hfds/{where}")
    with pytest.raises(ValueError, match="timm cannot open hfds/.*none") as caught:
        data.load(f"hfds/{where}/none")
    assert "\n" not in str(caught.value)


def test_a_stream_is_kept_in_memory_as_far_as_asked(monkeypatch):
    import timm.data

    pictures = np.random.default_rng(0).integers(0, 256, (30, 20, 20, 3), np.uint8)
    stream = [(Image.fromarray(picture), number % 3) for number, picture in enumerate(pictures)]
    monkeypatch.setattr(
        timm.data, "create_dataset", lambda *_, **__: timm.data.IterableImageDataset(None, reader=stream)
    )
    with pytest.raises(ValueError, match="is a stream.*samples"):
        data.load("tfds/small")
    sets = data.load("tfds/small", samples=20, image_size=20, config=SimpleNamespace(crop=1.0))
    assert (len(sets.train), len(sets.held_out), len(sets.test)) == (18, 2, 20) and len(sets.train.classes) == 3
    x, y = sets.test.batch([4, 4])
    assert y.tolist() == [1, 1] and np.array_equal(data.undo(x[1]), pictures[4])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("torch/nothing", "timm cannot open torch/nothing"),
        ("torch/image_folder", "timm cannot open torch/image_folder in "),
    ],
)
def test_a_reader_that_fails_is_one_line(tmp_path, name, says):
    with pytest.raises(ValueError, match=says) as caught:
        data.load(name, tmp_path / "none")
    assert "\n" not in str(caught.value)


def test_a_reader_whose_package_is_missing_names_it(monkeypatch):
    import timm.data

    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'tensorflow_datasets'")

    monkeypatch.setattr(timm.data, "create_dataset", missing)
    with pytest.raises(ValueError, match="pip install tensorflow-datasets"):
        data.load("tfds/small", "somewhere", samples=4)
    assert set(readers.EXTRAS) <= set(data.sources.PREFIXES)


def test_tar_and_bytes_are_pictures_too():
    buffer = io.BytesIO()
    Image.fromarray(data.photo("chelsea")).save(buffer, "PNG")
    from dtl_lib.data.photos import decode

    assert np.array_equal(np.asarray(decode(buffer, "bytes")), data.photo("chelsea"))


@needs_imagenet
def test_real_photos_have_their_own_classes():
    sets = data.load("imagenet", REAL, image_size=64)
    ids, names = wordnet_classes()
    for part in (sets.train, sets.test):
        for index in range(0, len(part), 11):
            file = Path(part.source.files[int(part.members[index])])
            number = part.labels([index]).item()
            assert ids[number] == file.parent.name
            assert file.stem.split("_")[0].lower() in names[number].lower()
    x, _ = sets.test.batch(range(8))
    assert x.shape == (8, 3, 64, 64) and 0.5 < x.std() < 1.6


@needs_imagenet
def test_real_photos_are_prepared_as_timm_does():
    from timm.data import create_transform

    images = data.load("imagenet", REAL, config=SimpleNamespace(mean=(0.5,) * 3, std=(0.5,) * 3)).test
    theirs = create_transform((3, 224, 224), crop_pct=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    x, _ = images.batch([3, 40])
    for row, index in enumerate((3, 40)):
        expected = theirs(Image.open(images.source.files[int(images.members[index])]).convert("RGB"))
        torch.testing.assert_close(x[row], expected, rtol=0, atol=2e-6)


def test_torchvisions_data_sets_ask_for_their_folder_and_no_download(tmp_path):
    with pytest.raises(ValueError, match=r"in which folder the files of torch/mnist are: path \(--data-path DIR\)"):
        data.load("torch/mnist")
    with pytest.raises(ValueError, match="Put its files there$"):
        data.load("torch/cifar10", tmp_path / "none")
