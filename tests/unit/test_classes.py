"""Classes are matched by name: the same pictures count as right, whatever is in the folder that is evaluated.

timm and torchvision number a folder's classes by its own sorted names: the same pictures are then wrong.
"""

import shutil

import pytest
import torch
from PIL import Image, ImageColor

from dtl_lib import data, load_pretrained
from dtl_lib.cli.main import main
from dtl_lib.config import ViTConfig
from dtl_lib.data.images import InMemory
from dtl_lib.data.sources.folder import wordnet_classes
from dtl_lib.models import ViT
from dtl_lib.train import Recipe, evaluate, fit
from dtl_lib.train.classes import check_teacher, class_names, match_classes

COLOURS = {"cat": "red", "dog": "lime", "owl": "blue"}
CONFIG = ViTConfig(16, 8, dim=16, depth=1, heads=2, classes=3, crop=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)


class Painter(torch.nn.Module):
    """Says which colour a picture has: right about every class, once the numbers are the model's."""

    def __init__(self, classes: dict[str, str], names=None, count=None, **card):
        super().__init__()
        colours = torch.tensor([ImageColor.getrgb(colour) for colour in classes.values()]) / 127.5 - 1
        self.colours = torch.nn.Parameter(colours)
        self.config = ViTConfig(16, 8, dim=16, depth=1, heads=2, classes=count or len(list(names or classes)), crop=1.0,
                                mean=(0.5,) * 3, std=(0.5,) * 3)  # fmt: skip
        self.places = list(range(len(classes))) if names is None else [list(names).index(name) for name in classes]
        self.card = {**({} if names is None else {"classes": list(names)}), **card}

    def forward(self, x):
        distances = (x.mean(dim=(2, 3))[:, None] - self.colours).norm(dim=-1)
        logits = torch.full((len(x), self.config.classes), -50.0)
        logits[:, self.places] = -10 * distances
        return logits


def paint(root, classes, count: int = 3) -> None:
    """A folder for each class, named as asked, with pictures of its colour."""
    for name, colour in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (20, 20), colour).save(root / name / f"{number}.png")


def only(*names) -> dict[str, str]:
    return {name: COLOURS[name] for name in names}


@pytest.mark.parametrize("there", [("dog", "owl"), ("owl",), ("cat", "owl"), ("cat", "dog", "owl")])
@pytest.mark.parametrize("order", [("cat", "dog", "owl"), ("owl", "cat", "dog")])
def test_a_folder_that_lacks_classes_is_scored_by_name(tmp_path, there, order):
    paint(tmp_path / "val", only(*there))
    model, images = Painter(COLOURS, order), data.load("folder", tmp_path, config=CONFIG).test
    assert evaluate(model, images, workers=0).accuracy == 1.0
    notes = match_classes(model, images).notes
    missing = [name for name in order if name not in there]
    assert all(name in notes[0] for name in missing) if missing else not notes


def test_swapped_names_are_wrong(tmp_path):
    """The names decide, not the order in which they stand."""
    paint(tmp_path / "val", {"cat": COLOURS["dog"], "dog": COLOURS["cat"]})
    images = data.load("folder", tmp_path, config=CONFIG).test
    assert evaluate(Painter(COLOURS, COLOURS), images, workers=0).accuracy == 0.0


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_wordnet_folders_are_imagenets_classes_for_a_published_model(tmp_path, name):
    ids, _ = wordnet_classes()
    classes = {ids[7]: "red", ids[300]: "lime", ids[900]: "blue"}
    paint(tmp_path / "val", classes)
    images = data.load(name, tmp_path, config=CONFIG).test
    published = Painter(classes, ids)
    del published.card["classes"]  # one of timm's: it has no card, and a thousand classes
    result = evaluate(published, images, workers=0)
    assert result.accuracy == 1.0 and result.top5 == 1.0
    fewer = Painter(classes, list(reversed(classes)))
    assert evaluate(fewer, images, workers=0).accuracy == 1.0  # a model of these classes alone, in another order


@pytest.mark.parametrize(
    ("names", "there", "says"),
    [
        (("cat", "dog", "owl"), ("cat", "Dog"), "does not have the class Dog of folder test; it has cat, dog, owl"),
        (("cat", "dog", "owl"), ("ant", "bee", "wasp"), "does not have the classes ant, bee, wasp"),
        (("cat", "dog", "owl"), ("cat", "dog", "owl", "yak"), "does not have the class yak"),
        (("cat", "cat", "owl"), ("cat",), "two classes called 'cat'"),
    ],
)
def test_what_cannot_be_mapped_is_refused(tmp_path, names, there, says):
    paint(tmp_path / "val", dict.fromkeys(there, "red"))
    model = Painter(COLOURS, COLOURS)
    model.card["classes"] = list(names)
    with pytest.raises(ValueError, match=says):
        evaluate(model, data.load("folder", tmp_path, config=CONFIG).test, workers=0)


def test_a_thousand_other_classes_are_not_imagenets(tmp_path):
    paint(tmp_path / "val", {f"kind{number:03}": "red" for number in range(1000)}, 1)
    model = Painter({"cat": "red"}, count=1000)
    with pytest.raises(ValueError, match="does not have the classes kind000"):
        match_classes(model, data.load("folder", tmp_path, config=CONFIG).test)


def in_memory(name: str, classes, targets) -> InMemory:
    return InMemory(name, classes, (0.5,) * 3, (0.5,) * 3, torch.zeros(len(targets), 3, 16, 16, dtype=torch.uint8),
                    torch.tensor(targets))  # fmt: skip


@pytest.mark.parametrize(
    ("trained_on", "classes", "outcome"),
    [
        ("cifar10 train", COLOURS, "same"),  # the same data set always numbers its classes so
        ("folder train", COLOURS, "by number"),
        ("folder train", ("dog", "owl"), "refused"),
        ("folder train", ("0", "1"), "same"),  # numbers are the model's
    ],
)
def test_an_old_card_without_names_is_matched_by_number_where_that_can_be_right(trained_on, classes, outcome):
    model, images = Painter(COLOURS, data={"name": trained_on}), in_memory("cifar10 test", classes, [0, 1, 1])
    if outcome == "refused":
        with pytest.raises(ValueError, match="has 2 classes and the model 3, whose names nothing says"):
            match_classes(model, images)
    else:
        match = match_classes(model, images)
        assert match.numbers is None and bool(match.notes) == (outcome == "by number")


@pytest.mark.parametrize("count", [2, 3, 12])
def test_folders_called_by_numbers_are_matched_by_name(tmp_path, count):
    """Of folders 0 to 11 the third is `10`: sorted as text, as torchvision and timm sort them too."""
    colours = {str(number): f"rgb({number * 20}, 0, {250 - number * 20})" for number in range(12)}
    model = Painter(colours, sorted(colours))
    paint(tmp_path / "val", {name: colours[name] for name in list(colours)[:count]}, 1)
    assert evaluate(model, data.load("folder", tmp_path, config=CONFIG).test).accuracy == 1
    numbered = data.load("folder", tmp_path, config=CONFIG).test
    numbered.classes, numbered.identities = tuple(map(str, range(count))), None  # as shards number them
    numbered.source.targets = [int(name) for name in sorted(list(colours)[:count])]
    numbered._targets = torch.tensor(numbered.source.targets)
    assert evaluate(model, numbered).accuracy == 1


def test_names_have_to_be_as_many_as_the_models_classes(tmp_path):
    paint(tmp_path / "val", only("cat", "dog"), 1)
    images = data.load("folder", tmp_path, config=CONFIG).test
    for names in (("cat", "dog"), "owl", ("cat", "dog", 3)):
        with pytest.raises(ValueError, match="the model has 3 classes: give a list of as many names"):
            evaluate(Painter(COLOURS), images, classes=names)


def test_a_name_with_a_new_line_is_one_line(tmp_path):
    paint(tmp_path / "val", only("cat"), 1)
    model = Painter(COLOURS, ("cat", "dog", "owl"))
    model.card["classes"] = ["cat", "dog\nowl", "owl"]
    [note] = match_classes(model, data.load("folder", tmp_path, config=CONFIG).test).notes
    assert "\n" not in note and r"dog\nowl" in note


def test_numbers_stand_for_the_models_classes_and_that_is_said():
    match = match_classes(Painter(COLOURS, COLOURS), in_memory("wds test", ("0", "1"), [0, 1]))
    assert match.numbers is None and "numbers for classes" in match.notes[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder whose val lacks `cat`, and a run on it; another reader's name for it too."""
    root = tmp_path_factory.mktemp("trained")
    paint(root / "data" / "train", COLOURS, 12)
    paint(root / "data" / "val", only("dog", "owl"))
    return root


@pytest.mark.parametrize("name", ["folder", "torch/image_folder"])
def test_training_on_a_val_that_lacks_a_class_is_right_and_the_card_says_the_names(trained, name):
    folder = trained / name.replace("/", "-")
    sets = data.load(name, trained / "data", config=CONFIG)
    torch.manual_seed(0)
    recipe = Recipe(max_steps=30, batch_size=12, lr=1e-2, eval_every=30, log_every=30, amp="off")
    result = fit(ViT(CONFIG), sets, recipe, folder, progress=False, workers=0, device="cpu")
    assert result.best["accuracy"] == 1.0 and result.test.accuracy == 1.0 and result.test.n == 6
    again = load_pretrained(folder / "best.safetensors")
    assert class_names(again) == (*COLOURS,) and evaluate(again, sets.test, workers=0).accuracy == 1.0
    assert "classes" not in (folder / "log.jsonl").read_text().splitlines()[0]


def test_evaluate_says_which_classes_are_missing(trained, tmp_path, capsys):
    if not (trained / "folder" / "best.safetensors").is_file():
        test_training_on_a_val_that_lacks_a_class_is_right_and_the_card_says_the_names(trained, "folder")
    shutil.copytree(trained / "data" / "val", tmp_path / "val")
    flags = ["--model-path", str(trained / "folder" / "best.safetensors"), "--data", "folder", "--workers", "0"]
    assert main(["evaluate", *flags, "--data-path", str(tmp_path), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "folder test lacks 1 of the model's 3 classes: cat" in out and "folder test: 100.0%" in out
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "hound")
    assert main(["evaluate", *flags, "--data-path", str(tmp_path), "--quiet"]) == 2
    assert "does not have the class hound of folder test; it has cat, dog, owl" in capsys.readouterr().err


def test_a_teacher_of_other_classes_is_refused():
    images, teacher = in_memory("cifar10 train", COLOURS, [0]), torch.nn.Module()
    for names, right in ((("cat", "dog", "owl"), True), (("owl", "cat", "dog"), False)):
        teacher.model = Painter(COLOURS, names)
        teacher.model.plan = None
        if right:
            check_teacher(teacher, images)
        else:
            with pytest.raises(ValueError, match="the teacher's classes are owl, cat, dog"):
                check_teacher(teacher, images)


def test_a_teacher_whose_classes_are_the_same_numbers_in_another_order_is_refused(tmp_path):
    paint(tmp_path / "train", {str(number): "red" for number in range(12)})
    images = data.load("folder", tmp_path, config=CONFIG).train
    for names, refused in ((sorted(map(str, range(12))), False), (list(map(str, range(12))), True)):
        teacher = type("Teacher", (), {})()
        teacher.model = ViT(ViTConfig(16, 8, dim=16, depth=1, heads=2, classes=12))
        teacher.model.card = {"classes": names}
        if refused:
            with pytest.raises(ValueError, match="in the same order"):
                check_teacher(teacher, images)
        else:
            check_teacher(teacher, images)
