"""The experiment on registers trained into a finished model, on one in which a known neuron writes the long patches."""

import pytest
import torch

from book.experiments import add_registers as experiment
from dtl_lib import ledger
from dtl_lib.registers import NAME
from dtl_lib.train.registers import RegisterRecipe
from tests.unit.test_registers import images, planted

RECIPE = RegisterRecipe(steps=3, batch_size=2)


def test_every_row_once_and_what_it_says(tmp_path, monkeypatch):
    short = {"registers": experiment.Condition(0), "norms": experiment.Condition(norms=True),
             "middle": experiment.Condition(1, 3, norms=True)}  # fmt: skip
    monkeypatch.setattr(experiment, "CONDITIONS", short)
    model, (made, _) = planted(), images(12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        labels = model(made).argmax(dim=1)
    batches, folder = [(made[:7], labels[:7]), (made[7:], labels[7:])], str(tmp_path / "records")
    rows = list(experiment.measure(model, made, batches, folder, RECIPE, seeds=2))
    assert not list(experiment.measure(model, made, batches, folder, RECIPE, seeds=2)), "each once"
    assert ledger.read("add_registers", folder) == rows and len(rows) == 2 + 2 * len(short)
    of = {(row.what, row.seed): row for row in rows}
    plain = of["untouched", 0]
    assert (plain.n, plain.get("long"), plain.get("agreement"), plain.get("change")) == (3, 1, 1, 0)
    assert "int8 own" not in plain.values and "int8 own" in of["registers", 1].values
    assert of["1 neuron moved", 0].get("longest") < 0.2 * plain.get("longest")
    for what in short:
        first, second = (of[what, seed] for seed in (0, 1))
        assert len(first.get("losses")) == 3 and first.get("losses") != second.get("losses")
        assert first.get("recipe.norms") == short[what].norms and second.get("recipe.seed") == 1
    groups = {group["name"]: group for group in of["middle", 0].config["plan"]["groups"]}
    assert (groups[NAME]["enter"], groups[NAME]["leave"], groups[NAME]["tokens"]) == (1, 3, experiment.COUNT)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("long", "said"), [((0.5, 1.0), "reproduced"), ((1.5, 1.0), "null at this scale")])
def test_the_claim_is_judged_by_the_first_prediction(tmp_path, long, said):
    for what, seed, value in (
        ("untouched", 0, 4.0),
        *((next(iter(experiment.CONDITIONS)), n, x) for n, x in enumerate(long)),
    ):
        ledger.add("add_registers", what, "none", "cpu", {"long": value}, n=9, seed=seed, folder=str(tmp_path))
    row = experiment.claim(str(tmp_path))
    assert row.what.endswith(said) and row.get("seeds") == 2 and row.get("long") == sum(long) / 2
    other, third = 9.0 if said == "reproduced" else -9.0, next(iter(experiment.CONDITIONS))
    ledger.add("add_registers", third, "none", "cpu", {"long": other}, n=9, seed=2, folder=str(tmp_path))
    assert experiment.claim(str(tmp_path)) is None, "once, also where a later seed would turn it round"


def test_a_teacher_is_asked_once_about_each_image_and_says_the_same():
    asked = []

    def teach(x):
        asked.extend(range(len(x)))
        return {"patches": x.flatten(1)[:, None] * 2}

    made, _ = images(4)
    remembered = experiment.Remembered(teach)
    for order in ([0, 1, 2], [3, 1, 0], [2]):
        assert torch.equal(remembered(made[order])["patches"], made[order].flatten(1)[:, None] * 2)
    assert len(asked) == 4


@pytest.mark.parametrize("what", experiment.CONDITIONS)
def test_a_condition_trains_what_it_says(what):
    model, (made, _) = planted(), images(4)
    condition = experiment.CONDITIONS[what]
    if condition.at == 4:
        condition = experiment.Condition(2, 3)  # this model is shorter
    teach = experiment.clean_states(model, experiment.find(model, made))
    after, losses = experiment.trained(model, condition, teach, made, RECIPE)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, after.state_dict()[name])}
    assert bool(moved) == condition.norms and all(".norm" in name for name in moved)
    assert (NAME in after.tokens) == (condition.at is not None) and len(losses) == 3
