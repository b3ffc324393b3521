"""Error strata of an atlas: against the ledger, least squares, and simulation with the noise that the ledger shows."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import ATTENTION, POOLING, Cell

GRID = atlas.grids()["cpu"]
CELLS = GRID.cells()
SHAPE = (len(GRID.cls), len(GRID.reg), len(GRID.seeds))
OF_ROWS = ["class token late − early", "class attention − class token at 0", "average pooling − class token at 0"]


def records(runs, cells=CELLS) -> dict:
    """Of an array (rows, columns, seeds) of accuracies."""
    flat = np.asarray(runs, dtype=float).reshape(len(cells), -1)
    pairs = [(at, cell, seed) for at, cell in enumerate(cells) for seed in range(flat.shape[1])]
    return {(cell, seed): SimpleNamespace(values={"accuracy": float(flat[at, seed])}) for at, cell, seed in pairs}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture(scope="module")
def ledger():
    return atlas.read(GRID)


@pytest.fixture(scope="module")
def found(ledger):
    return atlas.strata(ledger, scale=100, cells=CELLS)


class TestLedger:
    """Of the sealed records; the numbers were worked out beforehand, with dummy variables and least squares."""

    def test_mean_squares(self, found):
        strata = (found.seed, found.row_by_seed, found.column_by_seed, found.residual)
        assert [stratum.freedom for stratum in strata] == [2, 10, 6, 30]
        expected = [19.1603, 1.9105, 0.3018, 0.1339]
        assert [stratum.mean_square for stratum in strata] == pytest.approx(expected, abs=5e-5)
        assert found.row_by_seed.mean_square / found.residual.mean_square == pytest.approx(14.27, abs=0.005)

    def test_contrasts(self, found):
        tested = atlas.tested_contrasts(found, atlas.contrasts(GRID))
        intervals = [(round(one.estimate.value, 2), round(one.estimate.half, 2)) for one in tested]
        expected = [(-2.31, 0.89), (-4.05, 1.26), (-2.20, 1.26), (-0.17, 0.37), (-0.13, 0.45), (0.20, 0.50)]
        assert np.allclose(intervals, expected, atol=0.0101)  # −2.315 may be rounded either way
        assert [one.estimate.freedom for one in tested] == pytest.approx([10, 10, 10, 6, 6, 30])
        assert [atlas.verdict(one) for one in tested] == 3 * ["found"] + 3 * ["smaller than a point"]

    def test_places(self, found):
        of_cls, of_reg = atlas.main_effects(found)
        assert {round(effect.half, 2) for effect in of_cls.values()} == {0.81}
        assert {round(effect.half, 2) for effect in of_reg.values()} == {0.27}
        assert of_cls[0].value == pytest.approx(2.28, abs=0.005)

    def test_correlation_within_a_row_and_a_seed(self, ledger):
        runs = np.array([[100 * ledger[cell, seed].get("accuracy") for seed in GRID.seeds] for cell in CELLS])
        rest = runs - runs.mean(axis=1, keepdims=True) - runs.mean(axis=0) + runs.mean()
        rest = rest.reshape(SHAPE)
        pairs = [(a, b) for a in range(SHAPE[1]) for b in range(SHAPE[1]) if a != b]
        one, other = (np.concatenate([rest[:, pair[side]].ravel() for pair in pairs]) for side in (0, 1))
        assert np.corrcoef(one, other)[0, 1] == pytest.approx(0.69, abs=0.005)


class TestEstimates:
    def dummies(self, runs, *factors):
        """Residual sum of squares and rank of least squares on every combination of levels of each set of factors."""
        at = np.indices(runs.shape).reshape(3, -1)
        design = [np.ones((1, runs.size))]
        for factor in factors:
            keys = np.unique(at[list(factor)], axis=1, return_inverse=True)[1].ravel()
            design.append((keys == np.arange(keys.max() + 1)[:, None]).astype(float))
        design = np.concatenate(design).T
        solution = np.linalg.lstsq(design, runs.ravel(), rcond=None)[0]
        return ((runs.ravel() - design @ solution) ** 2).sum(), np.linalg.matrix_rank(design)

    def test_mean_squares_are_those_of_least_squares(self):
        runs = noise(*SHAPE) + 3 * noise(6, 1, 3, seed=1) + 2 * noise(1, 4, 3, seed=2) + noise(6, 4, 1, seed=3)
        found = atlas.strata(records(runs))
        cells, row, column, seed = (0, 1), (0, 2), (1, 2), (2,)
        steps = [
            ("seed", [cells], [cells, seed]),
            ("row_by_seed", [cells, seed], [cells, row]),
            ("column_by_seed", [cells, row], [cells, row, column]),
            ("residual", [cells, row, column], None),
        ]
        for name, less, more in steps:
            rest, rank = self.dummies(runs, *less)
            fitted, full = self.dummies(runs, *more) if more else (0.0, runs.size)
            stratum = getattr(found, name)
            assert stratum.freedom == full - rank, name
            assert stratum.mean_square == pytest.approx((rest - fitted) / (full - rank)), name

    @pytest.mark.parametrize("kind", ["row", "column", "interaction"])
    def test_only_its_own_noise_moves_an_error(self, kind):
        weights = {
            "row": {cell: {0: 1, 4: -1}.get(cell.cls, 0) / 4 for cell in CELLS},
            "column": {cell: {None: 1, 2: -1}.get(cell.reg, 0) / 6 for cell in CELLS},
            "interaction": {Cell(0): 1, Cell(0, 2, 4): -1, Cell(4): -1, Cell(4, 2, 4): 1},
        }[kind]
        runs = noise(*SHAPE)
        shared = {
            "seed": noise(1, 1, 3),
            "row": noise(6, 1, 3),
            "column": noise(1, 4, 3),
            "interaction": noise(6, 4, 3),
        }
        before = atlas.strata(records(runs)).estimate(weights).error
        for name, more in shared.items():
            if name == "interaction":  # what rows and columns share is no part of it
                more = more - more.mean(axis=0) - more.mean(axis=1, keepdims=True) + more.mean(axis=(0, 1))
            after = atlas.strata(records(runs + 9 * more)).estimate(weights).error
            assert (after > 3 * before) if name == kind else after == pytest.approx(before), name

    def test_a_contrast_of_rows_is_a_paired_test_of_their_means(self):
        """Two rows have one row contrast: the t test of its value in each seed, known from any textbook."""
        cells = [cell for cell in CELLS if cell.cls in (0, 5)]
        runs = noise(2, 4, 5) + noise(2, 1, 5, seed=1)
        estimate = atlas.strata(records(runs, cells)).estimate({c: {0: 1, 5: -1}[c.cls] / 4 for c in cells})
        means = runs.mean(axis=1)
        test = stats.ttest_rel(means[0], means[1])
        assert estimate.freedom == pytest.approx(4) and estimate.p == pytest.approx(test.pvalue)
        low, high = test.confidence_interval(0.95)
        assert (estimate.value - estimate.half, estimate.value + estimate.half) == pytest.approx((low, high))

    def test_two_cells_mix_strata(self, found):
        others = (Cell(0, 0, 4), Cell(2), Cell(2, 0, 4))
        same_row, same_column, apart = (found.estimate({Cell(0): 1, other: -1}) for other in others)
        assert same_row.error < same_column.error < apart.error
        assert 6 < same_row.freedom < 36 and 10 < apart.freedom < 46

    def test_by_itself_a_cell_has_the_seeds_own_differences(self, ledger, found):
        better = {
            job: SimpleNamespace(values={"accuracy": run.get("accuracy") + 0.1 * job[1]}) for job, run in ledger.items()
        }
        other = atlas.strata(better, scale=100, cells=CELLS)
        assert other.half == pytest.approx(found.half) and other.half_alone > 2 * found.half_alone > 2 * found.half

    def test_a_sweep_has_one_stratum(self, ledger):
        cells = atlas.sweep(GRID, ledger)
        one, registered = atlas.strata(ledger, cells=cells), atlas.surface(ledger, cells=cells)
        assert (one.column_by_seed.freedom, one.row_by_seed.freedom, one.residual.freedom) == (10, 0, 0)
        assert one.column_by_seed.mean_square == pytest.approx(registered.deviation**2)
        weights = {cells[0]: 1, cells[3]: -1}
        assert one.estimate(weights).half == pytest.approx(registered.estimate(weights).half)

    def test_no_noise_at_all(self):
        estimate = atlas.strata(records(np.zeros(SHAPE))).estimate({CELLS[0]: 1, CELLS[1]: -1})
        assert (estimate.value, estimate.error, estimate.p) == (0, 0, 1)

    def test_what_is_no_grid(self):
        whole = records(noise(*SHAPE))
        less = {job: run for job, run in whole.items() if job[0] != Cell(2, 0, 4)}
        with pytest.raises(ValueError, match="class token at 2, 4 registers at 0 is not among the cells"):
            atlas.strata(less)
        with pytest.raises(ValueError, match="class token at 3, no registers is not a cell of this grid"):
            atlas.strata(whole).estimate({Cell(3): 1, Cell(0): -1})


class TestCoverage:
    """Draws of a grid that is flat in truth, with as much noise in common as the ledger's runs have."""

    TIMES = 400

    def components(self, found):
        """Standard deviations of seed, row × seed, column × seed and what is left, from the mean squares."""
        rows, columns, _ = SHAPE
        rest = found.residual.mean_square
        row = (found.row_by_seed.mean_square - rest) / columns
        column = (found.column_by_seed.mean_square - rest) / rows
        return 5.0, row**0.5, column**0.5, rest**0.5

    def held(self, found, weights):
        """How often each analysis's 95 % intervals contain a true difference of 0, by contrast."""
        seed, row, column, rest = self.components(found)
        registered, post_hoc = (dict.fromkeys(weights, 0) for _ in range(2))
        for draw in range(self.TIMES):
            generator = np.random.default_rng(draw)
            parts = [(seed, (1, 1, 3)), (row, (6, 1, 3)), (column, (1, 4, 3)), (rest, SHAPE)]
            drawn = records(sum(size * generator.normal(size=shape) for size, shape in parts))
            for level, held in ((atlas.surface(drawn), registered), (atlas.strata(drawn), post_hoc)):
                for name, of_cell in weights.items():
                    estimate = level.estimate(of_cell)
                    held[name] += abs(estimate.value) < estimate.half
        return registered, post_hoc

    def test_intervals_contain_the_truth_as_often_as_they_say(self, found):
        weights = {contrast.name: contrast.weights for contrast in atlas.contrasts(GRID)}
        weights["two cells"] = {Cell(0): 1, Cell(ATTENTION, 4, 4): -1}
        weights["a place"] = {cell: (cell.cls == POOLING) / 4 - 1 / 24 for cell in CELLS}
        registered, post_hoc = self.held(found, weights)
        low, high = stats.binom.ppf((0.0005, 0.9995), self.TIMES, 0.95)
        for name, held in post_hoc.items():
            assert low <= held <= high, (name, held)
        for name in (*OF_ROWS, "a place"):  # the registered intervals of rows are far too short
            assert registered[name] < 0.85 * self.TIMES, (name, registered[name])
        assert registered["what registers bring: late − early class token"] > high  # and of the interaction too long

    def test_unequal_noise_is_too_long_among_the_others_and_too_short_against_the_quiet_row(self, found):
        """Noise as in the ledger: a seed moves every row but the first, and moves them together."""
        common, own = np.ones((6, 1, 1)), np.full((6, 1, 1), 0.5)
        common[0], own[0] = 0, 0.2
        _, _, column, rest = self.components(found)
        contrast = next(one for one in atlas.contrasts(GRID) if one.name == "class attention − class token at 0")
        others = {cell: {ATTENTION: 1, POOLING: -1}.get(cell.cls, 0) / 4 for cell in CELLS}
        held, spread = np.zeros(2), np.zeros(6)
        for draw in range(self.TIMES):
            generator = np.random.default_rng(draw)
            shapes = (1, 1, 3), (6, 1, 3), (1, 4, 3), SHAPE
            drawn = [generator.normal(size=shape) for shape in shapes]
            runs = sum(size * one for size, one in zip((1.06 * common, own, column, rest), drawn))
            level = atlas.strata(records(runs))
            estimates = level.estimate(contrast.weights), level.estimate(others)
            held += [abs(estimate.value) < estimate.half for estimate in estimates]
            spread += runs.var(axis=2, ddof=1).mean(axis=1) / self.TIMES
        assert np.allclose(spread**0.5, [0.45, *5 * [1.25]], atol=0.1)  # the ledger's: 0.42, and 1.03 to 1.39
        low, high = stats.binom.ppf((0.0005, 0.9995), self.TIMES, 0.95)
        against, among = held
        assert against == pytest.approx(0.88 * self.TIMES, abs=0.03 * self.TIMES) and against < low
        assert among > 0.96 * self.TIMES


def test_unpaired_rows_have_the_noise_of_their_own_seeds():
    rng = np.random.default_rng(1)
    runs = 2 * rng.standard_normal((6, 1, 3)) + noise(6, 4, 3)
    layers = atlas.strata(records(runs)).unpaired()
    rows = {cls: runs.mean(axis=1)[at] for at, cls in enumerate(dict.fromkeys(cell.cls for cell in CELLS))}
    late, early = (np.array([rows[one] for one in places]) for places in ((4, 5), (0, 2)))
    variance = np.mean([row.var(ddof=1) for row in rows.values()])
    weights = {cell: {0: -1, 2: -1, 4: 1, 5: 1}.get(cell.cls, 0) / 8 for cell in CELLS}
    estimate = layers.estimate(weights)
    assert estimate.value == pytest.approx(late.mean() - early.mean()) and estimate.freedom == pytest.approx(12)
    assert estimate.error == pytest.approx((variance / 3) ** 0.5)
