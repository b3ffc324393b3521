"""Who gives attention to whom, against sums over every pair of tokens; and the smallest part of a map."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from dtl_lib import probes, record
from dtl_lib.tokens import TokenPlan
from tests.unit.loops import PLANS, attention, needs_tiny, prefix, real, streams
from tests.unit.small import SMALL, build, disturbed, images


def recorded(model, x):
    with torch.no_grad(), record(model) as tape:
        model(x)
    return tape


def names(model, block) -> list[str]:
    """The group of every token of a block, in order."""
    found = [g.name for g in model.plan.groups if g.present(block) for _ in range(g.tokens)]
    return found + ["patches"] * int(np.prod(model.config.grid))


def by_hand(model, stream, block) -> tuple[dict, dict]:
    """Given and received, `(batch, heads)` each, one pair of tokens at a time."""
    rows, groups = attention(model, block, stream), names(model, block)
    if block >= model.plan.depth:
        rows = rows[:, :, : len(model.config.head_names)]
    given, received, asking = {}, {}, groups[: rows.shape[2]]
    for query, of in enumerate(asking):
        for key, on in enumerate(groups):
            weight = rows[:, :, query, key]
            given[of, on] = given.get((of, on), 0) + weight / asking.count(of)
            received[on] = received.get(on, 0) + weight / len(asking)
    return given, received


def check(model, x, blocks, **how) -> None:
    tape, before = recorded(model, x), streams(model, x)
    found = probes.flow(tape)
    assert [one.block for one in found] == list(range(model.plan.blocks))
    for block in blocks:
        one, (given, received) = found[block], by_hand(model, before[block], block)
        assert set(one.given) == set(given) and list(one.received) == list(dict.fromkeys(names(model, block)))
        for key, value in given.items():
            np.testing.assert_allclose(one.given[key], value, **how)
        for key, value in received.items():
            np.testing.assert_allclose(one.received[key], value, **how)
        assert one.tokens == {name: names(model, block).count(name) for name in names(model, block)}


@pytest.mark.parametrize("name", PLANS)
def test_it_is_what_sums_over_all_pairs_find(name):
    check(build(PLANS[name]), images(SMALL), range(PLANS[name].plan.blocks), rtol=5e-6)


@needs_tiny
def test_it_is_right_with_real_weights():
    model, x = real((96, 160), batch=1)
    model = replaced_grid(model)
    check(model, x, (5,), rtol=1e-4)
    ten = probes.flow(recorded(model, x))[10]
    assert ten.received["cls"].mean() > 3 * 1 / 61, "late class tokens of a trained model get more than their share"


def replaced_grid(model):
    """The model with a configuration that says the size of its images, for counting."""
    model.config = replace(model.config, image_size=(96, 160))
    return model


def test_shares_are_of_everything():
    for one in probes.flow(recorded(build(PLANS["registers that enter and leave"]), images(SMALL))):
        torch.testing.assert_close(sum(one.received.values()), torch.ones(2, 3))
        for of in {of for of, _ in one.given}:
            torch.testing.assert_close(sum(one.given[of, on] for on in one.received), torch.ones(2, 3))
        total = sum(one.tokens.values())
        for on in one.received:
            mean = sum(one.tokens[of] * one.given[of, on] for of in one.tokens) / total
            torch.testing.assert_close(one.received[on], mean)


def test_what_is_given_agrees_with_share():
    tape = recorded(build(PLANS["registers that enter and leave"]), images(SMALL))
    torch.testing.assert_close(probes.flow(tape)[1].given["cls", "reg"], probes.share(tape, 1, on="reg"))


def test_registers_that_change_change_what_they_get():
    config = replace(SMALL, plan=TokenPlan.of(3, 0, 0, 4))
    model, x = build(config), images(config)
    before = probes.flow(recorded(model, x))
    with disturbed(model, 0, slice(1, 5)):
        after = probes.flow(recorded(model, x))
    assert before[0].received["reg"].equal(after[0].received["reg"])
    assert not torch.allclose(before[1].received["reg"], after[1].received["reg"], rtol=1e-3)


def test_of_the_last_block_every_query_is_needed():
    with torch.no_grad(), record(model := build(SMALL), all_queries=False) as tape:
        model(images(SMALL))
    with pytest.raises(ValueError, match="leave all_queries=False out"):
        probes.flow(tape)


class TestMass:
    def test_no_smaller_part_holds_as_much(self):
        maps = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(1))
        for share in (0.1, 0.5, 0.6, 0.9, 1.0):
            for values, mask in zip(maps, probes.mass(maps, share)):
                held, enough = values[mask].double().sum(), share * values.double().sum()
                assert held >= enough - 1e-9
                sums = [sum(part) for part in combinations(values.flatten().double().tolist(), int(mask.sum()) - 1)]
                assert not sums or max(sums) < enough

    def test_of_equal_values_the_first_are_taken_and_zeros_are_not(self):
        assert probes.mass(torch.ones(2, 3), 0.5).tolist() == [[True, True, True], [False, False, False]]
        assert probes.mass(torch.tensor([[0.0, 1.0, 2.0]]), 1.0).tolist() == [[False, True, True]]

    def test_each_map_has_its_own(self):
        maps = torch.tensor([[[8.0, 1.0, 1.0]], [[1.0, 1.0, 8.0]]])[:, None].expand(2, 3, 1, 3)
        mask = probes.mass(maps, 0.8)
        assert mask.shape == maps.shape and mask[0, 2].tolist() == [[True, False, False]]
        assert mask[1, 0].tolist() == [[False, False, True]]

    def test_it_lies_within_the_heaviest(self):
        maps = torch.randint(1, 4, (20, 4, 4), generator=torch.Generator().manual_seed(2)).float()
        mask, heaviest = probes.mass(maps, 0.4), probes.heaviest(maps, 0.4)
        assert (mask & ~heaviest).sum() == 0 and (heaviest & ~mask).any()

    @pytest.mark.parametrize(
        ("maps", "share", "said"),
        [
            ([[1.0, 2.0]], 0.0, "above 0 and at most 1"),
            ([[1.0, 2.0]], 60, "above 0 and at most 1"),
            ([[1.0, -2.0]], 0.5, "negative"),
            ([[1.0, float("nan")]], 0.5, "non-finite"),
            ([[0.0, 0.0]], 0.5, "0 everywhere"),
        ],
    )
    def test_bad_input(self, maps, share, said):
        with pytest.raises(ValueError, match=said):
            probes.mass(torch.tensor(maps), share)


def test_groups_are_counted_as_the_test_counts_them():
    model = build(PLANS["registers that enter and leave"])
    assert names(model, 1)[: prefix(model, 1)] == ["cls", *["reg"] * 4, *["late"] * 2]
