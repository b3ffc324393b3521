"""All evidence about a late class token: which studies speak, with which value and which interval."""

from dataclasses import replace

import pytest
from scipy.stats import t

from dtl_lib import ledger
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import followup
from dtl_lib.lab.atlas.evidence import evidence


def add(folder, grid, cell, seed, accuracy, held_out=0.5):
    """A record of a grid's run."""
    config, recipe = cell.config(grid.config).to_dict(), replace(grid.recipe, seed=seed).to_dict()
    about = {"n": 1, "seed": seed, "config": config, "recipe": recipe, "folder": folder}
    ledger.add(grid.experiment, str(cell), "a command", "cpu", {"accuracy": accuracy, "held_out": held_out}, **about)


def only(found):
    (one,) = found
    return one


def test_without_records_there_is_no_evidence(tmp_path):
    assert evidence(tmp_path) == []


def test_depth_compares_the_two_halves_by_seed(tmp_path):
    grid = followup.deep()
    at = {0: 0.80, 3: 0.90, 6: 0.92, 9: 0.94}
    for cell in grid.cells():
        for seed in grid.seeds:
            assert evidence(tmp_path) == []  # a run is missing
            add(tmp_path, grid, cell, seed, at[cell.cls] + 0.01 * seed * (cell.cls == 9))
    one = only(evidence(tmp_path))
    gaps = [8.0, 8.5, 9.0, 9.5, 10.0]  # points: (92 + 94 + seed) / 2 − 85
    half = t.ppf(0.975, 4) * 0.7905694 / 5**0.5
    assert one.value == pytest.approx(sum(gaps) / 5) and one.high - one.low == pytest.approx(2 * half)
    assert (one.over, one.command) == ("5 seeds", "a command")


def test_the_larger_model_waits_for_both_rates_and_takes_the_better_one(tmp_path):
    rates = followup.large()
    for rate, grid in rates.items():
        for cell in grid.cells():
            better = (rate < 1e-3) == (cell.cls >= 6)
            for seed in followup.SEEDS if better else followup.CHOOSING:
                assert evidence(tmp_path) == []
                add(tmp_path, grid, cell, seed, 0.6 + 0.01 * cell.cls - 0.2 * (not better), 0.4 + better)
    one = only(evidence(tmp_path))
    assert one.value == pytest.approx(6.0) and one.compared == "blocks 6, 9 − blocks 0, 3" and one.over == "5 seeds"


def test_each_length_takes_each_place_at_its_better_rate(tmp_path):
    for rate, grid in followup.lengths(3).items():
        for cell in grid.cells():
            better = (rate < 2e-3) == (cell.cls == 4)  # the late token at half the rate, the early one at the whole
            for seed in followup.SEEDS if better else followup.CHOOSING:
                accuracy = 0.5 + 0.03 * (cell.cls == 4) * (1 + seed) - 0.2 * (not better)
                add(tmp_path, grid, cell, seed, accuracy, 0.4 + better)
    one = only(evidence(tmp_path))
    assert one.value == pytest.approx(9.0) and "3 epochs" in one.study and 0 < one.low < 9 < one.high


def test_a_length_waits_for_its_last_seed(tmp_path):
    for rate, grid in followup.lengths(1).items():
        for cell in grid.cells():
            for seed in followup.SEEDS[:4] if rate > 1e-3 else followup.CHOOSING:
                add(tmp_path, grid, cell, seed, 0.5 + 0.01 * seed, rate)
    assert evidence(tmp_path) == []


def test_the_second_rate_is_read_beside_the_first(tmp_path):
    first, half = atlas.grids()["cpu"], followup.half_rate()
    for grid, late, held_out in ((first, 0.40, 0.4), (half, 0.46, 0.5)):
        for cell in first.cells():
            for seed in grid.seeds:
                is_late = cell.cls in (4, 5)
                add(
                    tmp_path, grid, cell, seed, (late if is_late else 0.45) + 0.001 * seed, held_out if is_late else 0.4
                )
    found = {one.study: one.value for one in evidence(tmp_path)}
    assert list(found.values()) == pytest.approx([-5.0, 1.0])
    (more,) = first.sweep_cells(atlas.Cell(0, 0, 4))[1:2]
    add(tmp_path, first, more, 0, 0.9)  # the sweep over numbers of registers has no second rate
    assert {one.study: one.value for one in evidence(tmp_path)} == pytest.approx(found)
    assert followup.surface_at_better_rate(tmp_path).keys() == {(c, s) for c in first.cells() for s in first.seeds}


def test_fine_tuning_is_held_against_its_control_once_every_photo_was_held_out(tmp_path):
    folds = [([1, 1, 0], [1, 0, 0]), ([1, 0], [1, 1]), ([1, 1, 1], [0, 1, 0])]
    for condition, side in (("late", 0), ("control", 1)):
        for fold in (1, 2, 0):
            assert evidence(tmp_path) == []
            right = folds[fold][side]
            values = {"right_200": right, "was_right": [1] * len(right)}
            about = {"n": len(right), "seed": fold, "folder": tmp_path}
            ledger.add("entry_finetune", f"{condition}, fold {fold}", "c", "cpu", values, **about)
    one = only(evidence(tmp_path))
    gaps = [0, 100, 0, 0, -100, 100, 0, 100]
    error = (sum((gap - 25) ** 2 for gap in gaps) / 7 / 8) ** 0.5
    assert one.value == pytest.approx(25) and one.over == "8 photos"
    assert one.high - one.value == pytest.approx(t.ppf(0.975, 7) * error)


def test_the_ledger_holds_the_studies_that_chapter_7_names():
    found = {one.study: one for one in evidence()}
    assert found["CIFAR-10, 1 epoch"].value == pytest.approx(-2.31, abs=0.01)
    assert found["CIFAR-10, 1 epoch"].high - found["CIFAR-10, 1 epoch"].value == pytest.approx(0.89, abs=0.01)
    better = found["the same, better rate"]  # of 24 cells, 19 begin with weights that another PyTorch has drawn
    assert (better.value, better.high - better.value) == pytest.approx((-1.66, 0.86), abs=0.01)
    assert better.over == "3 seeds, unpaired" and found["CIFAR-10, 1 epoch"].over == "3 seeds"
    trained = [found["trained ViT-Ti/16, as learned"], found["trained, its own state"]]
    assert [one.value for one in trained] == pytest.approx([-63, -20])
    assert all(one.low < one.value < one.high < 0 and one.over == "200 photos" for one in trained)
    tuned = found["trained, fine-tuned"]
    assert (tuned.low, tuned.value, tuned.high) == pytest.approx((-6.9, -3.0, 0.9), abs=0.05)
    assert found["trained, constant kept"].low < 0 < found["trained, constant kept"].high
    assert all(one.low is None for name, one in found.items() if name.startswith("shapes, 6 blocks"))
    minutes = found["CIFAR-10, 10 minutes"]
    assert minutes.low < minutes.value < minutes.high and "Welch" in minutes.over


def test_block_0_is_below_block_3_in_every_seed_on_shapes_and_not_always_the_lowest():
    records = atlas.read(followup.deep())
    seeds = followup.SEEDS
    at = {place: [records[atlas.Cell(place), seed].get("accuracy") for seed in seeds] for place in (0, 3, 6, 9)}
    assert all(early < late for early, late in zip(at[0], at[3])) and all(a > b for a, b in zip(at[6], at[9]))
    assert [min(at, key=lambda place: at[place][seed]) for seed in seeds] == [0, 0, 0, 9, 0]
