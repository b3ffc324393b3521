"""The atlas's cells, grids and analysis, against hand calculations, least squares and simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import ATTENTION, POOLING, Cell, Estimate
from dtl_lib.ledger import Record
from dtl_lib.tokens import TokenPlan

GRID = atlas.grids()["cpu"]
CELLS = GRID.cells()


def record(cell: Cell, seed: int, **values) -> Record:
    about = ("made_up", str(cell), "none", "2026-01-31T12:00:00+00:00", "none", "0", "0")
    config, recipe = cell.config(GRID.config).to_dict(), replace(GRID.recipe, seed=seed).to_dict()
    return Record(*about, seed=seed, n=100, values=values, config=config, recipe=recipe)


def records(values, cells=CELLS) -> dict:
    """Of an array (cells, seeds) of accuracies."""
    pairs = [(at, cell, seed) for at, cell in enumerate(cells) for seed in range(values.shape[1])]
    return {(cell, seed): record(cell, seed, accuracy=float(values[at, seed])) for at, cell, seed in pairs}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def least_squares(values, weights):
    """Estimate, standard error and degrees of freedom of a contrast of cells in the model cell + seed + noise."""
    cells, seeds = values.shape
    design = np.zeros((cells * seeds, cells + seeds - 1))
    for cell in range(cells):
        for seed in range(seeds):
            design[cell * seeds + seed, cell] = 1
            if seed:
                design[cell * seeds + seed, cells + seed - 1] = 1
    solution, residual, rank, _ = np.linalg.lstsq(design, values.ravel(), rcond=None)
    freedom = values.size - rank
    along = np.zeros(design.shape[1])
    along[:cells] = weights
    variance = residual[0] / freedom * along @ np.linalg.inv(design.T @ design) @ along
    return along @ solution, math.sqrt(variance), freedom


class TestCells:
    @pytest.mark.parametrize(
        ("cell", "plan", "pool", "words"),
        [
            (Cell(0), TokenPlan.of(6), "cls", "class token at 0, no registers"),
            (Cell(4, 2, 4), TokenPlan.of(6, 4, 2, 4), "cls", "class token at 4, 4 registers at 2"),
            (Cell(2, 0, 1), TokenPlan.of(6, 2, 0, 1), "cls", "class token at 2, 1 register at 0"),
            (Cell(ATTENTION), TokenPlan.of(6, 6, class_blocks=1), "cls", "class attention, no registers"),
            (Cell(POOLING, 4, 4), TokenPlan.of(6, None, 4, 4), "patches", "average pooling, 4 registers at 4"),
        ],
    )
    def test_its_plan_and_back(self, cell, plan, pool, words):
        config = cell.config(GRID.config)
        assert (config.plan, config.pool, str(cell)) == (plan, pool, words)
        assert Cell.from_config(config) == Cell.from_config(config.to_dict()) == cell
        assert replace(config, plan=None, pool="cls") == replace(GRID.config, plan=None)

    def test_what_contradicts_itself(self):
        with pytest.raises(ValueError, match='cls is a block, "class attention" or "average pooling", not .late.'):
            Cell("late")
        for reg, num_reg in ((0, 0), (None, 4)):
            with pytest.raises(ValueError, match="give both or neither"):
                Cell(0, reg, num_reg)


class TestGrids:
    def test_the_grid_of_two_cores_is_the_one_predicted(self):
        assert len(CELLS) == len(set(CELLS)) == 24 and GRID.seeds == (0, 1, 2)
        assert GRID.cls == (0, 2, 4, 5, ATTENTION, POOLING) and GRID.reg == (None, 0, 2, 4)
        config, recipe = GRID.config, GRID.recipe
        assert (config.depth, config.dim, config.heads, config.patch_size) == (6, 64, 4, 4)
        assert (recipe.steps(45_000), recipe.batch_size, recipe.lr, recipe.warmup_steps) == (700, 64, 0.002, 100)
        assert recipe.flip and not recipe.crop and recipe.weight_decay == 0.05 and recipe.min_lr == 0

    def test_the_grid_of_a_gpu(self):
        grid = atlas.grids()["gpu"]
        assert grid.cls == (0, 3, 6, 9, 11, ATTENTION, POOLING) and grid.reg == (None, 0, 3, 6, 9)
        assert (grid.config.depth, grid.num_reg, grid.seeds, grid.recipe.epochs) == (12, 4, (0, 1, 2), 100)
        assert all(cell.config(grid.config).cost().parameters >= 2e6 for cell in grid.cells())
        assert not grid.recipe.slow_augmentation and grid.recipe.augment()

    @pytest.mark.parametrize("name", ["cpu", "gpu"])
    def test_looks_at_held_out_images_once_at_the_end(self, name):
        recipe = atlas.grids()[name].recipe
        steps = recipe.steps(45_000)
        assert [step for step in range(1, steps + 1) if step == steps or step % recipe.eval_every == 0] == [steps]

    def test_the_sweep_is_at_the_best_cell(self):
        cells = GRID.sweep_cells(Cell(4, 2, 4))
        assert cells == [Cell(4), *(Cell(4, 2, number) for number in (1, 2, 4, 8, 16))]
        assert [cell in CELLS for cell in cells] == [True, False, False, True, False, False]


class TestSurface:
    def test_by_hand(self):
        two = [Cell(0), Cell(2)]
        surface = atlas.surface(records(np.array([[1.0, 2.0, 6.0], [2.0, 5.0, 5.0]]), two))
        assert surface.mean == {two[0]: 3.0, two[1]: 4.0} and surface.freedom == 2
        # less cell and seed: −0, −1, 1 and 0, 1, −1
        assert surface.deviation == pytest.approx(math.sqrt(4 / 2))
        assert surface.half == pytest.approx(stats.t.ppf(0.975, 2) * math.sqrt(2 / 3))
        difference = surface.estimate({two[1]: 1, two[0]: -1})
        assert difference.value == 1 and difference.error == pytest.approx(math.sqrt(2 * 2 / 3))
        # two cells: the paired t-test
        paired = stats.ttest_rel([2.0, 5.0, 5.0], [1.0, 2.0, 6.0])
        assert difference.p == pytest.approx(paired.pvalue) and difference.freedom == paired.df

    def test_contrasts_are_those_of_least_squares(self):
        values = 0.4 + 0.01 * noise(24, 3)
        level = atlas.surface(records(values), scale=100)
        assert level.freedom == 46
        for contrast in atlas.contrasts(GRID):
            weights = np.array([contrast.weights.get(cell, 0) for cell in CELLS])
            value, error, freedom = least_squares(100 * values, weights)
            estimate = level.estimate(contrast.weights)
            assert (estimate.value, estimate.error, estimate.freedom) == pytest.approx((value, error, freedom)), (
                contrast.name
            )
            assert estimate.half == pytest.approx(stats.t.ppf(0.975, 46) * error)
            assert estimate.p == pytest.approx(2 * stats.t.sf(abs(value / error), 46))

    def test_main_effects_are_those_of_least_squares(self):
        values = noise(24, 3, seed=1)
        of_cls, of_reg = atlas.main_effects(atlas.surface(records(values)))
        assert list(of_cls) == list(GRID.cls) and list(of_reg) == list(GRID.reg)
        row = np.array([(cell.cls == 4) / 4 - 1 / 24 for cell in CELLS])
        column = np.array([(cell.reg is None) / 6 - 1 / 24 for cell in CELLS])
        for effect, weights in ((of_cls[4], row), (of_reg[None], column)):
            assert (effect.value, effect.error) == pytest.approx(least_squares(values, weights)[:2])
        assert sum(effect.value for effect in of_cls.values()) == pytest.approx(0)

    def test_a_seed_that_is_better_everywhere_widens_nothing(self):
        values = noise(24, 3)
        before, after = atlas.surface(records(values)), atlas.surface(records(values + np.array([0, 50, -7])))
        assert after.deviation == pytest.approx(before.deviation)
        assert after.mean[CELLS[5]] == pytest.approx(before.mean[CELLS[5]] + 43 / 3)
        for contrast in atlas.contrasts(GRID):
            assert after.estimate(contrast.weights).value == pytest.approx(before.estimate(contrast.weights).value)

    def test_one_run_moves_the_spread_of_every_cell(self):
        values = noise(24, 3)
        before = atlas.surface(records(values)).half
        values[7, 1] += 20
        assert atlas.surface(records(values)).half > 2 * before

    def test_intervals_contain_the_truth_as_often_as_they_say(self):
        few, truth = CELLS[:6], np.array([0, 1, 2, 3, 4, 5.0])
        weights = dict(zip(few, (0.5, 0.5, 0, 0, -0.5, -0.5)))
        held, times = 0, 200
        for draw in range(times):
            seeds = 10 * noise(3, seed=1000 + draw)
            estimate = atlas.surface(records(truth[:, None] + seeds + noise(6, 3, seed=draw), few)).estimate(weights)
            held += abs(estimate.value + 4) < estimate.half
        low, high = stats.binom.ppf((0.0005, 0.9995), times, 0.95)
        assert low <= held <= high

    def test_a_missing_run_is_named(self):
        whole = records(noise(24, 3))
        without = {job: run for job, run in whole.items() if job != (CELLS[3], 1)}
        with pytest.raises(ValueError, match="1 runs are missing, such as class token at 0, 4 registers at 4, seed 1"):
            atlas.surface(without)
        cell = {job: run for job, run in whole.items() if job[0] != CELLS[3]}
        assert len(atlas.surface(cell).mean) == 23
        with pytest.raises(ValueError, match="3 runs are missing, such as class token at 0, 4 registers at 4, seed 0"):
            atlas.surface(cell, cells=CELLS)
        with pytest.raises(ValueError, match="24 runs are missing, such as class token at 0, no registers, seed 3"):
            atlas.surface(whole, seeds=(0, 1, 2, 3))

    def test_too_little_to_speak_of(self):
        with pytest.raises(ValueError, match="24 cells × 1 seeds have no spread: at least two of each are needed"):
            atlas.surface(records(noise(24, 1)))

    def test_a_cell_without_the_value_is_named(self):
        with pytest.raises(ValueError, match="class token at 0, no registers, seed 0, has no entropy"):
            atlas.surface(records(noise(24, 3)), "entropy")


class TestContrasts:
    def test_weights_by_hand(self):
        weights_of = {contrast.name: contrast.weights for contrast in atlas.contrasts(GRID)}
        assert len(weights_of) == 6
        late = weights_of["class token late − early"]
        assert len(late) == 16 and late[Cell(4)] == late[Cell(5, 0, 4)] == 1 / 8 and late[Cell(2, 4, 4)] == -1 / 8
        attention, pooling = (weights_of[f"{kind} − class token at 0"] for kind in (ATTENTION, POOLING))
        assert attention[Cell(ATTENTION, 2, 4)] == 1 / 4 == -attention[Cell(0, 2, 4)] and len(attention) == 8
        assert pooling[Cell(POOLING)] == 1 / 4 and Cell(ATTENTION) not in pooling
        registers = weights_of["registers − none"]
        assert registers[Cell(POOLING, 0, 4)] == 1 / 18 and registers[Cell(2)] == -1 / 6 and len(registers) == 24
        places = weights_of["registers at 4 − registers at 0"]
        assert places[Cell(ATTENTION, 4, 4)] == 1 / 6 == -places[Cell(5, 0, 4)] and Cell(0) not in places
        both = weights_of["what registers bring: late − early class token"]
        assert both[Cell(4, 2, 4)] == 1 / 6 == -both[Cell(0, 2, 4)] and both[Cell(5)] == -1 / 2 == -both[Cell(2)]
        for name, weights in weights_of.items():
            assert math.fsum(weights.values()) == pytest.approx(0), name

    def test_two_cells_that_change_places_move_them(self):
        values = noise(24, 3)
        swapped = values.copy()
        at = [CELLS.index(cell) for cell in (Cell(0), Cell(4, 0, 4))]
        swapped[at] = values[at[::-1]]
        surfaces = (atlas.surface(records(v)) for v in (values, swapped))
        before, after = (atlas.tested_contrasts(surface, atlas.contrasts(GRID)) for surface in surfaces)
        moved = values[at[0]].mean() - values[at[1]].mean()
        change = [two.estimate.value - one.estimate.value for one, two in zip(before, after)]
        expected = [moved * (1 / 8 + 1 / 8), moved / 4, moved / 4, moved * (1 / 18 + 1 / 6), -moved / 6, None]
        assert change[:5] == pytest.approx(expected[:5]) and abs(change[5]) > 0.01

    def test_holm_by_hand(self, monkeypatch):
        given = iter([0.01, 0.04, 0.03, 0.005])

        class Fixed:
            def estimate(self, weights):
                return type("Estimate", (), {"p": next(given)})()

        tested = atlas.tested_contrasts(Fixed(), [atlas.Contrast(name, {}) for name in "abcd"])
        # in order 0.005 · 4, 0.01 · 3, 0.03 · 2, 0.04 · 1, none less than the one before
        assert [contrast.name for contrast in tested] == list("abcd")
        assert [contrast.p for contrast in tested] == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_no_corrected_p_is_above_one(self):
        tested = atlas.tested_contrasts(atlas.surface(records(noise(24, 3))), atlas.contrasts(GRID))
        assert all(contrast.estimate.p <= contrast.p <= 1 for contrast in tested)

    @pytest.mark.parametrize(
        ("value", "error", "p", "words"),
        [
            (2.0, 0.2, 0.001, "found"),
            (-2.0, 0.2, 0.001, "found"),
            (0.3, 0.1, 0.04, "found, smaller than a point"),
            (-0.3, 0.1, 0.06, "smaller than a point"),
            (0.7, 0.2, 0.05, "cannot tell"),
            (-0.7, 0.2, 0.9, "cannot tell"),
        ],
    )
    def test_verdicts(self, value, error, p, words):
        assert atlas.verdict(atlas.TestedContrast("one", Estimate(value, error, 46), p)) == words
        assert (
            atlas.verdict(atlas.TestedContrast("one", Estimate(value / 100, error / 100, 46), p), point=0.01) == words
        )


class TestSweep:
    CELLS = GRID.sweep_cells(Cell(4, 2, 4))

    def test_a_slope_is_that_of_a_line(self):
        x = np.log2([1, 2, 3, 5, 9, 17])
        exact = records(np.stack([2 + 0.3 * x, 5 + 0.3 * x], axis=1), self.CELLS)
        slope = atlas.slope(exact)
        assert slope.value == pytest.approx(0.3) and slope.error == pytest.approx(0, abs=1e-9)
        values = noise(6, 3)
        slope = atlas.slope(records(values, self.CELLS), scale=100)
        assert slope.value == pytest.approx(100 * np.polyfit(x, values.mean(axis=1), 1)[0]) and slope.freedom == 10
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        assert slope.error == pytest.approx(100 * least_squares(values, weights)[1])

    def test_the_best_has_registers_and_a_class_token(self):
        values = np.zeros((24, 2)) + noise(24, 2) / 100
        for cell, value in ((Cell(POOLING, 2, 4), 9), (Cell(5), 8), (Cell(2, 4, 4), 7), (Cell(ATTENTION, 0, 4), 6)):
            values[CELLS.index(cell)] = value
        assert atlas.best(atlas.surface(records(values))) == Cell(2, 4, 4)
        values[CELLS.index(Cell(ATTENTION, 0, 4))] = 10
        assert atlas.best(atlas.surface(records(values))) == Cell(ATTENTION, 0, 4)


class TestNumbers:
    RUN = record(Cell(0), 0, accuracy=0.5, entropy=3.0, norm_50=[4.0, 5.0], norm_98=[9.0, 15.0])

    def test_by_name(self):
        assert atlas.number(self.RUN, "entropy") == 3 and atlas.number(self.RUN, "on_registers") is None
        assert atlas.number(self.RUN, "norm_50") is None  # one a block
        assert atlas.number(self.RUN, "norm_ratio") == 3  # of the last block
        names = atlas.value_names([self.RUN, record(Cell(2), 0, loss=1.0)])
        assert names == ["accuracy", "entropy", "norm_ratio", "loss"]

    def test_means_of_what_there_is(self):
        whole = records(np.array([[1.0, 3.0], [5.0, 7.0]]), [Cell(0), Cell(2)])
        del whole[Cell(2), 0]
        assert atlas.means(whole, scale=2) == {Cell(0): 4, Cell(2): 14}
        assert atlas.means(whole, cells=[Cell(2), Cell(4)]) == {Cell(2): 7}
        assert atlas.means(whole, "entropy") == {}

    def test_who_is_on_the_front(self):
        points = {"a": (1, 5), "b": (2, 5), "c": (2, 6, 0.1), "d": (3, 5.5), "e": (4, 9), "f": (1, 5), "g": (0.5, 1)}
        assert atlas.pareto(points) == ["g", "a", "f", "c", "e"]
        assert atlas.pareto({**points, "h": (0.5, 10)}) == ["h"] and atlas.pareto({}) == []


class TestFindings:
    def whole(self, seeds=3):
        values = 0.4 + 0.01 * noise(24, seeds)
        best, swept = Cell(2, 4, 4), GRID.sweep_cells(Cell(2, 4, 4))
        runs = {}
        for (cell, seed), run in {**records(values), **records(0.4 + 0.01 * noise(6, seeds, seed=2), swept)}.items():
            more = {} if cell.cls == POOLING else {"entropy": 3.0 + 0.1 * seed + 0.01 * len(str(cell))}
            runs[cell, seed] = record(cell, seed, held_out=0.5 + 0.1 * (cell == best), **run.values, **more)
        return runs

    def test_complete(self):
        runs = self.whole()
        findings = atlas.find(GRID, runs, scale=100)
        assert findings.missing == [] and findings.best == Cell(2, 4, 4) and list(findings.mean) == CELLS
        assert findings.surface == atlas.surface(runs, scale=100, cells=CELLS)  # the sweep's runs are not in it
        assert list(findings.tested) == atlas.tested_contrasts(findings.surface, atlas.contrasts(GRID))
        assert findings.strata == atlas.strata(runs, scale=100, cells=CELLS)
        assert list(findings.post_hoc) == atlas.tested_contrasts(findings.strata, atlas.contrasts(GRID))
        assert findings.post_hoc_effects == atlas.main_effects(findings.strata)
        assert [cell.num_reg for cell in findings.sweep] == [0, 1, 2, 4, 8, 16] and findings.slope.freedom == 10
        assert findings.sweep[Cell(2, 4, 4)] == findings.mean[Cell(2, 4, 4)]
        assert findings.points()[str(Cell(0))] == (19.457408, findings.mean[Cell(0)], findings.surface.half)
        assert findings.front()[0] == str(Cell(5))  # the cheapest

    def test_of_another_value(self):
        findings = atlas.find(GRID, self.whole(), "entropy")
        assert len(findings.mean) == 20 and findings.surface.freedom == 38 and findings.tested == ()
        assert set(findings.effects[0]) == set(findings.post_hoc_effects[0]) == {0, 2, 4, 5, ATTENTION}
        assert findings.strata.residual.freedom == 4 * 3 * 2 and findings.post_hoc == ()

    def test_with_runs_missing(self):
        runs = self.whole()
        del runs[Cell(2, 4, 8), 1]
        findings = atlas.find(GRID, runs)
        assert (
            findings.missing == [(Cell(2, 4, 8), 1)] and findings.tested and findings.sweep and findings.slope is None
        )
        del runs[Cell(0), 2]
        findings = atlas.find(GRID, runs)
        assert findings.missing == [(Cell(0), 2)] and len(findings.mean) == 24
        assert not (
            findings.tested
            or findings.post_hoc
            or findings.strata
            or findings.surface
            or findings.best
            or findings.sweep
        )
        assert findings.points()[str(Cell(0))] == (19.457408, findings.mean[Cell(0)])
