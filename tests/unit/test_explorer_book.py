"""The explorer in the book: its models are in the zoo, it is made again when it must be, and the page loads it."""

import re

import pytest

from book.tools import explorer
from book.tools.project import ROOT
from dtl_lib import load_pretrained, zoo
from dtl_lib.data.shapes import Shapes
from dtl_lib.explore import page, shown
from dtl_lib.explore.recording import class_labels


@pytest.fixture
def written(monkeypatch):
    calls = []

    def write(folder, models, pictures, start):
        folder.mkdir(exist_ok=True)
        calls.append(([each.name for each in models], [each.kind for each in pictures], start))

    monkeypatch.setattr(page, "write", write)
    return calls


def test_it_is_made_once_and_again_when_something_changes(written, tmp_path, monkeypatch):
    explorer.make(tmp_path / "explorer")
    explorer.make(tmp_path / "explorer")
    assert written == [(list(explorer.MODELS.values()), ["shapes", "shapes", "photo", "photo"], explorer.START)]
    monkeypatch.setattr(explorer, "MODELS", dict(list(explorer.MODELS.items())[:1]))
    explorer.make(tmp_path / "explorer")
    assert len(written) == 2


def test_its_models_are_early_late_and_with_registers():
    plans = {name: zoo.read_card(name)["plan"] for name in explorer.MODELS}
    assert plans["cifar10_depth6"] == "class token at 0, no registers"
    assert plans["cifar10_depth6_cls4"] == "class token at 4, no registers"
    assert plans["cifar10_depth6_reg4"] == "class token at 0, 4 registers at 0"
    kinds = {each.name: each.kind for each in shown.from_zoo(explorer.MODELS)}
    assert {title: title.split(" ")[0].rstrip("s") for title in kinds} == {k: v.rstrip("s") for k, v in kinds.items()}


def test_the_page_has_it_and_every_script_is_copied():
    text = (ROOT / "book" / "explorer.md").read_text("utf8")
    assert "```{explorer}\n```" in text and "What is a register?" in text
    html = page.fragment("../_static/explorer/")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert all(path.startswith("../_static/explorer/") for path in loaded)
    names = {path.rsplit("/", 1)[1] for path in loaded}
    assert names == {*page.SCRIPTS, "index.js"} and 'data-folder="../_static/explorer/"' in html


def test_every_model_on_the_page_names_its_classes():
    for name in explorer.MODELS:
        model = load_pretrained(f"{zoo.PREFIX}{name}")
        kept = model.card.get("classes") or zoo.read_card("cifar10_depth6_reg4")["classes"]
        assert class_labels(model) == list(Shapes.classes if name.startswith("shapes") else kept)
