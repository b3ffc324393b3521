"""Pictures that are trained on and tested on: by a link to a folder or a shard, and as copies."""

import io
import logging
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from dtl_lib import data
from dtl_lib.config import ViTConfig
from dtl_lib.data.labelled import warn_of_shared
from dtl_lib.models import ViT
from dtl_lib.train import Recipe, fit


def save(folder, count, seed):
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (count, 9, 9, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{seed}-{number}.png")


@pytest.fixture
def root(tmp_path):
    """Train, val and test of two classes, every picture another."""
    for seed, (part, count) in enumerate((("train", 12), ("val", 4), ("test", 4))):
        for place, name in enumerate(("cat", "dog")):
            save(tmp_path / part / name, count, 2 * seed + place)
    return tmp_path


def warned(sets, caplog) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "dtl_lib"):
        warn_of_shared(sets)
    return [record.getMessage() for record in caplog.records]


def test_pictures_that_differ_are_nothing_to_warn_of(root, caplog):
    assert warned(data.load("folder", root, image_size=8), caplog) == []
    assert warned(data.load("shapes", samples=10), caplog) == []


def test_copies_are_counted_and_one_is_named(root, caplog):
    for number in range(3):
        shutil.copy(root / f"train/cat/0-{number}.png", root / f"test/cat/renamed-{number}.png")
    (said,) = warned(data.load("folder", root, image_size=8), caplog)
    assert said.startswith("folder test: 3 of 11 images looked at, such as ") and "renamed-0.png, are also" in said
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")
    (said,) = warned(data.load("folder", root, image_size=8), caplog)
    assert said.startswith("folder test: 24 of 24 images")


@pytest.mark.parametrize("what", ["val", "val/cat"])
def test_a_link_is_seen_however_many_pictures_there_are(root, caplog, monkeypatch, what):
    monkeypatch.setattr("dtl_lib.data.labelled.HASHED", 2)
    shutil.rmtree(root / what)
    (root / what).symlink_to(root / what.replace("val", "train"))
    (said,) = warned(data.load("folder", root, image_size=8), caplog)
    assert said.startswith("folder held_out: images lie in folders or shards that are also in folder train")


def test_a_linked_shard(tmp_path, caplog):
    for part, seed in (("train", 0), ("test", 1)):
        (tmp_path / part).mkdir()
        with tarfile.open(tmp_path / part / "0.tar", "w") as shard:
            for number, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (8, 9, 9), dtype=np.uint8)):
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                for ending, content in (("png", file.getvalue()), ("cls", b"%d" % (number % 2))):
                    about = tarfile.TarInfo(f"{number}.{ending}")
                    about.size = len(content)
                    shard.addfile(about, io.BytesIO(content))
    assert warned(data.load("wds", tmp_path, image_size=8), caplog) == []
    (tmp_path / "test/0.tar").unlink()
    (tmp_path / "test/0.tar").symlink_to(tmp_path / "train/0.tar")
    (said,) = warned(data.load("wds", tmp_path, image_size=8), caplog)
    assert said.startswith("wds test: images lie in")


def test_pictures_that_cannot_be_read_are_no_copies(root, caplog):
    for part in ("train", "test"):
        (root / part / "cat/gone.png").symlink_to(root / "nowhere")
    assert warned(data.load("folder", root, image_size=8), caplog) == []


def test_fit_says_so(root, caplog):
    shutil.rmtree(root / "test")
    (root / "test").symlink_to(root / "train")
    config = ViTConfig(8, 4, dim=16, depth=1, heads=2, classes=2)
    with caplog.at_level(logging.WARNING, "dtl_lib"):
        sets = data.load("folder", root, config=config)
        fit(ViT(config), sets, Recipe(max_steps=1, batch_size=8), progress=False, workers=0)
    assert sum("says nothing about unseen images" in record.getMessage() for record in caplog.records) == 1
