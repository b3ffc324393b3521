"""CIFAR: the parser on small files of the original format, refusals, and the real files where they are."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from dtl_lib import data
from dtl_lib.__main__ import main
from dtl_lib.checkpoint import load_model
from dtl_lib.data.sources import cifar

REAL = Path(os.environ.get("DTL_DATA", "")) / CIFAR10.base_folder
needs_cifar = pytest.mark.skipif(
    not os.environ.get("DTL_DATA") or not REAL.is_dir(),
    reason="needs the CIFAR-10 files: DTL_DATA is not set or lacks them",
)


def small_file(labels: str, images: int, classes: int, seed: int) -> tuple[bytes, np.ndarray, list[int]]:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (images, 3072), np.uint8)
    targets = generator.integers(0, classes, images).tolist()
    entry = {"data": pixels, labels: targets, "batch_label": "small", "coarse_labels": [0] * images}
    return pickle.dumps(entry, protocol=2), pixels, targets


@pytest.fixture
def small_set(tmp_path, monkeypatch):
    """A small data set in the original format, whose MD5s replace the published ones in torchvision's table."""

    def make(name: str, source) -> Path:
        folder = tmp_path / source.base_folder
        folder.mkdir()
        labels, classes = cifar.LABELS[name], int(name.removeprefix("cifar"))

        def written(file: str, content: bytes) -> list[str]:
            (folder / file).write_bytes(content)
            return [file, hashlib.md5(content).hexdigest()]

        for attribute in ("train_list", "test_list"):
            table = [
                written(file, small_file(labels, 20, classes, seed)[0])
                for seed, (file, _) in enumerate(getattr(source, attribute), 100 * (attribute == "test_list"))
            ]
            monkeypatch.setattr(source, attribute, table)
        names = [f"class {number}" for number in range(classes)]
        _, md5 = written(source.meta["filename"], pickle.dumps({source.meta["key"]: names}, protocol=2))
        monkeypatch.setattr(source, "meta", source.meta | {"md5": md5})
        return folder

    return make


@pytest.mark.parametrize("labels", ["labels", "fine_labels"])
def test_parser_reads_channels_rows_and_columns(labels):
    content, pixels, targets = small_file(labels, 5, 10, seed=0)
    images, classes = cifar.parse(content, labels)
    assert images.shape == (5, 3, 32, 32) and images.dtype == torch.uint8 and classes.tolist() == targets
    assert images[2, 1, 3, 4] == pixels[2, 1024 + 3 * 32 + 4]


@pytest.mark.parametrize(("name", "source"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_whole_set_has_held_out_cut_from_training(small_set, name, source):
    folder = small_set(name, source)
    sets = data.load(name, folder)
    files = len(source.train_list)
    assert len(sets.train) == 18 * files and len(sets.held_out) == 2 * files and len(sets.test) == 20
    assert len(sets.train.classes) == int(name.removeprefix("cifar"))
    pixels = np.concatenate([small_file(cifar.LABELS[name], 20, 10, seed)[1] for seed in range(files)])
    together = torch.cat([sets.train.raw(range(18 * files)), sets.held_out.raw(range(2 * files))]).flatten(1).numpy()
    assert sorted(map(bytes, together)) == sorted(map(bytes, pixels))
    expected = small_file(cifar.LABELS[name], 20, int(name.removeprefix("cifar")), 100)
    assert sets.test.labels(range(20)).tolist() == expected[2]
    few = data.load(name, folder, samples=5).train
    assert len(few) == 5 and {bytes(image.numpy().tobytes()) for image in few.raw(range(5))} <= set(
        map(bytes, together)
    )
    assert data.load(name, folder, image_size=48).test.batch([0])[0].shape == (1, 3, 48, 48)


def test_cifar100_is_trained_on_and_evaluated_by_the_same_command(small_set, tmp_path, capsys):
    folder, run = small_set("cifar100", CIFAR100), tmp_path / "run"
    shape = "--dim 16 --depth 2 --heads 2 --batch-size 6 --epochs 2 --device cpu --quiet --trivial"
    assert main(f"train --data cifar100 --data-path {folder} {shape} --output-dir {run}".split()) == 0
    assert "cifar100 train: 18 images, 32×32, 100 classes" in capsys.readouterr().out
    model = load_model(run / "best.safetensors")
    assert model.config.classes == 100 and model.card["data"]["name"] == "cifar100 train"
    assert model.card["test"]["n"] == 20 and "top5" in model.card["test"]
    assert main(f"evaluate --model-path {run}/best.safetensors --data cifar100 --data-path {folder}".split()) == 0
    assert "n = 20" in capsys.readouterr().out
    sets = data.load("cifar100", folder)
    assert sets.test.classes == tuple(f"class {number}" for number in range(100))
    fine = small_file("fine_labels", 20, 100, seed=100)[2]
    assert sets.test.labels(range(20)).tolist() == fine and max(fine) > 19  # not the twenty coarse ones


def test_folder_is_found_from_above(small_set, tmp_path, monkeypatch):
    folder = small_set("cifar10", CIFAR10)
    expected = data.load("cifar10", folder).test.fingerprint()
    assert data.load("cifar10", tmp_path).test.fingerprint() == expected
    monkeypatch.setenv("DTL_DATA", str(tmp_path))
    assert data.load("cifar10").test.fingerprint() == expected
    folder.rename(tmp_path / "CIFAR10")
    assert data.load("cifar10", tmp_path).test.fingerprint() == expected
    assert data.load("cifar10", tmp_path / "CIFAR10").test.fingerprint() == expected


def test_a_cut_file_is_named_with_what_was_expected(small_set):
    folder = small_set("cifar10", CIFAR10)
    file = folder / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"data_batch_3 is damaged.*MD5 {CIFAR10.train_list[2][1]}.*unpack") as caught:
        data.load("cifar10", folder)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(small_set):
    folder = small_set("cifar10", CIFAR10)
    (folder / "data_batch_2").unlink()
    with pytest.raises(ValueError, match="data_batch_2 does not exist.*unpack"):
        data.load("cifar10", folder)


def test_a_folder_without_the_files_is_refused_without_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "download", lambda self: pytest.fail("downloaded although a path was given"))
    with pytest.raises(ValueError, match="holds no cifar10: cifar-10-batches-py/ with data_batch_1 was expected"):
        data.load("cifar10", tmp_path)


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def unreachable(self):
        raise OSError("no network")

    monkeypatch.setattr(CIFAR100, "download", unreachable)
    monkeypatch.setenv("DTL_DATA", str(tmp_path / "new"))
    with pytest.raises(ValueError, match="could not be downloaded.*no network.*cifar-100-python.tar.gz.*DTL_DATA"):
        data.load("cifar100")


class Bomb:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("file", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_pickle_that_would_run_code_does_not_run(small_set, tmp_path, file):
    folder = small_set("cifar10", CIFAR10)
    (folder / file).write_bytes(pickle.dumps(Bomb(tmp_path / "it ran")))
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        data.load("cifar10", folder)
    assert not (tmp_path / "it ran").exists()


@pytest.fixture(scope="module")
def real():
    return data.load("cifar10", REAL)


@needs_cifar
def test_real_files_are_torchvisions(real):
    theirs = CIFAR10(REAL.parent, train=False)
    ours = real.test.raw([0, 77, 9999]).movedim(1, -1).numpy()
    assert np.array_equal(ours, theirs.data[[0, 77, 9999]])
    assert real.test.labels(range(10_000)).tolist() == theirs.targets
    assert list(real.test.classes) == theirs.classes


@needs_cifar
def test_real_parts_are_disjoint_and_normalised(real):
    assert (len(real.train), len(real.held_out), len(real.test)) == (45_000, 5_000, 10_000)
    keys = [
        hash(image.numpy().tobytes()) for part in (real.train, real.held_out) for image in part.raw(range(len(part)))
    ]
    assert len(set(keys)) == 50_000
    assert real.held_out.labels(range(5000)).bincount().min() > 400
    x, _ = real.train.batch(range(5000))
    assert x.mean((0, 2, 3)).abs().max() < 0.03 and (x.std((0, 2, 3)) - 1).abs().max() < 0.03


@needs_cifar
def test_real_training_batch_is_what_torchvision_would_cut(real):
    from dtl_lib.data import Augment

    x, _ = real.train.batch([5], Augment(crop=4, flip=True), key=(0, 0))
    picture = torch.nn.functional.pad(real.train.raw([5]).float(), (4, 4, 4, 4), mode="reflect")
    windows = picture.unfold(2, 32, 1).unfold(3, 32, 1).flatten(2, 3).movedim(2, 0).squeeze(1)
    candidates = real.train.normalised(torch.cat([windows, windows.flip(-1)]))
    assert ((candidates - x).abs().flatten(1).amax(1) < 1e-5).sum() == 1
