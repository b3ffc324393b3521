"""What follows up the atlas: which runs are made, which rate is chosen, and the numbers that are asked of them."""

import importlib
from dataclasses import replace

import pytest

from book.experiments import atlas_followup
from dtl_lib import ledger
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import Cell, followup
from tests.unit import made_up_atlas
from tests.unit.tiny_atlas import Here, tiny

EARLY, LATE = Cell(0), Cell(4)


def records(grid, accuracies, held_out=None):
    """Made-up records: (cell, seed) → accuracy; held-out accuracy is the same unless given."""
    held_out = held_out or accuracies
    return {
        (cell, seed): made_up_atlas.record(
            grid, cell, seed, {"accuracy": value, "held_out": held_out[cell, seed], "seconds": 1.0}
        )
        for (cell, seed), value in accuracies.items()
    }


def test_only_what_is_asked_about_differs_from_the_atlas():
    base, half = atlas.grids()["cpu"], followup.half_rate()
    assert half.recipe == replace(base.recipe, lr=base.recipe.lr / 2) and half.cells() == base.cells()
    assert half.config == base.config and half.seeds == base.seeds
    for epochs in followup.EPOCHS:
        for rate, grid in followup.lengths(epochs).items():
            assert grid.cells() == [EARLY, LATE] and grid.recipe.steps(45_000) == epochs * 703
            assert (grid.recipe.lr, grid.config, len(grid.seeds)) == (rate, base.config, 5)
    deep = followup.deep()
    assert (
        [cell.cls for cell in deep.cells()] == [0, 3, 6, 9] and deep.config.depth == 12 and deep.sets().train.level == 1
    )
    full, large = atlas.grids()["gpu"], followup.large()
    assert all(grid.config == full.config and grid.recipe.steps(45_000) == 870 for grid in large.values())
    assert [(rate, grid.recipe.lr, [cell.cls for cell in grid.cells()]) for rate, grid in large.items()] == [
        (rate, rate, [0, 3, 6, 9]) for rate in (1e-3, 5e-4)
    ]
    longer = [grid for epochs in followup.EPOCHS for grid in followup.lengths(epochs).values()]
    experiments = [half, deep, *large.values(), *longer]
    assert len({grid.experiment for grid in experiments} | {base.experiment}) == 11


def test_a_rate_is_chosen_by_held_out_images_and_by_the_seeds_given():
    grid, jobs = atlas.grids()["cpu"], [(cell, seed) for cell in (EARLY, LATE) for seed in (0, 1, 2)]
    fast = records(grid, dict.fromkeys(jobs, 0.9), {job: 0.5 + 0.1 * (job[0] == LATE) for job in jobs})
    slow = records(grid, dict.fromkeys(jobs, 0.1), {job: 0.55 + 0.2 * (job == (LATE, 2)) for job in jobs})
    by_rate = {2e-3: fast, 1e-3: slow}
    assert followup.better_rates(by_rate, (0, 1)) == {EARLY: 1e-3, LATE: 2e-3}
    assert followup.better_rates(by_rate) == {EARLY: 1e-3, LATE: 1e-3}  # seed 2 decides
    kept = followup.at_better_rate(by_rate, (0, 1))
    assert [kept[cell, 0].get("accuracy") for cell in (EARLY, LATE)] == [0.1, 0.9] and len(kept) == 6
    del slow[EARLY, 1]
    with pytest.raises(ValueError, match="class token at 0, no registers: both rates need runs of the same seeds"):
        followup.better_rates(by_rate, (0, 1))
    assert followup.better_rates(by_rate)[EARLY] == 1e-3  # by seeds 0 and 2, which both rates have


def test_a_length_is_read_with_each_place_at_its_own_rate(tmp_path):
    for rate, grid in followup.lengths(1).items():
        for cell in grid.cells():
            for seed in followup.CHOOSING:
                own = (rate < 2e-3) == (cell == LATE)
                config, recipe = cell.config(grid.config).to_dict(), replace(grid.recipe, seed=seed).to_dict()
                values = {"accuracy": rate, "held_out": 0.4 + 0.1 * own}
                about = {"n": 1, "seed": seed, "config": config, "recipe": recipe, "folder": tmp_path}
                ledger.add(grid.experiment, str(cell), "none", "cpu", values, **about)
    read = followup.length_records(1, tmp_path)
    assert {job: record.get("accuracy") for job, record in read.items()} == {
        (EARLY, 0): 2e-3, (EARLY, 1): 2e-3, (LATE, 0): 1e-3, (LATE, 1): 1e-3
    }  # fmt: skip


def test_what_length_brings_is_paired_by_seed():
    grid = atlas.grids()["cpu"]
    short = {(EARLY, 0): 0.40, (LATE, 0): 0.37, (EARLY, 1): 0.50, (LATE, 1): 0.49, (EARLY, 2): 0.1}
    long = {(EARLY, 0): 0.60, (LATE, 0): 0.61, (EARLY, 1): 0.50, (LATE, 1): 0.52}
    gaps = [followup.late_minus_early(records(grid, runs)) for runs in (short, long)]
    assert gaps[0] == pytest.approx({0: -3.0, 1: -1.0}) and gaps[1] == pytest.approx({0: 1.0, 1: 2.0})
    gain = followup.gain_with_length(*gaps)
    assert (gain.value, gain.error, gain.freedom) == (pytest.approx(3.5), pytest.approx(0.5), 1)
    with pytest.raises(ValueError, match="at least two, not 1"):
        followup.gain_with_length({0: 1.0}, gaps[1])


@pytest.mark.parametrize(
    "versions, alike",
    [
        (["2.14.1+cu130", "2.15.0+cu132"], True),
        (["2.11.0+cu130", "2.11.1"], True),
        (["2.11.0+cu130", "2.15.0+cu132"], False),
        (["2.11.0", "2.12.0"], False),
        (["2.9.1", "2.15.0a0+git1"], False),
    ],
)
def test_seeds_of_two_versions_are_paired_only_where_they_draw_the_same(versions, alike):
    made = records(atlas.grids()["cpu"], {(EARLY, 0): 0.4, (LATE, 0): 0.3}).values()
    assert followup.begin_alike([replace(one, torch=torch, id="") for one, torch in zip(made, versions)]) == alike
    other = [replace(one, torch=torch, seed=seed, id="") for seed, (one, torch) in enumerate(zip(made, versions))]
    assert followup.begin_alike(other), "what is of another seed is not paired with it"


def test_the_trend_is_the_slope_a_block():
    grid = followup.deep()
    exact = {(cell, seed): 0.9 + 0.003 * cell.cls + 0.01 * seed for cell in grid.cells() for seed in range(3)}
    line = followup.trend(records(grid, exact))
    assert line.value == pytest.approx(0.3) and line.error == pytest.approx(0, abs=1e-9) and line.freedom == 2
    steeper = exact | {(Cell(9), 2): exact[Cell(9), 2] + 0.1}
    bent = followup.trend(records(grid, steeper))
    assert bent.value == pytest.approx(0.3 + 10 * 4.5 / 45 / 3) and bent.error > 0
    del steeper[Cell(3), 2]
    assert followup.trend(records(grid, steeper)).value == pytest.approx(0.3)  # a seed that lacks a cell is left out


class Asked:
    """What `Runner` is, without runs: notes them, and has the late token do better at the lower rate."""

    def __init__(self):
        self.runs = []

    def __call__(self, grid):
        self.runs += [(grid.experiment, cell.cls, seed) for cell in grid.cells() for seed in grid.seeds]
        return iter(())

    def read(self, grid):
        """Of the seeds by which a rate is chosen."""
        jobs = [(cell, seed) for cell in (EARLY, LATE) for seed in followup.CHOOSING]
        return records(
            grid,
            {(cell, seed): 0.5 + (grid.experiment.endswith("half_rate") == (cell == LATE)) / 9 for cell, seed in jobs},
        )


def test_a_place_goes_on_at_its_own_rate_alone():
    asked = Asked()
    assert list(atlas_followup.length(asked)) == []
    of_one = [run for run in asked.runs if run[0].startswith("atlas_10_")]
    names = "atlas_10_epochs", "atlas_10_epochs_half_rate"
    assert set(of_one[:8]) == {(name, place, seed) for name in names for place in (0, 4) for seed in (0, 1)}
    assert of_one[8:] == [(names[place > 0], place, seed) for place in (0, 4) for seed in range(5)]
    assert [run[0] for run in asked.runs if run[1:] == (0, 4)] == [f"atlas_{n}_epochs" for n in followup.EPOCHS]


def test_a_larger_model_is_made_likewise(monkeypatch):
    asked = Asked()
    list(
        atlas_followup.at_two_rates(asked, {rate: replace(grid, cls=(0, 4)) for rate, grid in followup.large().items()})
    )
    names = "atlas_large", "atlas_large_half_rate"
    assert asked.runs[8:] == [(names[place > 0], place, seed) for place in (0, 4) for seed in range(5)]


def test_the_command_makes_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.import_module("dtl_lib.lab.atlas.run"), "Workers", Here)
    monkeypatch.setattr(followup, "deep", lambda: tiny(cls=(0, 1), reg=(None,), sweep=()))
    atlas_followup.main(["depth", "--folder", str(tmp_path)])
    made = ledger.read("tiny", tmp_path)
    assert len(made) == 4 and made[0].command == "python -m book.experiments.atlas_followup depth"
    assert capsys.readouterr().out.count("tiny: class token at") == 4
    atlas_followup.main(["depth", "--folder", str(tmp_path)])
    assert ledger.read("tiny", tmp_path) == made and capsys.readouterr().out == ""


@pytest.mark.parametrize("reg", [(None,), (0,), (None, 0), (0, 4)])
@pytest.mark.parametrize("cls", [(0,), (4,), (0, 4), (0, "class attention"), ("average pooling",)])
def test_a_comparison_needs_both_of_its_sides(cls, reg):
    grid = replace(atlas.grids()["cpu"], cls=cls, reg=reg)
    names = {contrast.name: contrast.weights for contrast in atlas.contrasts(grid)}
    assert all(sum(weights.values()) == pytest.approx(0) for weights in names.values())
    both = {"class token late − early": {0, 4} <= {*cls}, "registers − none": {None, 0} <= {*reg}}
    both["registers at 4 − registers at 0"] = {0, 4} <= {*reg}
    both["class attention − class token at 0"] = {0, "class attention"} <= {*cls}
    both["what registers bring: late − early class token"] = {0, 4} <= {*cls} and {None, 0} <= {*reg}
    assert {*names} == {name for name, asked in both.items() if asked}
