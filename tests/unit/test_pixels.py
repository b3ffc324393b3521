"""Logistic regression on pixels: that its rows are images, and that it goes on where it was."""

from dataclasses import replace

import pytest

from book.experiments import pixels
from dtl_lib import data, ledger
from dtl_lib.data import Shapes
from dtl_lib.data.shapes import generator


@pytest.fixture
def small(monkeypatch):
    """Few shapes in the place of CIFAR-10."""
    sets = data.load("shapes")
    parts = {"train": 200, "held_out": 40, "test": 50}
    few = {name: Shapes(32, 1, 0, generator.PARTS[name], n, f"shapes {name}") for name, n in parts.items()}
    monkeypatch.setattr(data, "load", lambda name: replace(sets, **few))
    return few


def test_rows_are_images(small):
    rows, labels = pixels.pixels(small["test"])
    assert rows.shape == (50, 3 * 32 * 32) and labels.shape == (50,)
    assert (rows[3] == small["test"].batch([3])[0].flatten().numpy()).all()


def test_a_record_a_penalty_and_none_twice(small, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "STRENGTHS", (1e-3, 1.0))
    pixels.main(["--folder", str(tmp_path)])
    pixels.main(["--folder", str(tmp_path)])
    weak, strong = ledger.read("cifar10_pixels", tmp_path)
    assert (weak.get("strength"), strong.get("strength"), weak.n, weak.seed) == (1e-3, 1.0, 50, None)
    assert strong.get("train_accuracy") == 1 > weak.get("train_accuracy")  # 200 images in 3,072 dimensions
    assert 0 <= strong.get("accuracy") < 1 and strong.get("iterations") < pixels.ITERATIONS


def test_the_ledger_has_its_best_penalty_inside():
    records = sorted(ledger.read("cifar10_pixels"), key=lambda record: record.get("strength"))
    assert [record.get("strength") for record in records] == list(pixels.STRENGTHS)
    held_out = [record.get("held_out") for record in records]
    assert max(held_out) not in (held_out[0], held_out[-1])
    assert all(record.n == 10_000 and record.get("iterations") < pixels.ITERATIONS for record in records)
