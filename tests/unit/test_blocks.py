"""Attention and blocks against their equations; a few queries get the full answer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dtl_lib.layers import ALL, Attention, Block, ClassAttention, DotProduct, DropPath, Mlp, TalkingHeads
from tests.unit.fixed import noise, shaken

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
NARROW = [slice(0, 1), slice(0, 2), slice(2, 5), slice(4, None)]


class Products(TorchDispatchMode):
    """Counts products of matrices inside."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in PRODUCTS
        return func(*args, **(kwargs or {}))


def sum_of_cubes(x):
    return (x**3).sum()


class TestAttention:
    def test_dot_product_is_softmax_of_scaled_scores_times_v(self):
        q, k, v = (noise(2, 3, 5, 4, seed=seed) for seed in range(3))
        weights = (torch.einsum("bhqd, bhkd -> bhqk", q, k) / 4**0.5).softmax(dim=-1)
        torch.testing.assert_close(DotProduct()(q, k, v), torch.einsum("bhqk, bhkd -> bhqd", weights, v))
        assert not list(DotProduct().parameters())

    def test_talking_heads_by_hand(self):
        core = shaken(TalkingHeads(3))
        q, k, v = (noise(2, 3, 5, 4, seed=seed) for seed in range(3))
        scores = torch.einsum("bhqd, bhkd -> bhqk", q, k) / 4**0.5
        mixed = torch.einsum("gh, bhqk -> bgqk", core.before.weight, scores) + core.before.bias[:, None, None]
        softmax = mixed.softmax(dim=-1)
        after = torch.einsum("gh, bhqk -> bgqk", core.after.weight, softmax) + core.after.bias[:, None, None]
        torch.testing.assert_close(core.attention(q, k, stage="softmax"), softmax)
        torch.testing.assert_close(core.attention(q, k), after)
        torch.testing.assert_close(core(q, k, v), torch.einsum("bhqk, bhkd -> bhqd", after, v))
        torch.testing.assert_close(softmax.sum(dim=-1), torch.ones_like(softmax[..., 0]))

    def test_talking_heads_that_do_not_mix_are_dot_product(self):
        core = TalkingHeads(3).double()
        with torch.no_grad():
            for linear in (core.before, core.after):
                linear.weight.copy_(torch.eye(3))
                linear.bias.zero_()
        q, k, v = (noise(2, 3, 5, 4, seed=seed) for seed in range(3))
        torch.testing.assert_close(core(q, k, v), DotProduct()(q, k, v))

    @pytest.mark.parametrize("bias", [True, False])
    def test_against_torchs_own(self, bias):
        ours, x = shaken(Attention(12, 3, qkv_bias=bias)), noise(2, 6, 12)
        theirs = nn.MultiheadAttention(12, 3, batch_first=True, bias=True).double()
        with torch.no_grad():
            theirs.in_proj_weight.copy_(ours.qkv.weight)
            theirs.in_proj_bias.copy_(ours.qkv.bias if bias else torch.zeros(36))
            theirs.out_proj.load_state_dict(ours.project.state_dict())
        torch.testing.assert_close(ours(x), theirs(x, x, x)[0])

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("queries", NARROW)
    @pytest.mark.parametrize("core", [DotProduct(), TalkingHeads(3)])
    def test_a_few_queries_get_the_full_answer(self, bias, queries, core):
        attention, x = shaken(Attention(12, 3, bias, copy.deepcopy(core))), noise(2, 6, 12)
        torch.testing.assert_close(attention(x, queries), attention(x)[:, queries])

    def test_a_few_queries_give_the_same_gradients(self):
        x = noise(2, 6, 12)
        grads = []
        for narrow in (True, False):
            attention = shaken(Attention(12, 3))
            out = attention(x, slice(0, 2)) if narrow else attention(x)[:, :2]
            out.square().sum().backward()
            grads.append([parameter.grad for parameter in attention.parameters()])
        for a, b in zip(*grads):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("bias", [True, False])
    def test_training_asks_for_everything_in_one_product_and_gets_the_same(self, bias):
        attention, x = shaken(Attention(12, 3, bias)), noise(2, 6, 12)
        with torch.no_grad(), Products() as apart:
            three = attention(x)
        with Products() as together:
            one = attention(x)
        assert (apart.count, together.count) == (4, 2)  # with the projection
        torch.testing.assert_close(one, three)
        wholly, narrowly = (attention.project_qkv(x, queries) for queries in (ALL, slice(0, 6)))
        grads = [
            torch.autograd.grad(sum(map(sum_of_cubes, found)), attention.qkv.parameters())
            for found in (wholly, narrowly)
        ]
        for a, b in zip((*wholly, *grads[0]), (*narrowly, *grads[1])):
            torch.testing.assert_close(a, b)

    def test_who_keeps_queries_and_keys_without_gradients_keeps_no_values(self):
        with torch.no_grad():
            parts = Attention(12, 3).project_qkv(noise(2, 6, 12).float(), ALL)
        assert len({part.untyped_storage().data_ptr() for part in parts}) == 3

    def test_every_token_answers(self):
        attention, x = shaken(Attention(12, 3)), noise(1, 6, 12)
        before = attention(x, slice(0, 1))
        for token in range(6):
            moved = x.clone()
            moved[0, token] += 1
            assert not torch.allclose(attention(moved, slice(0, 1)), before)


class TestBlock:
    def test_is_its_two_equations(self):
        block, x = shaken(Block(12, 3, layer_scale=0.1)), noise(2, 6, 12)
        y = x + block.scale1.factor * block.attention(F.layer_norm(x, (12,), *block.norm1.parameters(), eps=1e-6))
        z = F.layer_norm(y, (12,), *block.norm2.parameters(), eps=1e-6)
        hidden = F.gelu(F.linear(z, *block.mlp.expand.parameters()))
        z = y + block.scale2.factor * F.linear(hidden, *block.mlp.contract.parameters())
        torch.testing.assert_close(block(x), z)

    @pytest.mark.parametrize("queries", NARROW)
    @pytest.mark.parametrize("options", [{}, {"layer_scale": 0.1}, {"core": TalkingHeads(3)}, {"qkv_bias": False}])
    def test_a_few_queries_get_the_full_answer(self, queries, options):
        block, x = shaken(copy.deepcopy(Block(12, 3, **options))), noise(2, 6, 12)
        torch.testing.assert_close(block(x, queries), block(x)[:, queries])

    def test_options_that_are_off_are_identities(self):
        block = Block(12, 3)
        assert all(isinstance(part, nn.Identity) for part in (block.scale1, block.scale2, block.drop_path))
        assert isinstance(Block(12, 3, drop_path=0.1).drop_path, DropPath)

    @pytest.mark.parametrize("eps", [1e-6, 1e-2])
    def test_norm_eps(self, eps):
        assert Block(12, 3, norm_eps=eps).norm1.eps == Block(12, 3, norm_eps=eps).norm2.eps == eps

    def test_mlp_ratio_rounds_down(self):
        assert Block(10, 1, mlp_ratio=2.56).mlp.expand.out_features == 25

    def test_the_mlp_sees_one_token_at_a_time(self):
        mlp, x = shaken(Mlp(12, 20)), noise(2, 6, 12)
        torch.testing.assert_close(mlp(x)[:, 3], mlp(x[:, 3]))

    def test_class_attention_leaves_the_others_untouched(self):
        block, x = shaken(ClassAttention(12, 3, queries=slice(0, 2))), noise(2, 7, 12)
        y = block(x)
        assert torch.equal(y[:, 2:], x[:, 2:])
        assert (y[:, :2] != x[:, :2]).all()
        torch.testing.assert_close(block(x, slice(0, 2)), y[:, :2])

    def test_class_attention_asks_with_its_queries_and_hears_all(self):
        plain = shaken(Block(12, 3, layer_scale=0.1))
        block = shaken(ClassAttention(12, 3, layer_scale=0.1, queries=slice(0, 1)))
        x = noise(2, 5, 12)
        torch.testing.assert_close(block(x)[:, :1], plain(x)[:, :1])
        for token in range(5):
            moved = x.clone()
            moved[:, token] += noise(12, seed=9)
            assert not torch.allclose(block(moved)[:, :1], block(x)[:, :1])


def test_all_is_the_whole_axis():
    assert torch.equal(noise(2, 3, 4)[:, ALL], noise(2, 3, 4))
