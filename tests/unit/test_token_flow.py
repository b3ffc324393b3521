"""Tokens that enter and leave do so for real, and the classifier reads what it should: over random plans."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dtl_lib.models import enter_and_leave
from dtl_lib.tokens import PATCHES, Group, TokenPlan
from tests.unit.fixed import noise
from tests.unit.small import SMALL, block_inputs, build, disturbed, images
from tests.unit.strategies import configs

some = settings(max_examples=40, deadline=None)


class TestTokensEnterAndLeave:
    @some
    @given(configs())
    def test_a_token_cannot_act_before_it_enters(self, config):
        model, x = build(config), images(config)
        for group in config.plan.groups:
            changed = copy.deepcopy(model)
            with torch.no_grad():
                changed.tokens[group.name].add_(noise(*changed.tokens[group.name].shape, seed=7))
            with block_inputs(model) as before, block_inputs(changed) as after:
                model(x), changed(x)
            for block in range(group.enter):
                assert torch.equal(before[block], after[block])
            where = config.plan.layout(group.enter)[group.name]
            differ = (before[group.enter] != after[group.enter]).any(dim=-1)
            assert differ[:, where].all() and differ.sum() == differ[:, where].numel()

    @some
    @given(configs())
    def test_every_block_is_given_what_the_plan_says(self, config):
        model, x = build(config), images(config)
        with block_inputs(model) as given_to:
            model(x)
        rows, columns = config.grid
        for block, stream in enumerate(given_to):
            assert stream.shape == (2, config.plan.tokens(block) + rows * columns, config.dim)
            for group in config.plan.groups:
                if group.enter == block:
                    there = stream[:, config.plan.layout(block)[group.name]]
                    assert torch.equal(there, model.learned()[group.name].expand_as(there))

    @some
    @given(configs(), st.data())
    def test_a_token_cannot_act_after_it_has_left(self, config, data):
        leaving = [group for group in config.plan.groups if group.leave is not None]
        assume(leaving)
        group, model, x = data.draw(st.sampled_from(leaving)), build(config), images(config)
        model.all_queries = True
        before = model(x)
        where = config.plan.layout(group.leave - 1)[group.name]
        with disturbed(model, group.leave - 1, where):
            torch.testing.assert_close(model(x), before, rtol=0, atol=0)
            assert group.name not in model.features(x).tokens

    def test_a_token_that_stays_does_act(self):
        plan = TokenPlan(3, (Group("cls", 1), Group("reg", 2, 0, 2)))
        model, x = build(replace(SMALL, plan=plan)), images(SMALL)
        before = model(x)
        with disturbed(model, 0, plan.layout(0)["reg"]):
            assert not torch.allclose(model(x), before)

    @some
    @given(configs(), st.data())
    def test_enter_and_leave(self, config, data):
        model, plan = build(config), config.plan
        block = data.draw(st.integers(1, plan.blocks))
        now, then = plan.layout(block - 1), plan.final if block == plan.blocks else plan.layout(block)
        x = noise(2, now[PATCHES].start + 6, config.dim)
        y = enter_and_leave(x, now, then, model.tokens)
        assert y.shape[1] == then[PATCHES].start + 6
        for name, where in then.items():
            origin = x[:, now[name]] if name in now else model.tokens[name].expand(2, -1, -1)
            assert torch.equal(y[:, where], origin)


class TestTheHead:
    @some
    @given(configs())
    def test_only_rows_the_head_reads_matter_after_the_last_block(self, config):
        model, x, last = build(config), images(config), config.plan.blocks - 1
        model.all_queries = True
        before = model(x)
        read = config.plan.final if config.pool_prefix else config.head_names
        for name, where in config.plan.layout(last).items():
            with disturbed(model, last, where):
                assert torch.equal(model(x), before) == (name not in read)

    @some
    @given(configs())
    def test_the_narrow_last_block_changes_nothing(self, config):
        model, x = build(config), images(config)
        rows = []
        hook = model.blocks[-1].register_forward_hook(lambda module, args, output: rows.append(output.shape[1]))
        narrow = model.heads(x)
        model.all_queries = True
        for a, b in zip(narrow, model.heads(x)):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        hook.remove()
        full = config.plan.tokens(config.plan.blocks - 1) + config.grid[0] * config.grid[1]
        assert rows == [len(config.head_names) if config.pool == "cls" else full, full]

    @pytest.mark.parametrize("after", [False, True])
    def test_the_mean_is_of_patches(self, after):
        plan = TokenPlan.of(3, cls_pos=0, reg_pos=1, num_reg=2)
        model = build(replace(SMALL, plan=plan, pool="patches", norm_after_pool=after))
        x = images(SMALL)
        stream, _ = model.encode(x)
        mean = model.norm(stream[:, 3:].mean(dim=1)) if after else model.norm(stream[:, 3:]).mean(dim=1)
        torch.testing.assert_close(model(x), model.classifiers["patches"](mean))

    def test_two_heads_and_their_mean(self):
        model, x = build(replace(SMALL, plan=TokenPlan.of(3, cls_pos=1, dist=True))), images(SMALL)
        cls, dist = model.heads(x)
        torch.testing.assert_close(model(x), (cls + dist) / 2)
        features = model.features(x)
        torch.testing.assert_close(cls, model.classifiers["cls"](features.cls[:, 0]))
        torch.testing.assert_close(dist, model.classifiers["dist"](features.dist[:, 0]))
        assert not torch.allclose(cls, dist)

    def test_without_classes_the_token_itself(self):
        model, x = build(replace(SMALL, classes=0)), images(SMALL)
        torch.testing.assert_close(model(x), model.features(x).cls[:, 0])
        assert not list(model.classifiers.parameters())
