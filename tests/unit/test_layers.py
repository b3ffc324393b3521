"""The layers against what their equations say, written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dtl_lib.layers import Block, DropPath, LayerScale, PatchEmbed, initialise, interpolate_positions, sincos_positions
from tests.unit.fixed import noise, shaken


def sum_of_squares(x):
    return (x**2).sum()


class TestPatchEmbed:
    def test_a_convolution_is_unfolding_and_a_matrix(self):
        embed, images = shaken(PatchEmbed(4, 6, channels=2)), noise(3, 2, 8, 20)
        tokens = embed(images)
        assert tokens.shape == (3, 2, 5, 6)
        weight, bias = embed.project.weight.flatten(1), embed.project.bias
        pattern = "batch channels (rows high) (columns wide) -> batch rows columns (channels high wide)"
        by_einops = F.linear(rearrange(images, pattern, high=4, wide=4), weight, bias)
        by_unfold = F.linear(F.unfold(images, 4, stride=4).transpose(1, 2), weight, bias).unflatten(1, (2, 5))
        torch.testing.assert_close(tokens, by_einops)
        torch.testing.assert_close(tokens, by_unfold)

    def test_a_pixel_changes_its_own_patch_alone(self):
        embed, images = shaken(PatchEmbed(4, 6)), noise(1, 3, 12, 16)
        before = embed(images)
        images[0, 1, 9, 7] += 1
        changed = (embed(images) != before).any(dim=-1)[0]
        assert changed.nonzero().tolist() == [[2, 1]]


class TestPositions:
    def test_the_same_grid_is_the_same_tensor(self):
        positions = noise(3, 5, 8, dtype=torch.float32)
        assert interpolate_positions(positions, (3, 5)) is positions
        assert interpolate_positions(positions, (3, 5), offset=0.1) is positions
        assert interpolate_positions(positions, torch.Size((3, 5))) is positions

    @pytest.mark.parametrize("grid", [(7, 9), (2, 11), (14, 3)])
    def test_antialiased_bicubic(self, grid):
        positions = noise(6, 8, 4, dtype=torch.float32)
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
        positions = noise(6, 8, 4, dtype=torch.float32)
        scale = [(grid[0] + 0.1) / 6, (grid[1] + 0.1) / 8]
        reference = F.interpolate(positions.permute(2, 0, 1)[None], scale_factor=scale, mode="bicubic", antialias=False)
        ours = interpolate_positions(positions, grid, offset=0.1)
        assert ours.shape == (*grid, 4)
        torch.testing.assert_close(ours, reference[0].permute(1, 2, 0))
        by_size = F.interpolate(positions.permute(2, 0, 1)[None], size=grid, mode="bicubic")[0].permute(1, 2, 0)
        assert (ours - by_size).abs().max() > 1e-3

    @pytest.mark.parametrize("offset", [None, 0.1, 0.0])
    def test_every_grid_is_reached(self, offset):
        positions = noise(7, 7, 2, dtype=torch.float32)
        for rows in range(1, 40):
            assert interpolate_positions(positions, (rows, 40 - rows), offset).shape == (rows, 40 - rows, 2)

    def test_rows_and_columns_are_not_confused(self):
        ramp = torch.arange(6.0)[:, None, None].expand(6, 8, 1)
        wide = interpolate_positions(ramp, (6, 16))
        torch.testing.assert_close(wide, torch.arange(6.0)[:, None, None].expand(6, 16, 1), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_the_type_is_kept(self, dtype):
        assert interpolate_positions(noise(4, 4, 2, dtype=torch.float32).to(dtype), (5, 5)).dtype == dtype

    def test_gradients_pass(self):
        positions = noise(4, 4, 2, dtype=torch.float32).requires_grad_()
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
        with pytest.raises(ValueError, match=f"dim divisible by 4, not {dim}"):
            sincos_positions((2, 2), dim)


def test_layer_scale():
    scale, x = LayerScale(4, 1e-5), noise(2, 3, 4, dtype=torch.float32)
    assert torch.equal(scale(x), x * 1e-5)
    with torch.no_grad():
        scale.factor.copy_(torch.arange(4))
    assert torch.equal(scale(x), x * torch.arange(4))
    assert LayerScale(4, 1).factor.dtype == torch.float32


class TestDropPath:
    def test_is_the_identity_in_evaluation(self):
        x = noise(8, 3, 4, dtype=torch.float32)
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

    @pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
    def test_is_the_branch_times_kept_over_keep_to_the_last_bit(self, probability):
        x = noise(64, 3, 5, dtype=torch.float32).requires_grad_()
        torch.manual_seed(0)
        found = DropPath(probability)(x)
        torch.manual_seed(0)
        expected = x * ((torch.rand(64, 1, 1) < 1 - probability).float() / (1 - probability))
        assert torch.equal(found, expected)
        assert torch.equal(*(torch.autograd.grad(sum_of_squares(y), x)[0] for y in (found, expected)))

    def test_takes_one_pass_over_the_branch(self):
        seen, x = [], torch.ones(64, 3, 5)

        class Heartbeat(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                seen.extend([func] * (isinstance(out, torch.Tensor) and out.shape == x.shape))
                return out

        with Heartbeat():
            DropPath(0.5)(x)
        assert len(seen) == 1, seen

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
        block, x = shaken(Block(4, 1, drop_path=0.5)).train(), noise(400, 2, 4)
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
