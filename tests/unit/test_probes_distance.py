"""Mean attention distance against loops over every pair of patches, and its mean and interval over images."""

import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from dtl_lib import probes, record
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenNotThere, TokenPlan
from tests.unit.loops import PLANS, attention, needs_tiny, prefix, real, streams
from tests.unit.small import SMALL, build, disturbed, images


def by_hand(model, x, block, grid, renormalise=True) -> np.ndarray:
    """`(batch, heads)` in pixels, one pair of patches at a time."""
    rows, patch, first = attention(model, block, x), model.config.patch_size, prefix(model, block)
    places = [(row * patch, column * patch) for row in range(grid[0]) for column in range(grid[1])]
    found = np.zeros(rows.shape[:2])
    for image, head in np.ndindex(*found.shape):
        for query, here in enumerate(places):
            row = rows[image, head, first + query, first:]
            far = sum(weight * math.dist(here, there) for weight, there in zip(row, places))
            found[image, head] += far / (row.sum() if renormalise else 1) / len(places)
    return found


def recorded(model, x):
    with torch.no_grad(), record(model) as tape:
        model(x)
    return tape


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("renormalise", [True, False])
def test_it_is_what_loops_over_all_pairs_find(name, renormalise):
    model, x = build(PLANS[name]), images(SMALL)
    tape = recorded(model, x)
    for block, stream in enumerate(streams(model, x)[: model.plan.depth]):
        found = probes.mean_attention_distance(tape, block, renormalise)
        assert found.shape == (2, 3)
        np.testing.assert_allclose(found, by_hand(model, stream, block, (2, 3), renormalise), rtol=2e-6)


@needs_tiny
@pytest.mark.parametrize(("size", "grid"), [((224, 224), (14, 14)), ((96, 160), (6, 10))])
def test_it_is_right_with_real_weights(size, grid):
    model, x = real(size, batch=1)
    tape = recorded(model, x)
    stream = streams(model, x)
    for block in (0, 7, 11):
        found = probes.mean_attention_distance(tape, block)
        np.testing.assert_allclose(found, by_hand(model, stream[block], block, grid), rtol=1e-5)
    first = probes.mean_attention_distance(tape, 0)
    assert size != (224, 224) or (first.min() < 25 and first.max() > 80), "ViT, figure 11: near and far heads at once"


def test_flat_attention_looks_as_far_as_two_patches_lie_apart_at_random():
    model = build(replace(SMALL, plan=TokenPlan.of(3, 0, 0, 4)))
    with torch.no_grad():
        model.blocks[1].attention.qkv.weight.zero_()
    tape = recorded(model, images(SMALL))
    places = [(row, column) for row in range(2) for column in range(3)]
    expected = 4 * np.mean([math.dist(a, b) for a in places for b in places])
    torch.testing.assert_close(probes.mean_attention_distance(tape, 1), torch.full((2, 3), float(expected)))
    original = probes.mean_attention_distance(tape, 1, renormalise=False)
    torch.testing.assert_close(original, torch.full((2, 3), float(expected) * 6 / 11))


def test_it_depends_on_the_block_that_is_asked_for_and_on_those_before():
    model, x = build(SMALL), images(SMALL)
    plain = [probes.mean_attention_distance(recorded(model, x), block) for block in range(3)]
    assert not any(torch.allclose(plain[a], plain[b], rtol=1e-3) for a, b in ((0, 1), (1, 2), (0, 2)))
    with disturbed(model, 1, slice(1, None)):
        changed = [probes.mean_attention_distance(recorded(model, x), block) for block in range(3)]
    assert plain[0].equal(changed[0]) and plain[1].equal(changed[1])
    assert not torch.allclose(plain[2], changed[2], rtol=1e-3)


def test_a_patch_that_attends_to_registers_alone_is_left_out():
    """In float32 it gives the patches nothing at all; the others decide."""
    model = build(replace(SMALL, plan=TokenPlan.of(3, 0, 0, 1)))
    tape = recorded(model, images(SMALL))
    q, k = (part.clone() for part in tape._qk[0])
    q[:, :, 2], k[:, :, 1] = 1e4, 1.0  # the first patch asks for the register
    tape._qk[0] = q, k
    rows = tape.attention(0)[:, :, 2:, 2:]
    assert not rows[:, :, 0].any() and rows[:, :, 1:].sum(dim=-1).min() > 0
    each = (rows * 4 * probes.distance.distances((2, 3))).sum(dim=-1) / rows.sum(dim=-1)
    torch.testing.assert_close(probes.mean_attention_distance(tape, 0), each[:, :, 1:].mean(dim=-1))
    assert probes.mean_attention_distance(tape, 0, renormalise=False).isfinite().all()


def test_half_precision_is_near():
    model, x = build(SMALL), images(SMALL)
    exact = probes.mean_attention_distance(recorded(model, x), 1)
    half = probes.mean_attention_distance(recorded(model.to(torch.bfloat16), x.to(torch.bfloat16)), 1)
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0)


def test_where_no_patch_asks_it_says_so():
    tape = recorded(build(PLANS["class attention"]), images(SMALL))
    with pytest.raises(TokenNotThere, match=r"block 2 is class attention: no patch asks there \(blocks 0 … 1\)"):
        probes.mean_attention_distance(tape, 2)
    with pytest.raises(ValueError, match="there is no block 4"):
        probes.mean_attention_distance(tape, 4)


class TestOverImages:
    def test_mean_and_interval_are_students_whatever_the_batches(self):
        model, x = build(SMALL), images(SMALL, batch=7)
        tape = recorded(model, x)
        each = torch.stack([probes.mean_attention_distance(tape, block) for block in range(3)], dim=1).numpy()
        low, high = stats.t.interval(0.95, 6, each.mean(axis=0), stats.sem(each, axis=0))
        for sizes in ([7], [3, 4], [1, 1, 5]):
            found = probes.measure_distance(model, x.split(sizes)).trained
            assert found.n == 7 and found.mean.shape == (3, 3)
            for value, expected in ((found.mean, each.mean(axis=0)), (found.low, low), (found.high, high)):
                np.testing.assert_allclose(value, expected, rtol=1e-6)

    def test_the_original_way_is_passed_on(self):
        model, x = build(SMALL), images(SMALL)
        ways = [probes.measure_distance(model, [x], renormalise).trained.mean for renormalise in (True, False)]
        assert (ways[0] > 1.02 * ways[1]).all()

    def test_the_control_has_the_same_configuration_and_other_weights(self):
        model, x = build(replace(SMALL, plan=TokenPlan.of(3, 1, 0, 2))), images(SMALL, batch=5)
        state = torch.get_rng_state()
        result = probes.measure_distance(model, [(part, None) for part in x.split(2)], control=3, seed=4)
        assert torch.get_rng_state().equal(state) and result.untrained.n == 3 and result.trained.n == 5
        torch.manual_seed(4)
        fresh = ViT(model.config).double().eval()
        tape = recorded(fresh, x[:3])
        expected = torch.stack([probes.mean_attention_distance(tape, block) for block in range(3)], dim=1)
        torch.testing.assert_close(result.untrained.mean, expected.double().mean(dim=0))
        assert not torch.allclose(result.trained.mean, result.untrained.mean, rtol=0.01)
        torch.set_rng_state(state)

    def test_a_model_in_training_stays_so_and_is_measured_as_it_evaluates(self):
        model = build(replace(SMALL, drop_path=0.5)).train()
        found = probes.measure_distance(model, [images(SMALL)]).trained.mean
        assert model.training
        torch.testing.assert_close(probes.measure_distance(model.eval(), [images(SMALL)]).trained.mean, found)

    def test_a_batch_is_forgotten_before_the_next_but_one(self):
        alive = []

        def batches():
            for seed in range(6):
                alive.append(weakref.ref(x := images(SMALL, seed=seed)))
                yield x
                del x
                assert sum(reference() is not None for reference in alive[1:]) <= 1

        assert probes.measure_distance(build(SMALL), batches(), control=1).trained.n == 12

    def test_bad_input(self):
        model, x = build(SMALL), images(SMALL)
        with pytest.raises(ValueError, match="there are no images"):
            probes.measure_distance(model, [])
        with pytest.raises(ValueError, match="a batch is images"):
            probes.measure_distance(model, ["x"])
        with pytest.raises(ValueError, match="control is a whole number, 1 or more"):
            probes.measure_distance(model, [x], control=0)
        with torch.no_grad():
            model.blocks[1].attention.qkv.weight[0, 0] = float("nan")
        with pytest.raises(ValueError, match="non-finite values: the weights are damaged"):
            probes.measure_distance(model, [x])

    def test_of_one_image_the_interval_is_unknown(self):
        found = probes.measure_distance(build(SMALL), [images(SMALL, batch=1)]).trained
        assert found.n == 1 and found.mean.isfinite().all() and found.low.isnan().all() and found.high.isnan().all()


def test_a_large_mean_loses_no_variance():
    values = 1e8 + torch.arange(10.0, dtype=torch.float64)
    running = probes.RunningMean()
    for part in values.split(3):
        running.add(part)
    running.add(values[:0])
    found = running.estimate()
    low, high = stats.t.interval(0.95, 9, values.mean(), stats.sem(values))
    assert found.n == 10 and found.low.item() == pytest.approx(low, abs=1e-6)
    assert found.high.item() - found.low.item() == pytest.approx(high - low, rel=1e-9)
