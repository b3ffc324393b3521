"""Which images the runs of a grid are of: moved ones go on, others are refused; and which are looked inside on."""

import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import ViT, data, ledger
from dtl_lib.__main__ import main
from dtl_lib.config import ViTConfig
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas.train_cell import inspected, look_inside
from tests.unit.tiny_atlas import Here, tiny

FLAGS = "--data folder --depth 2 --dim 16 --heads 2 --image-size 16 --patch-size 8 --max-steps 2 --batch-size 4".split()
CONFIG = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=3)


class MadeUp(Here):
    """Workers that train nothing."""

    def results(self, jobs):
        for job in jobs:
            yield job, {"n": 9, "accuracy": 0.5, "held_out": 0.5, "seconds": 1.0, "multiply_adds": 1}


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    monkeypatch.setattr(sys.modules["dtl_lib.lab.atlas.run"], "Workers", MadeUp)


@pytest.fixture
def photos(tmp_path):
    """Three classes in three parts, each class brighter than the one before."""
    random = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for at, name in enumerate("abc"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = random.integers(80 * at, 80 * at + 40, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def run(capsys, folder, *flags) -> tuple[int, str, str]:
    status = main(["atlas", "run", *map(str, flags), "--records", str(folder), "--device", "cpu"])
    return status, *capsys.readouterr()


def test_moved_images_go_on(photos, tmp_path, capsys):
    records = tmp_path / "records"
    assert run(capsys, records, *FLAGS, "--cls", "0,1", "--seeds", 0, "--data-path", photos)[0] == 0
    moved = shutil.move(photos, tmp_path / "moved")
    status, out, error = run(capsys, records, *FLAGS, "--cls", "0,1", "--seeds", "0,1", "--data-path", moved)
    assert status == 0, error
    assert "2 of 4 runs left" in out
    status, out, error = run(capsys, records)
    assert status == 0 and "0 of 4 runs left" in out, "the last command says where the images are now"


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_other_images_in_the_same_place_are_refused(photos, tmp_path, capsys, part):
    records = tmp_path / "records"
    assert run(capsys, records, *FLAGS, "--cls", "0,1", "--seeds", 0, "--data-path", photos)[0] == 0
    before = (records / "atlas_own.jsonl").read_bytes()
    shutil.copy(photos / part / "a" / "0.png", photos / part / "b" / "more.png")
    status, _, error = run(capsys, records, *FLAGS, "--cls", "0,1", "--seeds", "0,1", "--data-path", photos)
    assert status == 2 and error.count("\n") == 1 and "is of other images than folder" in error
    assert (records / "atlas_own.jsonl").read_bytes() == before


def test_records_without_fingerprints_hold_to_the_folder_s_name(photos, tmp_path, capsys):
    records = tmp_path / "records"
    flags = [*FLAGS, "--cls", "0,1", "--seeds", 0]
    assert run(capsys, records, *flags, "--data-path", photos)[0] == 0
    path, old = records / "atlas_own.jsonl", ledger.read("atlas_own", records)
    path.unlink()
    for record in old:
        values = {name: value for name, value in record.values.items() if name != "data"}
        ledger.append({**record.to_dict(), "values": values, "id": ""}, records)
    moved = shutil.move(photos, tmp_path / "moved")
    status, _, error = run(capsys, records, *flags, "--data-path", moved)
    assert status == 2 and "has runs with --data-path" in error


def test_fingerprints_are_no_value_of_a_surface(tmp_path):
    made = list(atlas.run(tiny(sweep=()), tmp_path, command="none", progress=False))
    assert len(made) == 8 and all(len(run.values["data"]) == 3 for run in made)
    assert "data" not in atlas.value_names(made)


def test_looks_at_images_of_every_class(photos, monkeypatch):
    """A folder's images come class by class."""
    monkeypatch.setattr("dtl_lib.lab.atlas.train_cell.INSPECTED", 3)
    test = data.load("folder", photos, 16, config=CONFIG).test
    assert sorted(test.labels(inspected(len(test))).tolist()) == [0, 1, 2]
    torch.manual_seed(0)
    model, seen = ViT(CONFIG).eval(), []
    batch = type(test).batch
    monkeypatch.setattr(type(test), "batch", lambda self, at, *more: seen.append(at) or batch(self, at, *more))
    look_inside(model, test)
    assert test.labels(seen[0]).unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(("length", "count"), [(1, 1), (499, 499), (500, 500), (501, 500), (10_000, 500)])
def test_looks_at_every_image_of_a_few_and_at_few_of_many(length, count):
    chosen = inspected(length)
    assert len(chosen.unique()) == count and 0 <= chosen.min() and chosen.max() < length
