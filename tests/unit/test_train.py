"""The recipe, the schedule and the loop."""

import dataclasses
import json
from dataclasses import replace

import pytest
import torch

from dtl_lib import checkpoint, data
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe, fit, recipes
from dtl_lib.train.optim import EMA, learning_rate, make_optimizer

TINY = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=10)
SHORT = Recipe(max_steps=6, batch_size=16, log_every=2, eval_every=3)


def tiny(config=TINY, seed=0):
    torch.manual_seed(seed)
    return ViT(config)


@pytest.fixture(scope="module")
def sets():
    whole = data.load("shapes", image_size=16, samples=96)
    for part in (whole.held_out, whole.test):
        part.length = 40
    return whole


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_a_recipe_survives_json():
    recipe = Recipe(epochs=3, betas=(0.8, 0.95), ema=0.99, clip=None)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    with pytest.raises(ValueError, match="no learning_rate; its fields are"):
        Recipe.from_dict({"learning_rate": 1})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size is 1 or more"),
        ({"batch_size": 2.5}, "whole number"),
        ({"lr": 0}, "above 0"),
        ({"lr": float("nan")}, "lr is"),
        ({"lr": "fast"}, "a number"),
        ({"smoothing": 1.5}, "from 0 to 1"),
        ({"betas": (0.9,)}, "betas is two numbers"),
        ({"ema": 1.0}, "0.999, or none"),
        ({"amp": "half"}, "one of auto, off"),
        ({"batch_size": 10, "accumulate": 3}, "does not divide"),
        ({"warmup_steps": 3, "warmup_epochs": 1}, "give one"),
        ({"min_lr": 1.0}, "above lr"),
        ({"max_steps": True}, "whole number"),
    ],
)
def test_a_wrong_recipe_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**wrong)


def test_steps_come_from_epochs_or_steps_whichever_is_less():
    assert Recipe(epochs=2, batch_size=10).steps(105) == 20
    assert Recipe(epochs=2, max_steps=7, batch_size=10).steps(105) == 7
    assert Recipe(batch_size=10).steps(105) == 10
    with pytest.raises(ValueError, match="more than the 105 training images"):
        Recipe(batch_size=106).steps(105)


def test_no_field_no_augmentation():
    assert Recipe().augment() is None
    augment = Recipe(crop=2, erase=0.5).augment()
    assert (augment.crop, augment.flip, augment.erase) == (2, False, 0.5)
    assert all(recipe.steps(50_000) for recipe in recipes().values())


def test_the_learning_rate_rises_then_falls():
    recipe = Recipe(lr=1.0, min_lr=0.1)
    rates = [learning_rate(recipe, step, total=110, warmup=10) for step in range(111)]
    assert 0 < rates[0] < rates[9] < rates[10] == 1.0
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert all(a > b for a, b in zip(rates[10:], rates[11:]))


def test_only_matrices_are_decayed():
    model = tiny(dataclasses.replace(TINY, plan=TokenPlan.of(2, reg_pos=1, num_reg=2), layer_scale=0.1))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = make_optimizer(model, Recipe(lr=0.1, weight_decay=0.5))
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.endswith("weight") and "norm" not in name}


def test_the_average_follows_and_lags():
    model = tiny()
    ema = EMA(model, 0.9)
    start = torch.cat([value.flatten() for value in ema.values.values()])
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1.0)

    def moved():
        return (torch.cat([value.flatten() for value in ema.values.values()]) - start).sum()

    ema.update(step=10_000)
    assert moved() == pytest.approx(0.1 * len(start), rel=1e-3)
    ema.update(step=0)
    assert moved() == pytest.approx((1 - 0.9 * 0.1) * len(start), rel=1e-3)


def test_training_learns_and_measures(sets):
    model = tiny()
    recipe = Recipe(max_steps=120, batch_size=32, lr=3e-3, warmup_steps=10, eval_every=60, log_every=20)
    result = fit(model, data.load("shapes", image_size=16), recipe, progress=False)
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < losses[0] - 0.2
    assert [row["step"] for row in result.history] == [20, 40, 60, 80, 100, 120]
    evaluated = [row for row in result.history if "accuracy" in row]
    assert result.best == max(evaluated, key=lambda row: row["accuracy"])
    assert result.test.n == 10_000
    assert result.test.accuracy > 0.15
    assert not model.training
    assert set(evaluated[0]["norms"]) == {"cls", "patches", "patches_98"}
    assert "test" in str(result) and "images/s" in str(result)


def test_seed_and_weights_decide_everything(sets):
    recipe = dataclasses.replace(SHORT, crop=1, flip=True, erase=0.3, mixup=0.4, cutmix=0.5)
    config = dataclasses.replace(TINY, drop_path=0.3)
    first, again, other, busy = (tiny(config) for _ in range(4))
    fit(first, sets, recipe, progress=False)
    torch.manual_seed(123)  # the surroundings' random numbers do not matter
    fit(again, sets, recipe, progress=False, on_step=lambda *_: torch.rand(7))
    fit(other, sets, dataclasses.replace(recipe, seed=1), progress=False)
    before = torch.get_rng_state()
    fit(busy, sets, recipe, progress=False)
    assert torch.equal(torch.get_rng_state(), before)  # nor are they touched
    assert torch.equal(weights(first), weights(again))
    assert torch.equal(weights(first), weights(busy))
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize(
    "change",
    [{"smoothing": 0.2}, {"mixup": 0.5}, {"cutmix": 0.5}, {"flip": True}, {"crop": 2}, {"erase": 0.9}, {"clip": 1e-3},
     {"weight_decay": 0.9}, {"betas": (0.5, 0.9)}, {"warmup_steps": 3}, {"min_lr": 9e-4}, {"randaugment": 9}],
)  # fmt: skip
def test_each_ingredient_changes_the_weights(sets, change):
    plain, changed = tiny(), tiny()
    fit(plain, sets, SHORT, progress=False)
    fit(changed, sets, dataclasses.replace(SHORT, **change), progress=False)
    assert not torch.equal(weights(plain), weights(changed))


def test_who_looks_on_may_leave_the_model_in_eval_mode(sets):
    config = dataclasses.replace(TINY, drop_path=0.5)
    plain, watched = tiny(config), tiny(config)
    seen = []
    fit(plain, sets, SHORT, progress=False)
    fit(watched, sets, SHORT, progress=False, on_step=lambda step, loss, model: seen.append((step, model.eval())))
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert torch.equal(weights(plain), weights(watched))


def test_accumulation_computes_the_same_step(sets):
    whole, parts = tiny(), tiny()
    fit(whole, sets, SHORT, progress=False)
    fit(parts, sets, dataclasses.replace(SHORT, accumulate=4), progress=False)
    torch.testing.assert_close(weights(whole), weights(parts), rtol=0, atol=2e-5)


def test_batches_made_together_are_the_batches_made_alone(sets):
    from dtl_lib.data import loader as batches

    recipe = Recipe(max_steps=14, batch_size=16, crop=2, flip=True, seed=3)
    together = list(batches.training_batches(sets.train, recipe, 0, 14))
    late = list(batches.training_batches(sets.train, recipe, 5, 14))
    assert len(together) == 14
    for (x, y), (late_x, late_y) in zip(together[5:], late, strict=True):
        assert torch.equal(x, late_x) and torch.equal(y, late_y)
    order = torch.cat([part for epoch, part in batches.indices(96, 16, 3, 0, 12) if epoch == 1])
    assert sorted(order.tolist()) == list(range(96)) and order.tolist() != list(range(96))


@pytest.mark.parametrize("piece", [3, 64])
def test_pictures_from_files_are_the_same_from_any_number_of_workers(tmp_path, monkeypatch, piece):
    from PIL import Image

    from dtl_lib.data import loader as batches

    monkeypatch.setattr(batches, "PIECE", piece)
    for number in range(48):
        folder = tmp_path / "train" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number % 5, 24), (5 * number, 250 - 5 * number, number)).save(folder / f"{number}.png")
    images = data.load("folder", tmp_path, image_size=16).train
    recipe = Recipe(max_steps=5, batch_size=8, crop=1, flip=True)
    alone, helped = (list(batches.training_batches(images, recipe, 1, 5, workers)) for workers in (0, 2))
    assert len(alone) == len(helped) == 4
    for (x, y), (other_x, other_y) in zip(alone, helped):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)
    assert sum(len(y) for _, y in batches.evaluation_batches(images, 7, workers=1)) == len(images)


def test_best_is_picked_on_held_out_images_alone(sets, monkeypatch):
    from dtl_lib.train import run
    from dtl_lib.train.evaluation import evaluate

    asked, scores = [], iter([0.2, 0.9, 0.4, 0.1])

    def spy(model, images, **kwargs):
        asked.append((images.name, weights(model).clone()))
        return dataclasses.replace(evaluate(model, images, **kwargs), accuracy=next(scores))

    monkeypatch.setattr(run, "evaluate", spy)
    model = tiny()
    result = fit(model, sets, dataclasses.replace(SHORT, eval_every=2), progress=False)
    names = [name for name, _ in asked]
    assert names == [sets.held_out.name] * 3 + [sets.test.name]
    assert result.best["step"] == 4
    assert torch.equal(weights(model), asked[1][1])  # the model is left with the best weights
    assert torch.equal(asked[3][1], asked[1][1])  # and those are what the test sees


def test_the_average_is_what_is_evaluated_and_kept(sets, tmp_path):
    model = tiny()
    last = {}
    recipe = dataclasses.replace(SHORT, ema=0.9)
    fit(model, sets, recipe, tmp_path, progress=False, on_step=lambda n, loss, m: last.update(w=weights(m).clone()))
    kept = checkpoint.load_model(tmp_path / "best.safetensors")
    assert torch.equal(weights(kept), weights(model))
    assert not torch.equal(weights(kept), last["w"])


def test_the_model_takes_over_the_data_s_normalisation(sets):
    model = tiny()
    fit(model, sets, SHORT, progress=False)
    assert (model.config.mean, model.config.std) == (sets.train.mean, sets.train.std)


def test_autocast_trains(sets):
    model = tiny()
    result = fit(model, sets, dataclasses.replace(SHORT, amp="bf16"), progress=False)
    plain = tiny()
    exact = fit(plain, sets, SHORT, progress=False)
    assert result.history[0]["loss"] != exact.history[0]["loss"]
    assert result.history[0]["loss"] == pytest.approx(exact.history[0]["loss"], rel=0.05)


def test_log_rows_carry_what_they_are(sets, tmp_path):
    fit(tiny(), sets, SHORT, tmp_path, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 3, 4, 6]
    for row in rows:
        assert TokenPlan.from_json(row["plan"]) == TINY.plan
        assert Recipe.from_dict(row["recipe"]) == SHORT
        assert {"seed", "library", "torch", "device", "data", "seconds", "images_per_s", "loss", "lr"} <= set(row)
    assert [("norms" in row) for row in rows] == [False, True, False, True]


def test_tensorboard_when_asked(sets, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    fit(tiny(), sets, SHORT, tmp_path / "without", progress=False)
    fit(tiny(), sets, SHORT, tmp_path / "with", progress=False, tensorboard=True)
    assert not list((tmp_path / "without").glob("events*")) and list((tmp_path / "with").glob("events*"))


def test_what_does_not_fit_is_refused(sets, tmp_path):
    with pytest.raises(ValueError, match="classes=10"):
        fit(tiny(dataclasses.replace(TINY, classes=3)), sets, SHORT, progress=False)
    with pytest.raises(ValueError, match="more than the 96"):
        fit(tiny(), sets, Recipe(batch_size=500), progress=False)
    with pytest.raises(ValueError, match="no device 'abacus'"):
        fit(tiny(), sets, SHORT, progress=False, device="abacus")
    with pytest.raises(ValueError, match="give an output_dir"):
        fit(tiny(), sets, SHORT, progress=False, tensorboard=True)
    with pytest.raises(ValueError, match="needs the output_dir"):
        fit(tiny(), sets, SHORT, progress=False, resume=True)
    model = tiny()
    torch.nn.init.constant_(model.norm.weight, float("nan"))
    with pytest.raises(ValueError, match="norm.weight of the model holds non-finite values"):
        fit(model, sets, SHORT, progress=False)


def test_the_seconds_to_an_accuracy_are_those_of_the_first_row_that_has_it(sets):
    found = fit(tiny(), sets, SHORT, progress=False)
    rows = [{"seconds": 1.0}, {"seconds": 2.0, "accuracy": 0.5}, {"seconds": 3.0, "accuracy": 0.9}]
    found = replace(found, history=[*rows, {"seconds": 4.0, "accuracy": 0.6}])
    assert [found.seconds_to(share) for share in (0.5, 0.6, 0.9, 0.91)] == [2.0, 3.0, 3.0, None]
