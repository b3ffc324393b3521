"""The experiment on trained models: which photos, which records, and what is not measured again."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from book.experiments import entry
from dtl_lib import ledger
from dtl_lib.config import ViTConfig
from dtl_lib.data.sources.folder import wordnet_classes
from dtl_lib.models import ViT

CONFIG = ViTConfig(32, 16, dim=12, depth=3, heads=3, classes=1000)


@pytest.fixture
def folder(tmp_path):
    """Six photos of six classes, of one colour each, in two parts."""
    for number, name in enumerate(wordnet_classes()[0][:6]):
        path = tmp_path / "photos" / ("train" if number < 4 else "val") / name / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (40 * number, 90, 200 - 30 * number)).save(path)
    return str(tmp_path / "photos")


@pytest.fixture
def models(monkeypatch):
    """Small models in the place of the two, and how often one was loaded."""
    loaded = []

    def load(name):
        loaded.append(name)
        torch.manual_seed(0)
        return ViT(CONFIG if name == entry.VIT else replace(CONFIG, classes=0)).eval()

    monkeypatch.setattr(entry, "load", load)
    monkeypatch.setattr(entry, "SIZE", 32)
    monkeypatch.setattr(entry, "BLOCKS", {entry.VIT: (2, 1), entry.SALIENCY: (2,)})
    monkeypatch.setattr(entry, "PHOTOS", {entry.VIT: None, entry.SALIENCY: 3})
    return loaded


def test_every_photo_is_used_with_its_class_or_some_at_even_distances(folder):
    model = ViT(CONFIG)
    every = entry.photos(folder, model, None)
    assert sorted(torch.cat([labels for _, labels in every]).tolist()) == [*range(6)]
    some = torch.cat([x for x, _ in entry.photos(folder, model, 3)])
    assert torch.equal(some, torch.cat([x for x, _ in every])[[0, 2, 5]])


def test_one_record_a_row_and_none_is_measured_again(folder, models, tmp_path, monkeypatch):
    arguments = ["--photos", folder, "--folder", str(tmp_path / "records")]
    entry.main(arguments)
    records = ledger.read("entry", tmp_path / "records")
    assert len(records) == 9 * 3 and len({record.what for record in records}) == 27
    of = {record.what: record for record in records}
    control = of[f"{entry.VIT}: itself, present before block 2"]
    assert control.values["agreement"] == 1 and control.values["largest_change"] < 1e-6 and control.n == 6
    features = of[f"{entry.SALIENCY}: mean, absent before block 2"]
    assert features.n == 3 and "accuracy" not in features.values and features.values["similarity"] < 1
    entry.main(arguments)
    assert models == [entry.VIT, entry.SALIENCY] and ledger.read("entry", tmp_path / "records") == records
    lines = (tmp_path / "records" / "entry.jsonl").read_text("utf8").splitlines(keepends=True)
    (tmp_path / "records" / "entry.jsonl").write_text("".join(lines[:-1]), "utf8")
    entry.main(arguments)
    assert models[2:] == [entry.SALIENCY]
    assert [record.values for record in ledger.read("entry", tmp_path / "records")] == [r.values for r in records]
