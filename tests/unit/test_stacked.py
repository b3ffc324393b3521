"""Runs that are trained as one give what each gives by itself."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from book.experiments import atlas_followup, stacked, study
from book.experiments.gpu.sizes import noise
from dtl_lib.config import ViTConfig
from dtl_lib.lab.atlas import followup
from dtl_lib.lab.atlas.grid import Cell
from dtl_lib.lab.atlas.train_cell import train_cell
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe, fit

CONFIG = ViTConfig(16, 8, dim=24, depth=3, heads=3, classes=5, plan=TokenPlan.of(3, 1, 0, 2), layer_scale=0.1)
RECIPE = Recipe(
    max_steps=9, batch_size=16, lr=3e-3, warmup_steps=2, flip=True, crop=4, smoothing=0.1, eval_every=4, log_every=2,
    clip=0.5,
)  # fmt: skip
SEEDS = (0, 1, 2)


def made(seed: int, config: ViTConfig = CONFIG) -> ViT:
    torch.manual_seed(seed)
    return ViT(config)


@pytest.mark.parametrize("changes", [{}, {"clip": None}, {"freeze": "blocks.*", "layer_decay": 0.7, "clip": 0.1}])
def test_it_is_fit_of_each(changes):
    recipes = [replace(RECIPE, seed=seed, **changes) for seed in SEEDS]
    together, losses = [made(seed) for seed in SEEDS], []
    results = stacked.fit_all(together, noise(), recipes, "cpu", lambda step, loss: losses.append((step, loss)))
    for at, (model, result, recipe) in enumerate(zip(together, results, recipes)):
        alone, mine = made(recipe.seed), []
        keep = partial(lambda mine, step, loss, model: mine.append(loss.detach()), mine)
        expected = fit(alone, noise(), recipe, device="cpu", progress=False, on_step=keep)
        assert (result.test.accuracy, result.best["step"]) == (expected.test.accuracy, expected.best["step"])
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
        assert [row["step"] for row in result.history] == [row["step"] for row in expected.history]
        for row, other in zip(result.history, expected.history):
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-5) and row["lr"] == other["lr"]
        torch.testing.assert_close(torch.stack([loss[at] for _, loss in losses]), torch.stack(mine))
    assert [step for step, _ in losses] == list(range(1, 10))
    assert results[0].history[-1]["loss"] != results[1].history[-1]["loss"], "seeds differ"


@pytest.mark.parametrize(
    "config, changes, why",
    [
        ({"drop_path": 0.1}, {}, "stochastic depth"),
        ({}, {"mixup": 0.5}, "mixed images"),
        ({}, {"ema": 0.9}, "moving average"),
        ({}, {"accumulate": 2}, "micro-batches"),
        ({}, {"optimizer": "lamb"}, "LAMB"),
        ({}, {"on_nan": "skip"}, "skips no step"),
    ],
)
def test_what_cannot_be_stacked_is_refused(config, changes, why):
    recipes = [replace(RECIPE, seed=seed, **changes) for seed in (0, 1)]
    with pytest.raises(ValueError, match=why):
        stacked.fit_all([made(seed, replace(CONFIG, **config)) for seed in (0, 1)], noise(), recipes, "cpu")


def test_models_and_recipes_are_alike():
    with pytest.raises(ValueError, match="one configuration"):
        stacked.fit_all([made(0), made(0, replace(CONFIG, dim=48))], noise(), [RECIPE, RECIPE], "cpu")
    with pytest.raises(ValueError, match="seed alone"):
        stacked.fit_all([made(0), made(1)], noise(), [RECIPE, replace(RECIPE, lr=1e-3)], "cpu")


def test_every_model_has_a_recipe_and_learns():
    for models, recipes in (([], []), ([made(0), made(1)], [RECIPE])):
        with pytest.raises(ValueError, match=f"a recipe for each, not {len(models)} and {len(recipes)}"):
            stacked.fit_all(models, noise(), recipes, "cpu")
    with torch.no_grad(), pytest.raises(ValueError, match="fit needs gradients"):
        stacked.fit_all([made(0), made(1)], noise(), [RECIPE, RECIPE], "cpu")


def test_stacks_of_a_study_on_a_gpu_differ_in_the_seed_alone():
    length = atlas_followup.study_of(followup.lengths(1)[1e-3], "length")
    stacks = length.stacks(length.runs, "cuda")
    assert [[run.seed for run in runs] for runs in stacks] == [list(followup.SEEDS)] * 2
    assert [{run.what for run in runs} for runs in stacks] == [
        {str(cell)} for cell in followup.lengths(1)[1e-3].cells()
    ]
    assert [len(runs) for runs in length.stacks(length.runs, "cpu")] == [1] * 10
    drawn = replace(length, runs=tuple(replace(run, config=replace(run.config, drop_path=0.1)) for run in length.runs))
    assert [len(runs) for runs in drawn.stacks(drawn.runs, "cuda")] == [1] * 10
    mixed = [replace(run, recipe=replace(run.recipe, mixup=0.5)) for run in length.runs]
    assert [len(runs) for runs in length.stacks(mixed, "cuda")] == [1] * 10


def test_a_cell_of_the_atlas_has_the_record_that_the_atlas_would_write(monkeypatch):
    grid = replace(followup.lengths(1)[2e-3], recipe=replace(RECIPE, amp="auto", smoothing=0.0))
    grid = replace(grid, config=replace(CONFIG, plan=None, layer_scale=None), cls=(0, 2), seeds=(0, 1))
    monkeypatch.setattr(atlas_followup, "_sets", lambda *_: noise())
    made_up = atlas_followup.study_of(grid, "length")
    late = [run for run in made_up.runs if "at 2" in run.what]
    for run, values in zip(late, atlas_followup.one_stack(grid, late, "cpu"), strict=True):
        cell = Cell.from_config(run.config)
        _, expected = train_cell(grid, cell, run.seed, noise(), device="cpu")
        for name in expected.keys() - {"seconds"}:
            assert values[name] == pytest.approx(expected[name], rel=1e-3), name
        assert values.keys() == expected.keys() | {"data"}
        assert len(values["data"]) == 3 and (cell.cls, run.recipe) == (2, replace(grid.recipe, seed=run.seed))


def measure_stacked(runs, device):
    return [{"n": 1, "accuracy": run.seed / 10} for run in runs]


@pytest.mark.slow
def test_each_run_of_a_stack_has_its_record(tmp_path, monkeypatch):
    recipe = Recipe(max_steps=7)
    runs = tuple(study.Run("late", seed, CONFIG, replace(recipe, seed=seed)) for seed in SEEDS)
    made_up = study.Study("made_up", "none", runs, None, 0, measure_stacked)
    monkeypatch.setattr(study.Study, "stacks", lambda self, runs, device: [list(runs)] if runs else [])
    records = list(made_up.carry_out(str(tmp_path)))
    assert [(r.seed, r.get("accuracy"), r.get("stacked"), r.n) for r in records] == [(s, s / 10, 3, 1) for s in SEEDS]
    assert not list(made_up.carry_out(str(tmp_path)))
