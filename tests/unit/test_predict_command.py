"""`dtl predict`: the names and probabilities that the model's own logits have, whichever way it names its classes."""

import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from dtl_lib import checkpoint, data
from dtl_lib.cli.main import main
from dtl_lib.config import ViTConfig
from dtl_lib.data.sources.folder import wordnet_classes
from dtl_lib.models import ViT

CONFIG = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=3, crop=1.0)
NAMES = ["cat", "dog", "owl"]


@pytest.fixture
def files(tmp_path):
    """Three pictures of one colour each."""
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "green", "blue")]
    for path in paths:
        Image.new("RGB", (30, 20), path.stem).save(path)
    return [str(path) for path in paths]


def saved(folder, config=CONFIG, **card):
    """A model with logits far apart, and the path of its checkpoint."""
    torch.manual_seed(3)
    model = ViT(config).eval()
    for classifier in model.classifiers.values():
        torch.nn.init.normal_(classifier.weight, std=1.0)
    return model, str(checkpoint.save_model(folder / "model.safetensors", model, card))


def printed(text: str) -> list[tuple[str, list[tuple[float, str]]]]:
    """The pictures, and the percentages and classes below each."""
    found = []
    for line in text.splitlines():
        if row := re.fullmatch(r" +([\d.]+)%  (.+)", line):
            found[-1][1].append((float(row[1]), row[2]))
        else:
            found.append((line, []))
    return found


def expected(model, file: str) -> list[float]:
    """Percentages by class, from the picture that `prepare` makes."""
    with torch.inference_mode():
        logits = model(data.prepare(data.open_image(file), config=model.config))[0]
    return (100 * logits.softmax(dim=0)).tolist()


def test_each_picture_has_the_models_probabilities_by_name_in_falling_order(tmp_path, files, capsys):
    model, path = saved(tmp_path, classes=NAMES)
    assert main(["predict", *files, "--model-path", path, "--device", "cpu"]) == 0
    shown = printed(capsys.readouterr().out)
    assert [name for name, _ in shown] == files
    for file, rows in shown:
        values = expected(model, file)
        assert [name for _, name in rows] == sorted(NAMES, key=lambda name: -values[NAMES.index(name)])
        assert [value for value, _ in rows] == pytest.approx(sorted(values, reverse=True), abs=0.051)


def test_top_limits_the_classes_printed(tmp_path, files, capsys):
    _, path = saved(tmp_path, replace(CONFIG, classes=12), classes=[f"kind {number}" for number in range(12)])
    for flags, count in (((), 5), (("--top", "2"), 2), (("--top", "99"), 12)):
        assert main(["predict", files[0], "--model", path, *flags]) == 0
        [(_, rows)] = printed(capsys.readouterr().out)
        assert len(rows) == count


@pytest.mark.parametrize("trained_on", [None, "imagenet train"])
def test_imagenets_classes_are_shown_in_words(tmp_path, files, capsys, trained_on):
    ids, words = wordnet_classes()
    card = {"data": {"name": trained_on}} if trained_on else {"classes": list(ids)}
    model, path = saved(tmp_path, replace(CONFIG, classes=1000), **card)
    assert main(["predict", files[1], "--model-path", path, "--top", "1"]) == 0
    values = expected(model, files[1])
    best = values.index(max(values))
    assert printed(capsys.readouterr().out)[0][1][0][1] == f"{words[best]} ({ids[best]})"


def test_classes_without_names_have_numbers(tmp_path, files, capsys):
    model, path = saved(tmp_path, data={"name": "folder train"})
    assert main(["predict", files[0], "--model-path", path, "--top", "1"]) == 0
    values = expected(model, files[0])
    assert printed(capsys.readouterr().out)[0][1][0][1] == f"class {values.index(max(values))}"


def test_one_bad_picture_does_not_stop_the_others(tmp_path, files, capsys):
    _, path = saved(tmp_path, classes=NAMES)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert main(["predict", str(tmp_path / "bad.png"), str(tmp_path / "none.png"), files[2], "--model-path", path]) == 2
    out, error = capsys.readouterr()
    assert [name for name, _ in printed(out)] == [files[2]]
    assert "bad.png is not an image" in error and error.endswith("none.png cannot be read either)\n")
    assert error.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("card", "config", "says"),
    [
        ({"classes": ["cat", "dog"]}, CONFIG, "card names 2 classes and the model has 3"),
        ({"classes": "owl"}, CONFIG, "no list of text"),
        ({"classes": ["cat", "dog", 3]}, CONFIG, "no list of text"),
        ({}, replace(CONFIG, classes=0), "has no classes, only features"),
    ],
)
def test_a_model_that_names_no_classes_is_refused(tmp_path, files, capsys, card, config, says):
    path = saved(tmp_path, config, **card)[1]
    assert main(["predict", files[0], "--model-path", path]) == 2
    assert says in capsys.readouterr().err


def test_a_model_and_a_picture_are_needed(files, capsys):
    assert main(["predict"]) == 2
    assert "name the images" in capsys.readouterr().err
    assert main(["predict", *files]) == 2
    assert "say which model" in capsys.readouterr().err
    assert main(["predict", files[0], "--model", "deit_tiny_patch16_224"]) == 2
    assert "random weights" in capsys.readouterr().err


def test_names_of_pictures_and_classes_are_one_line_each(tmp_path, files, capsys):
    path = saved(tmp_path, classes=["cat", "dog\n  99.9%  owl", "owl\tant"])[1]
    odd = tmp_path / "red\n  99.9%  owl.png"
    Image.new("RGB", (30, 20), "red").save(odd)
    assert main(["predict", str(odd), "--model-path", path]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_an_empty_picture_name_is_not_blamed_on_the_model(tmp_path, files, capsys):
    assert main(["predict", "--model-path", saved(tmp_path)[1], ""]) == 2
    assert "an argument is empty" in capsys.readouterr().err
