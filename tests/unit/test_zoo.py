"""The zoo: its models are what their cards say, damage is refused, and a model is added with a whole card."""

import functools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from book.experiments import zoo as filling
from dtl_lib import data, ledger, zoo
from dtl_lib.__main__ import main
from dtl_lib.checkpoint import load_model, read, save_model
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.pretrained import load_pretrained
from dtl_lib.tokens import Group, TokenPlan
from dtl_lib.train import Recipe, fit
from dtl_lib.train.evaluation import wilson

CIFAR = Path(os.environ.get("DTL_DATA", "nowhere")) / "cifar-10-batches-py"
CLOSE_CALLS = 2  # images: another CPU rounds otherwise, and may tip those whose two largest logits are almost equal
CONFIG = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=10, plan=TokenPlan.of(2, 1, 0, 2))
IMAGES = {"name": "shapes", "level": 1, "path": None}
SAID = "dtl train --output-dir runs/small --max-steps 3"
FEW = {"train": 1000, "held_out": 200, "test": 1000}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short training run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    torch.manual_seed(0)
    recipe = Recipe(max_steps=3, batch_size=16, eval_every=3, log_every=1)
    card = {"command": f"dtl train --output-dir {folder} --max-steps 3", "run": {"data": IMAGES, "launch": "none"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dtl_lib.data.shapes.generator.LENGTHS", FEW)
        fit(ViT(CONFIG), data.load("shapes", image_size=16), recipe, folder, card=card, progress=False, device="cpu")
    return folder


@pytest.fixture(scope="module")
def filled(run, tmp_path_factory):
    """A zoo that holds the run's model as `small`, and another of the same shapes as `other`."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "FOLDER", folder)
        patch.setattr("dtl_lib.data.shapes.generator.LENGTHS", FEW)
        filling.add(run, "small")
    tensors, card = read(folder / "small.safetensors")
    card = {name: value for name, value in card.items() if name not in ("digest", "seal")}
    torch.manual_seed(1)
    model = ViT(CONFIG)
    model.load_state_dict(tensors)
    torch.nn.init.normal_(model.norm.weight)
    save_model(folder / "other.safetensors", model.half(), {**card, "zoo": "other"})
    return folder


@pytest.fixture
def mine(filled, tmp_path, monkeypatch):
    """A copy of that zoo, to do damage in."""
    shutil.copytree(filled, tmp_path / "zoo")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    monkeypatch.setattr("dtl_lib.data.shapes.generator.LENGTHS", FEW)
    return tmp_path / "zoo"


@pytest.mark.parametrize("name", zoo.names())
def test_a_model_is_what_its_card_says(name):
    card, model = zoo.read_card(name), load_pretrained(name)
    assert not model.training and {value.dtype for value in model.parameters()} == {torch.float32}
    assert model.config == ViTConfig.from_dict(card["config"]) and model.card == card
    assert zoo.describe(model.plan) == card["plan"] and Recipe.from_dict(card["recipe"]).seed == card["seed"]
    assert {value.dtype for value in load_file(zoo.path(name)).values()} == {torch.float16}
    test = card["test"]
    assert [test["low"], test["high"]] == pytest.approx(wilson(round(test["accuracy"] * test["n"]), test["n"]))
    assert test["n"] == 10_000 and card["before_rounding"]["logits"] <= zoo.ROUNDING
    assert card["before_rounding"]["accuracy"] == pytest.approx(test["accuracy"], abs=0.002)


@pytest.mark.parametrize("name", zoo.names())
def test_the_right_answers_of_a_sample_are_counted_again(name):
    card, model = zoo.read_card(name), load_pretrained(name)
    if card["run"]["data"]["name"] == "cifar10" and not CIFAR.is_dir():
        pytest.skip("CIFAR-10 is not here: set DTL_DATA to the folder that holds it")
    sets = data.load(**card["run"]["data"], image_size=model.config.image_size, config=model.config)
    for part, about in ((sets.train, card["data"]), (sets.test, card["test_data"])):
        assert about["name"] == part.name and part.has_fingerprint(about["fingerprint"])
    assert card["sample"]["n"] == zoo.SAMPLE
    logits, classes = filling.logits(model, sets.test, zoo.SAMPLE)
    right = int((logits.argmax(dim=1) == classes).sum())
    assert abs(right - card["sample"]["right"]) <= CLOSE_CALLS
    low, high = wilson(right, zoo.SAMPLE)
    assert low - 0.03 < card["test"]["accuracy"] < high + 0.03  # the sample is a part of all test images


def test_the_zoo_is_small_and_nothing_else_lies_in_it():
    files = [file for file in zoo.FOLDER.iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= zoo.LIMIT == 25_000_000
    models = {name.removeprefix(zoo.PREFIX) for name in zoo.names()}
    assert {file.name for file in files} == {f"{name}{end}" for name in models for end in (".json", ".safetensors")}


def test_adding_rounds_measures_and_tells(run, filled, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", filled)
    before, card, model = load_model(run / "best.safetensors"), zoo.read_card("small"), load_pretrained("zoo/small")
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.half().float())
    test = data.load("shapes", image_size=16).test
    a, b = (filling.logits(which, test, 100)[0] for which in (before, model))
    assert 0 < (a - b).abs().max() <= card["before_rounding"]["logits"] <= zoo.ROUNDING
    assert card["before_rounding"]["accuracy"] == before.card["test"]["accuracy"]
    assert card["plan"] == "class token at 1, 2 registers at 0" and card["command"] == SAID
    seconds = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["seconds"]
    assert card["minutes"] == seconds / 60 and card["seed"] == 0
    assert card["date"] == before.card["date"] and card["data"] == before.card["data"]


@pytest.mark.parametrize("field", zoo.CARD)
def test_a_card_that_lacks_something_is_refused(filled, field):
    card = json.loads((filled / "small.json").read_text())
    zoo.check(card, "small")
    *above, last = field.split(".")
    del functools.reduce(dict.get, above, card)[last]
    with pytest.raises(ValueError, match=f"card of zoo/small does not say its {field}"):
        zoo.check(card, "small")


def test_a_card_of_another_plan_is_refused(filled):
    card = json.loads((filled / "small.json").read_text())
    with pytest.raises(ValueError, match="says 'class token at 0, no registers', and its configuration 'class token"):
        zoo.check(card | {"plan": "class token at 0, no registers"}, "small")


def flip(folder):
    content = bytearray((folder / "small.safetensors").read_bytes())
    content[-100] ^= 4
    (folder / "small.safetensors").write_bytes(content)


def cut(folder):
    file = folder / "small.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def flatter(folder):
    tensors, card = read(folder / "small.safetensors")
    card["test"]["accuracy"] = 0.99
    save_file(tensors, folder / "small.safetensors", metadata={"card": json.dumps(card)})


def flatter_beside(folder):
    card = json.loads((folder / "small.json").read_text())
    (folder / "small.json").write_text(json.dumps(card | {"test": card["test"] | {"accuracy": 0.99}}))


def swap_weights(folder):
    (tensors, _), (_, card) = read(folder / "other.safetensors"), read(folder / "small.safetensors")
    save_file(tensors, folder / "small.safetensors", metadata={"card": json.dumps(card)})


def swap(folder, *ends):
    for end in ends:
        shutil.copyfile(folder / f"other.{end}", folder / f"small.{end}")


DAMAGE = {
    flip: "its tensors are not those that were saved",
    cut: "cut short",
    flatter: "its card is not the one that was saved",
    flatter_beside: "the card is not the one that was saved",
    swap_weights: "its tensors are not those that were saved",
    lambda folder: swap(folder, "safetensors"): "do not belong together",
    lambda folder: swap(folder, "safetensors", "json"): "zoo/small holds the model zoo/other",
    lambda folder: (folder / "small.json").unlink(): "a model of the zoo has its card beside it",
    lambda folder: (folder / "small.json").write_text("{"): "the card is not the one that was saved",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_in_one_line(mine, damage, capsys):
    load_pretrained("zoo/small")
    damage(mine)
    with pytest.raises(ValueError, match=DAMAGE[damage]):
        load_pretrained("zoo/small")
    assert main(["evaluate", "--model", "zoo/small", "--data", "shapes"]) == 2
    error = capsys.readouterr().err
    assert DAMAGE[damage] in error and error.startswith("dtl: ") and error.count("\n") == 1


def test_an_unknown_name_gets_the_near_ones(mine, capsys):
    for command in (["zoo", "smal"], ["evaluate", "--model", "zoo/smal", "--data", "shapes"]):
        assert main(command) == 2
        assert capsys.readouterr().err.endswith("did you mean zoo/small?\n")
    with pytest.raises(ValueError, match="the zoo has no 'zoo/xyz'; it has zoo/other, zoo/small"):
        load_pretrained("zoo/xyz")


def test_the_zoo_is_listed_and_a_card_shown(mine, capsys, monkeypatch):
    assert main(["zoo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    card = zoo.read_card("small")
    assert [line.split()[0] for line in lines[:3]] == ["name", "zoo/other", "zoo/small"]
    for part in ("class token at 1, 2 registers at 0", "shapes level 1 test", "(n = 1,000)"):
        assert part in lines[2]
    assert f"{card['test']['accuracy']:.1%} ± " in lines[2] and 'load_pretrained("zoo/other")' in lines[-1]
    for name in ("small", "zoo/small"):
        assert main(["zoo", name]) == 0
        shown = capsys.readouterr().out
        expected = (SAID, card["digest"], card["data"]["fingerprint"], str(CONFIG.plan), "seed 0")
        assert all(part in shown for part in expected)
    monkeypatch.setattr(zoo, "FOLDER", mine / "nothing")
    assert main(["zoo"]) == 0
    assert "zoo is empty" in capsys.readouterr().out


def test_a_model_of_the_zoo_is_evaluated_and_trained_on(mine, tmp_path, capsys):
    assert main(["evaluate", "--model", "zoo/small", "--quiet"]) == 0
    assert f"shapes level 1 test: {zoo.read_card('small')['test']['accuracy']:.1%}" in capsys.readouterr().out
    short = ["--samples", "32", "--max-steps", "1", "--batch-size", "8", "--quiet"]
    for flag in ("--finetune", "--distill-from"):
        more = ["--image-size", "16", "--distill", "soft"] if flag == "--distill-from" else []
        assert main(["train", flag, "zoo/small", *more, *short, "--output-dir", str(tmp_path / flag)]) == 0


def record_of(run, **changes):
    """A record as an experiment writes it, of the run's configuration and recipe."""
    card = read(run / "best.safetensors")[1]
    values = {"accuracy": card["test"]["accuracy"], "seconds": 90.0}
    fields = {
        "experiment": "grid", "what": "class token at 1", "command": "dtl atlas run", "date": "2026-01-31",
        "device": "2 CPU cores", "library": "0.1.0", "torch": "2.6.0", "seed": 0, "n": 1000, "values": values,
        "config": card["config"], "recipe": card["recipe"],
    }  # fmt: skip
    return ledger.Record(**(fields | changes))


@pytest.fixture
def bare(run, tmp_path):
    """The run's weights in a file that says no more than an experiment's does."""
    model = load_model(run / "best.safetensors")
    return save_model(tmp_path / "weights.safetensors", model, {"recipe": model.card["recipe"]})


def test_a_file_is_added_with_its_record(run, bare, mine, tmp_path, capsys):
    record = record_of(run)
    ledger.append(record, tmp_path)
    about = ["--record", f"grid:{record.id}", "--records", str(tmp_path)]
    assert filling.main(["add", str(bare), "grid_1", *about]) == 2
    assert "does not say what it was trained on: give --data" in capsys.readouterr().err
    assert filling.main(["add", str(bare), "grid_1", *about, "--data", "shapes"]) == 0
    card = load_pretrained("zoo/grid_1").card
    assert card["record"] == f"grid:{record.id}" and card["minutes"] == 1.5 and card["command"] == "dtl atlas run"
    assert card["date"] == record.date and card["run"]["data"] == IMAGES
    assert filling.main(["add", str(bare), "grid_1", *about, "--data", "shapes"]) == 2
    assert "the zoo has zoo/grid_1: --replace puts this one in its place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": CONFIG.with_plan(TokenPlan.of(2, 0, 0, 2)).to_dict()}, "has another config than the weights"),
        ({"recipe": Recipe(max_steps=4).to_dict()}, "has another recipe than the weights"),
        ({"values": {"accuracy": 0.9, "seconds": 1.0}}, "states an accuracy of 0.9, and its rounded weights reach"),
        ({"values": {"accuracy": 0.9}}, "does not say how many seconds"),
    ],
)
def test_a_record_of_another_run_is_refused(run, bare, mine, changes, message):
    with pytest.raises(ValueError, match=message):
        filling.add(bare, "grid_1", record_of(run, **changes), IMAGES)
    assert not (mine / "grid_1.safetensors").exists()


def test_what_the_zoo_cannot_hold_is_refused(run, mine, monkeypatch):
    with pytest.raises(ValueError, match="letters, digits and _"):
        filling.add(run, "../x")
    monkeypatch.setattr(zoo, "ROUNDING", 1e-9)
    with pytest.raises(ValueError, match="float16 moves a logit by"):
        filling.add(run, "again")
    monkeypatch.setattr(zoo, "ROUNDING", 0.05)
    monkeypatch.setattr(zoo, "LIMIT", 1000)
    with pytest.raises(ValueError, match="and may hold 0"):
        filling.add(run, "again")
    assert not (mine / "again.safetensors").exists()


@pytest.mark.parametrize(
    ("plan", "description"),
    [
        (TokenPlan.of(6), "class token at 0, no registers"),
        (TokenPlan.of(6, 3, 0, 4), "class token at 3, 4 registers at 0"),
        (TokenPlan.of(6, None, 2, 1), "no class token: the mean of the patches is read, 1 register at 2"),
        (TokenPlan.of(6, 6, class_blocks=2), "class token at 6, no registers, 2 class-attention blocks"),
        (TokenPlan.of(6, 1, dist=True), "class token at 1, distillation token at 1, no registers"),
        (TokenPlan(6, (Group("cls", 1, 0), Group("late", 2, 3, 5))), "class token at 0, 2 registers at 3 until 5"),
    ],
)
def test_a_plan_in_words(plan, description):
    assert zoo.describe(plan) == description
