"""The layers against what their equations say, written out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dtl_lib.layers import (
    ALL,
    Attention,
    Block,
    ClassAttention,
    DotProduct,
    DropPath,
    LayerScale,
    Mlp,
    PatchEmbed,
    TalkingHeads,
    initialise,
    interpolate_positions,
    sincos_positions,
)

NARROW = [slice(0, 1), slice(0, 2), slice(2, 5), slice(4, None)]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def shaken(module: nn.Module) -> nn.Module:
    """No parameter at a value where a mistake would not show, the same in every call, in float64."""
    module = module.double().eval()
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 + 0.3 * noise(*parameter.shape, seed=seed, dtype=torch.float64))
    return module


class TestPatchEmbed:
    def test_a_convolution_is_unfolding_and_a_matrix(self):
        embed, images = shaken(PatchEmbed(4, 6, channels=2)), noise(3, 2, 8, 20, dtype=torch.float64)
        tokens = embed(images)
        assert tokens.shape == (3, 2, 5, 6)
        weight, bias = embed.project.weight.flatten(1), embed.project.bias
        pattern = "batch channels (rows high) (columns wide) -> batch rows columns (channels high wide)"
        by_einops = F.linear(rearrange(images, pattern, high=4, wide=4), weight, bias)
        by_unfold = F.linear(F.unfold(images, 4, stride=4).transpose(1, 2), weight, bias).unflatten(1, (2, 5))
        torch.testing.assert_close(tokens, by_einops)
        torch.testing.assert_close(tokens, by_unfold)

    def test_a_pixel_changes_its_own_patch_alone(self):
        embed, images = shaken(PatchEmbed(4, 6)), noise(1, 3, 12, 16, dtype=torch.float64)
        before = embed(images)
        images[0, 1, 9, 7] += 1
        changed = (embed(images) != before).any(dim=-1)[0]
        assert changed.nonzero().tolist() == [[2, 1]]


class TestPositions:
    def test_the_same_grid_is_the_same_tensor(self):
        positions = noise(3, 5, 8)
        assert interpolate_positions(positions, (3, 5)) is positions
        assert interpolate_positions(positions, (3, 5), offset=0.1) is positions
        assert interpolate_positions(positions, torch.Size((3, 5))) is positions

    @pytest.mark.parametrize("grid", [(7, 9), (2, 11), (14, 3)])
    def test_antialiased_bicubic(self, grid):
        positions = noise(6, 8, 4)
        image = positions.permute(2, 0, 1)[None]
        reference = F.interpolate(image, size=grid, mode="bicubic", antialias=True, align_corners=False)
        torch.testing.assert_close(interpolate_positions(positions, grid), reference[0].permute(1, 2, 0))
        plain = F.interpolate(image, size=grid, mode="bicubic", antialias=False)[0].permute(1, 2, 0)
        if grid[0] < 6 or grid[1] < 8:
            assert (interpolate_positions(positions, grid) - plain).abs().max() > 0.01

    def test_antialiasing_removes_what_a_smaller_grid_cannot_hold(self):
        checks = ((torch.arange(16)[:, None] + torch.arange(16)[None]) % 2 * 2.0 - 1)[..., None]
        assert interpolate_positions(checks, (4, 4)).abs().max() < 0.05
        assert interpolate_positions(checks, (4, 4), offset=0.1).abs().max() > 0.2

    @pytest.mark.parametrize("grid", [(7, 9), (3, 4), (12, 5)])
    def test_dinov2s_way(self, grid):
        positions = noise(6, 8, 4)
        scale = [(grid[0] + 0.1) / 6, (grid[1] + 0.1) / 8]
        reference = F.interpolate(positions.permute(2, 0, 1)[None], scale_factor=scale, mode="bicubic", antialias=False)
        ours = interpolate_positions(positions, grid, offset=0.1)
        assert ours.shape == (*grid, 4)
        torch.testing.assert_close(ours, reference[0].permute(1, 2, 0))
        by_size = F.interpolate(positions.permute(2, 0, 1)[None], size=grid, mode="bicubic")[0].permute(1, 2, 0)
        assert (ours - by_size).abs().max() > 1e-3

    @pytest.mark.parametrize("offset", [None, 0.1, 0.0])
    def test_every_grid_is_reached(self, offset):
        positions = noise(7, 7, 2)
        for rows in range(1, 40):
            assert interpolate_positions(positions, (rows, 40 - rows), offset).shape == (rows, 40 - rows, 2)

    def test_rows_and_columns_are_not_confused(self):
        ramp = torch.arange(6.0)[:, None, None].expand(6, 8, 1)
        wide = interpolate_positions(ramp, (6, 16))
        torch.testing.assert_close(wide, torch.arange(6.0)[:, None, None].expand(6, 16, 1), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_the_type_is_kept(self, dtype):
        assert interpolate_positions(noise(4, 4, 2).to(dtype), (5, 5)).dtype == dtype

    def test_gradients_pass(self):
        positions = noise(4, 4, 2).requires_grad_()
        interpolate_positions(positions, (6, 3)).square().sum().backward()
        assert (positions.grad != 0).all()


class TestSinCos:
    def test_by_hand(self):
        positions = sincos_positions((3, 4), 8)
        assert positions.shape == (3, 4, 8)
        for row in range(3):
            for column in range(4):
                frequencies = torch.tensor([1.0, 0.01])  # 10000 ** (-0/2), 10000 ** (-1/2)
                angles = [row * frequencies, column * frequencies]
                expected = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
                torch.testing.assert_close(positions[row, column], torch.cat(expected))

    def test_all_have_one_length_and_differ(self):
        positions = sincos_positions((14, 14), 64).flatten(0, 1)
        torch.testing.assert_close(positions.norm(dim=-1), torch.full((196,), 32**0.5))
        assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 0.1

    def test_similarity_depends_on_the_shift_alone(self):
        positions = sincos_positions((9, 9), 32)
        here = torch.einsum("d, rcd -> rc", positions[2, 3], positions)[1:6, 1:6]
        moved = torch.einsum("d, rcd -> rc", positions[4, 6], positions)[3:8, 4:9]
        torch.testing.assert_close(here, moved)

    def test_a_larger_grid_begins_with_the_smaller(self):
        torch.testing.assert_close(sincos_positions((8, 9), 16)[:3, :5], sincos_positions((3, 5), 16))

    def test_temperature(self):
        assert not torch.allclose(sincos_positions((3, 3), 16, temperature=100.0), sincos_positions((3, 3), 16))

    @pytest.mark.parametrize("dim", [2, 6, 13])
    def test_a_dim_that_4_does_not_divide(self, dim):
        with pytest.raises(ValueError, match=f"dim that 4 divides, not {dim}"):
            sincos_positions((2, 2), dim)


class TestAttention:
    def test_dot_product_is_softmax_of_scaled_scores_times_v(self):
        q, k, v = (noise(2, 3, 5, 4, seed=seed, dtype=torch.float64) for seed in range(3))
        weights = (torch.einsum("bhqd, bhkd -> bhqk", q, k) / 4**0.5).softmax(dim=-1)
        torch.testing.assert_close(DotProduct()(q, k, v), torch.einsum("bhqk, bhkd -> bhqd", weights, v))
        assert not list(DotProduct().parameters())

    def test_talking_heads_by_hand(self):
        core = shaken(TalkingHeads(3))
        q, k, v = (noise(2, 3, 5, 4, seed=seed, dtype=torch.float64) for seed in range(3))
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
        q, k, v = (noise(2, 3, 5, 4, seed=seed, dtype=torch.float64) for seed in range(3))
        torch.testing.assert_close(core(q, k, v), DotProduct()(q, k, v))

    @pytest.mark.parametrize("bias", [True, False])
    def test_against_torchs_own(self, bias):
        ours, x = shaken(Attention(12, 3, qkv_bias=bias)), noise(2, 6, 12, dtype=torch.float64)
        theirs = nn.MultiheadAttention(12, 3, batch_first=True, bias=True).double()
        with torch.no_grad():
            theirs.in_proj_weight.copy_(ours.qkv.weight)
            theirs.in_proj_bias.copy_(ours.qkv.bias if bias else torch.zeros(36))
            theirs.out_proj.load_state_dict(ours.project.state_dict())
        torch.testing.assert_close(ours(x), theirs(x, x, x)[0])

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("rows", NARROW)
    @pytest.mark.parametrize("core", [DotProduct(), TalkingHeads(3)])
    def test_rows_are_those_of_the_full_answer(self, bias, rows, core):
        attention, x = shaken(Attention(12, 3, bias, copy.deepcopy(core))), noise(2, 6, 12, dtype=torch.float64)
        torch.testing.assert_close(attention(x, rows), attention(x)[:, rows])

    def test_rows_give_the_same_gradients(self):
        x = noise(2, 6, 12, dtype=torch.float64)
        grads = []
        for narrow in (True, False):
            attention = shaken(Attention(12, 3))
            out = attention(x, slice(0, 2)) if narrow else attention(x)[:, :2]
            out.square().sum().backward()
            grads.append([parameter.grad for parameter in attention.parameters()])
        for a, b in zip(*grads):
            torch.testing.assert_close(a, b)

    def test_every_token_answers(self):
        attention, x = shaken(Attention(12, 3)), noise(1, 6, 12, dtype=torch.float64)
        before = attention(x, slice(0, 1))
        for token in range(6):
            moved = x.clone()
            moved[0, token] += 1
            assert not torch.allclose(attention(moved, slice(0, 1)), before)


class TestBlock:
    def test_is_its_two_equations(self):
        block, x = shaken(Block(12, 3, layer_scale=0.1)), noise(2, 6, 12, dtype=torch.float64)
        y = x + block.scale1.factor * block.attention(F.layer_norm(x, (12,), *block.norm1.parameters(), eps=1e-6))
        z = F.layer_norm(y, (12,), *block.norm2.parameters(), eps=1e-6)
        hidden = F.gelu(F.linear(z, *block.mlp.expand.parameters()))
        z = y + block.scale2.factor * F.linear(hidden, *block.mlp.contract.parameters())
        torch.testing.assert_close(block(x), z)

    @pytest.mark.parametrize("rows", NARROW)
    @pytest.mark.parametrize("options", [{}, {"layer_scale": 0.1}, {"core": TalkingHeads(3)}, {"qkv_bias": False}])
    def test_rows_are_those_of_the_full_answer(self, rows, options):
        block, x = shaken(copy.deepcopy(Block(12, 3, **options))), noise(2, 6, 12, dtype=torch.float64)
        torch.testing.assert_close(block(x, rows), block(x)[:, rows])

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
        mlp, x = shaken(Mlp(12, 20)), noise(2, 6, 12, dtype=torch.float64)
        torch.testing.assert_close(mlp(x)[:, 3], mlp(x[:, 3]))

    def test_class_attention_leaves_the_others_untouched(self):
        block, x = shaken(ClassAttention(12, 3, rows=slice(0, 2))), noise(2, 7, 12, dtype=torch.float64)
        y = block(x)
        assert torch.equal(y[:, 2:], x[:, 2:])
        assert (y[:, :2] != x[:, :2]).all()
        torch.testing.assert_close(block(x, slice(0, 2)), y[:, :2])

    def test_class_attention_asks_with_its_rows_and_hears_all(self):
        plain = shaken(Block(12, 3, layer_scale=0.1))
        block = shaken(ClassAttention(12, 3, layer_scale=0.1, rows=slice(0, 1)))
        x = noise(2, 5, 12, dtype=torch.float64)
        torch.testing.assert_close(block(x)[:, :1], plain(x)[:, :1])
        for token in range(5):
            moved = x.clone()
            moved[:, token] += noise(12, seed=9, dtype=torch.float64)
            assert not torch.allclose(block(moved)[:, :1], block(x)[:, :1])


def test_layer_scale():
    scale, x = LayerScale(4, 1e-5), noise(2, 3, 4)
    assert torch.equal(scale(x), x * 1e-5)
    with torch.no_grad():
        scale.factor.copy_(torch.arange(4))
    assert torch.equal(scale(x), x * torch.arange(4))
    assert LayerScale(4, 1).factor.dtype == torch.float32


class TestDropPath:
    def test_is_the_identity_in_evaluation(self):
        x = noise(8, 3, 4)
        assert DropPath(0.9).eval()(x) is x

    @pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
    def test_drops_whole_samples_and_keeps_the_mean(self, probability):
        torch.manual_seed(0)
        samples = 20_000
        kept = DropPath(probability)(torch.ones(samples, 2, 3)).flatten(1)
        assert (kept == kept[:, :1]).all()
        keep = 1 - probability
        torch.testing.assert_close(kept[:, 0].unique(), torch.tensor([0, 1 / keep]))
        spread = (probability * keep / samples) ** 0.5
        assert abs(float((kept[:, 0] > 0).float().mean()) - keep) < 4 * spread

    def test_the_seed_decides(self):
        drop, x = DropPath(0.5), torch.ones(64, 2, 3)
        out = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            out.append(drop(x))
        assert torch.equal(out[0], out[1])
        assert not torch.equal(out[0], out[2])

    def test_the_two_branches_of_a_block_are_dropped_apart(self):
        torch.manual_seed(0)
        block, x = shaken(Block(4, 1, drop_path=0.5)).train(), noise(400, 2, 4, dtype=torch.float64)
        untouched = (block(x) == x).flatten(1).all(dim=1).double().mean()
        assert 0.17 < untouched < 0.33  # both dropped: a quarter

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_the_type_is_kept(self, dtype):
        assert DropPath(0.5)(torch.ones(4, 2, 3, dtype=dtype)).dtype == dtype

    @pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5, float("nan")])
    def test_what_is_no_probability(self, probability):
        with pytest.raises(ValueError, match="from 0 to below 1"):
            DropPath(probability)


class TestInitialise:
    def test_linear(self):
        torch.manual_seed(0)
        linear = nn.Linear(400, 500)
        initialise(linear)
        assert abs(float(linear.weight.detach().std()) - 0.02) < 3e-4
        assert not linear.bias.any()

    def test_patches_are_lecun_normal(self):
        torch.manual_seed(0)
        embed = PatchEmbed(8, 400)
        initialise(embed.project)
        weight = embed.project.weight.detach()
        assert abs(float(weight.std()) * (3 * 8 * 8) ** 0.5 - 1) < 0.02
        assert float(weight.abs().max()) <= 2 / 0.8796 * (3 * 8 * 8) ** -0.5 + 1e-6
        assert not embed.project.bias.any()

    def test_what_is_neither_stays(self):
        norm = nn.LayerNorm(4)
        initialise(norm)
        assert torch.equal(norm.weight, torch.ones(4))


def test_all_rows_is_the_whole_axis():
    assert torch.equal(noise(2, 3, 4)[:, ALL], noise(2, 3, 4))
