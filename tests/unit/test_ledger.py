"""Records of experiments: a wrong one is refused, a right one survives, and aggregation is a t interval."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest

from dtl_lib import ledger
from dtl_lib.config import ViTConfig
from dtl_lib.ledger import Record
from dtl_lib.train.evaluation import wilson
from dtl_lib.train.recipe import Recipe
from dtl_lib.train.registers import RegisterRecipe

RECORD = Record(
    experiment="recipe_shapes",
    what="mixup",
    command="dtl train --mixup 0.2",
    date="2026-01-31T12:00:00+00:00",
    device="2 CPU cores (some processor)",
    library="0.1.0",
    torch="2.6.0",
    seed=1,
    n=2000,
    values={"accuracy": 0.5, "curve": [1, 2.5]},
    recipe={"lr": 0.001, "mixup": 0.2},
    config={"dim": 64, "plan": {"depth": 4}},
)


def changed(**fields):
    return {**{name: value for name, value in RECORD.to_dict().items() if name != "id"}, **fields}


def test_what_is_appended_is_read(tmp_path):
    other = replace(RECORD, seed=2, id="")
    ledger.append(RECORD, tmp_path)
    ledger.append(other.to_dict(), tmp_path)
    assert ledger.read("recipe_shapes", tmp_path) == [RECORD, other]
    assert len((tmp_path / "recipe_shapes.jsonl").read_text().splitlines()) == 2
    assert RECORD.id != other.id
    with pytest.raises(ValueError, match="already"):
        ledger.append(RECORD, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "^n has to be"),
        ({"n": 2.5}, "^n has to be"),
        ({"n": True}, "^n has to be"),
        ({"seed": "one"}, "^seed has to be"),
        ({"date": "yesterday"}, "^date has to be an ISO"),
        ({"device": ""}, "^device has to be"),
        ({"values": {}}, "^values has to be"),
        ({"values": {"accuracy": "high"}}, r"^values\.accuracy has to be"),
        ({"values": {"accuracy": float("nan")}}, r"^values\.accuracy has to be"),
        ({"values": {"curve": [1, None]}}, r"^values\.curve has to be"),
        ({"experiment": "../escape"}, "^experiment has to be a word"),
        ({"recipe": "default"}, "^recipe has to be"),
        ({"colour": 1}, "no field colour"),
        ({"id": "0123456789ab"}, "^id has to be .* changed by hand"),
    ],
)
def test_a_wrong_record_is_refused_and_named(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        ledger.append(changed(**fields), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["what", "command", "date", "device", "library", "torch", "seed", "n", "values"])
def test_a_missing_field_is_named(tmp_path, name):
    fields = changed()
    del fields[name]
    with pytest.raises(ValueError, match=f"lacks {name}"):
        ledger.append(fields, tmp_path)


def test_a_damaged_line_is_named(tmp_path):
    path = ledger.append(RECORD, tmp_path)
    with open(path, "a") as file:
        file.write(json.dumps(changed(n=-1)) + "\n")
    with pytest.raises(ValueError, match="recipe_shapes.jsonl, line 2: n has to be"):
        ledger.read("recipe_shapes", tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="line 1"):
        ledger.read("recipe_shapes", tmp_path)


def test_bytes_that_are_no_text_are_a_line_of_the_file(tmp_path):
    path = ledger.append(RECORD, tmp_path)
    with open(path, "ab") as file:
        file.write(b"\x96\xff\n")
    with pytest.raises(ValueError, match="recipe_shapes.jsonl, line 2: 'utf-8' codec"):
        ledger.read("recipe_shapes", tmp_path)


def test_an_unknown_experiment_is_refused_with_those_there_are(tmp_path):
    ledger.append(RECORD, tmp_path)
    with pytest.raises(ValueError, match="no experiment 'atlas'; it has recipe_shapes"):
        ledger.read("atlas", tmp_path)


def test_a_record_in_another_experiment_s_file_is_refused(tmp_path):
    ledger.append(RECORD, tmp_path).rename(tmp_path / "atlas.jsonl")
    with pytest.raises(ValueError, match="atlas.jsonl, line 1: experiment has to be 'atlas', as the file is called"):
        ledger.read("atlas", tmp_path)


KEPT = sorted(path.stem for path in ledger.FOLDER.glob("*.jsonl"))


@pytest.mark.parametrize("experiment", KEPT)
def test_every_record_that_is_kept_is_right(experiment):
    records = ledger.read(experiment)  # its fields, and that each id is the hash of the rest
    assert records and len({record.id for record in records}) == len(records)
    now = datetime.now(UTC)
    for record in records:
        date = datetime.fromisoformat(record.date)
        assert date.tzinfo is not None and datetime(2025, 1, 1, tzinfo=UTC) < date < now, record.id
        config, recipe = record.config, record.recipe
        if config is not None:
            again = ledger.plain(ViTConfig.from_dict(config).to_dict())
            assert {name: again[name] for name in config} == config, record.id
        if recipe is not None:
            alone = "norms" in recipe  # of registers that are trained alone
            again = ledger.plain(asdict(RegisterRecipe(**recipe)) if alone else Recipe.from_dict(recipe).to_dict())
            assert {name: again[name] for name in recipe} == recipe, record.id
            assert record.seed in (None, recipe["seed"]), record.id
        if {"accuracy", "low", "high"} <= set(record.values):
            ends = wilson(round(record.values["accuracy"] * record.n), record.n)
            assert [record.values["low"], record.values["high"]] == pytest.approx(ends), record.id


def test_no_two_records_have_one_id():
    every = [record.id for experiment in KEPT for record in ledger.read(experiment)]
    assert len(every) == len(set(every)) and not set(every) & set(KEPT)


def test_what_a_record_says_changes_its_id_and_an_edit_is_noticed(tmp_path):
    path = ledger.append(RECORD, tmp_path)
    for old, new in (
        ('"accuracy": 0.5', '"accuracy": 0.6'),
        ('"seed": 1', '"seed": 2'),
        ("lr", "rl"),
        ("some p", "a p"),
    ):
        text = json.dumps(RECORD.to_dict())
        assert text.count(old) == 1
        path.write_text(text.replace(old, new) + "\n")
        with pytest.raises(ValueError, match="line 1: id has to be .* changed by hand"):
            ledger.read("recipe_shapes", tmp_path)


def test_fields_are_found_by_name():
    assert RECORD.get("seed") == 1
    assert RECORD.get("accuracy") == 0.5
    assert RECORD.get("recipe.mixup") == RECORD.get("mixup") == 0.2
    assert RECORD.get("config.plan.depth") == 4
    with pytest.raises(ValueError, match="has no loss"):
        RECORD.get("loss")


def test_aggregation_by_hand():
    runs = [
        replace(RECORD, id="", seed=seed, what=what, values={"accuracy": accuracy})
        for what, accuracies in (("plain", (0.1, 0.2, 0.3)), ("mixup", (0.5,)))
        for seed, accuracy in enumerate(accuracies)
    ]
    plain, mixup = ledger.aggregate(runs, by="what", value="accuracy")
    assert (plain.by, plain.n, mixup.by, mixup.n) == ({"what": "plain"}, 3, {"what": "mixup"}, 1)
    assert plain.mean == pytest.approx(0.2) and plain.deviation == pytest.approx(0.1)
    assert plain.half == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)  # Student's t, two degrees of freedom
    assert mixup.mean == 0.5 and mixup.half is None and "±" not in str(mixup)
    assert str(plain) == "0.2 ± 0.248 (95 %), n = 3"
    two = ledger.aggregate(runs, by=("what", "seed"), value="accuracy")
    assert len(two) == 4 and two[1].by == {"what": "plain", "seed": 1}
    with pytest.raises(ValueError, match="is not a number"):
        ledger.aggregate([RECORD], by="what", value="curve")


def test_add_fills_in_where_and_when(tmp_path):
    record = ledger.add("speed", "a forward", "dtl bench", "cpu", {"ratio": 1.05}, n=20, seed=None, folder=tmp_path)
    assert ledger.read("speed", tmp_path) == [record]
    assert ledger.path("speed", tmp_path) == tmp_path / "speed.jsonl"
    assert "CPU core" in record.device and record.torch and record.library and record.command == "dtl bench"


@pytest.fixture
def runs(tmp_path):
    """Three runs of one kind and one of another."""
    for what, seed, accuracy in (("plain", 0, 0.1), ("plain", 1, 0.2), ("plain", 2, 0.3), ("mixup", 0, 0.5)):
        record = replace(RECORD, id="", what=what, seed=seed, values={"accuracy": accuracy, "curve": [1.0]})
        ledger.append(record, tmp_path)
    return tmp_path


def test_records_are_found_by_what_they_hold(runs):
    assert [record.seed for record in ledger.find("recipe_shapes", runs, what="plain")] == [0, 1, 2]
    assert [record.what for record in ledger.find("recipe_shapes", runs, seed=0)] == ["plain", "mixup"]
    assert len(ledger.find("recipe_shapes", runs, **{"recipe.lr": 0.001, "config.plan.depth": 4})) == 4
    for where, message in (
        ({"what": "cutmix"}, 'recipe_shapes has no record with what=\'cutmix\'; it has "plain", "mixup"$'),
        ({"what": "mixup", "seed": 2}, "no record with seed=2; it has 0$"),
        ({"recipe.colour": 1}, "has no recipe.colour"),
    ):
        with pytest.raises(ValueError, match=message):
            ledger.find("recipe_shapes", runs, **where)


def test_a_value_is_read_with_its_interval(runs):
    plain = ledger.value("recipe_shapes", "plain", "accuracy", runs)
    assert str(plain) == "0.2 ± 0.248 (95 %), n = 3"
    assert ledger.value("recipe_shapes", "plain", "accuracy", runs, seed=1).mean == 0.2
    for arguments, message in (
        (("recipe", "plain", "accuracy"), "the ledger has no experiment 'recipe'; it has recipe_shapes"),
        (("recipe_shapes", "plane", "accuracy"), "no record with what='plane'; it has \"plain\""),
        (("recipe_shapes", "plain", "loss"), "has no loss; its values are accuracy, curve"),
        (("recipe_shapes", "plain", "curve"), "curve of record .* is not a number"),
    ):
        with pytest.raises(ValueError, match=message):
            ledger.value(*arguments, runs)


def test_an_error_lists_a_dozen_values_and_counts_the_rest(tmp_path):
    for seed in range(20):
        ledger.append(replace(RECORD, id="", seed=seed), tmp_path)
    with pytest.raises(ValueError, match="no record with seed=99; it has 0, 1, .*, 11 and 8 more$"):
        ledger.find("recipe_shapes", tmp_path, seed=99)


def test_what_a_gpu_says_stands_apart(tmp_path):
    ledger.append(changed(experiment="step"), tmp_path)
    ledger.append(changed(experiment="step", device="NVIDIA H100 80GB HBM3", what="plain", seed=None), tmp_path)
    assert [run.what for run in ledger.read("step", tmp_path, on="gpu")] == ["plain"]
    assert [run.what for run in ledger.read("step", tmp_path, on="cpu")] == ["mixup"]


def test_a_value_whose_name_has_a_dot_is_found():
    record = next(iter(ledger.read("training_plateau")))
    dotted = ledger.Record.from_dict({**record.to_dict(), "values": {"top.5": 0.5, "top": 1.0}, "id": ""})
    assert (dotted.get("top.5"), dotted.get("top"), dotted.get("recipe.lr")) == (0.5, 1.0, record.recipe["lr"])
