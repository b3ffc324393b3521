"""Wrong answers that the checkers of chapter 01 have to refuse."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dtl_lib import ViT
from dtl_lib.layers import interpolate_positions, sincos_positions


class DimSecond(nn.Module):
    stride = None

    def __init__(self, patch_size, dim, channels=3):
        super().__init__()
        self.project = nn.Conv2d(channels, dim, patch_size, stride=self.stride or patch_size)

    def forward(self, images):
        return self.project(images)


class OneAxis(DimSecond):
    def forward(self, images):
        return rearrange(self.project(images), "b d r s -> b (r s) d")


class Transposed(DimSecond):
    def forward(self, images):
        return rearrange(self.project(images), "b d r s -> b s r d")


class Reshaped(DimSecond):
    def forward(self, images):
        out = self.project(images)
        return out.reshape(len(out), *out.shape[2:], -1)


class Overlapping(DimSecond):
    stride = 1

    def forward(self, images):
        return rearrange(self.project(images), "b d r s -> b r s d")


class Detached(DimSecond):
    def forward(self, images):
        return rearrange(self.project(images).detach(), "b d r s -> b r s d")


class OtherName(nn.Module):
    def __init__(self, patch_size, dim, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, patch_size, stride=patch_size)

    def forward(self, images):
        return self.conv(images)


def _halves(grid, dim):
    return sincos_positions(grid, dim).chunk(2, dim=-1)


def columns_before_rows(grid, dim):
    return torch.cat(_halves(grid, dim)[::-1], dim=-1)


def added(grid, dim):
    row, column = _halves(grid, dim)
    return torch.cat([row + column] * 2, dim=-1)


def sines_of_both_first(grid, dim):
    a, b, c, d = sincos_positions(grid, dim).chunk(4, dim=-1)
    return torch.cat([a, c, b, d], dim=-1)


def alternating(grid, dim):
    parts = _halves(grid, dim)
    return torch.cat([rearrange(part, "r s (two f) -> r s (f two)", two=2) for part in parts], dim=-1)


def too_slow(grid, dim):
    frequency = 10_000.0 ** (-torch.arange(dim // 4) / (dim // 2))
    row, column = (torch.arange(length)[:, None] * frequency for length in grid)
    row, column = row[:, None].expand(*grid, -1), column[None].expand(*grid, -1)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=-1)


def flattened(grid, dim):
    return sincos_positions(grid, dim).flatten(0, 1)


def resized(**way):
    """Positions for another grid, in a way that is not the library's."""

    def wrong(positions, grid):
        return F.interpolate(positions.permute(2, 0, 1)[None], size=grid, **way)[0].permute(1, 2, 0)

    return wrong


aliased = resized(mode="bicubic")
bilinear = resized(mode="bilinear", antialias=True)
nearest = resized(mode="nearest")
aligned = resized(mode="bicubic", align_corners=True, antialias=True)


aligned_and_aliased = resized(mode="bicubic", align_corners=True)


def same_count(positions, grid):
    return positions if positions.shape[0] * positions.shape[1] == grid[0] * grid[1] else _resized(positions, grid)


def detached(positions, grid):
    return _resized(positions, grid).detach()


_resized = resized(mode="bicubic", antialias=True)


def rows_as_channels(positions, grid):
    return F.interpolate(positions[None], size=(grid[1], positions.shape[2]), mode="bicubic", antialias=True)[0]


def grid_swapped(positions, grid):
    return interpolate_positions(positions, grid[::-1])


def untouched():
    return ViT.build("vit_shapes_patch8_32")


def zero_but_learned():
    model = untouched()
    model.positions.data.zero_()
    return model


def fixed_instead():
    return ViT(untouched().config.__class__(32, 8, dim=64, depth=4, heads=4, classes=10, positions="sincos"))


def frozen_alone():
    model = untouched()
    model.positions.requires_grad_(False)
    return model


def all_frozen():
    return without_positions().requires_grad_(False)


def class_token_gone():
    model = without_positions()
    model.tokens["cls"].data.zero_()
    return model


def another_model():
    model = ViT.build("vit_cifar_patch4_32")
    model.positions.data.zero_()
    model.positions.requires_grad_(False)
    return model


def without_positions():
    model = zero_but_learned()
    model.positions.requires_grad_(False)
    return model


_once = without_positions()


def the_same_twice():
    return _once


def blind():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10).requires_grad_(False), nn.Threshold(1e9, 0.0))


def with_einops(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (r s) (p q c)", p=patch_size, q=patch_size)


def with_unfold(images, patch_size):
    columns = F.unfold(images, patch_size, stride=patch_size)
    return rearrange(columns, "b (c pixels) patches -> b patches (pixels c)", c=images.shape[1])


def strips(images, patch_size):
    b, c, h, w = images.shape
    return images.reshape(b, (h // patch_size) * (w // patch_size), -1)


def colours_first(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (r s) (c p q)", p=patch_size, q=patch_size)


def down_the_columns(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (s r) (p q c)", p=patch_size, q=patch_size)


def patch_transposed(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (r s) (q p c)", p=patch_size, q=patch_size)


def a_grid(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b r s (p q c)", p=patch_size, q=patch_size)


def back_as_square(patches, patch_size, rows):
    side = int(patches.shape[1] ** 0.5)
    return rearrange(
        patches[:, : side * side], "b (r s) (p q c) -> b c (r p) (s q)", r=side, p=patch_size, q=patch_size
    )


def back_by_the_root(patches, patch_size, rows):
    side = int(patches.shape[1] ** 0.5)
    return rearrange(patches, "b (r s) (p q c) -> b c (r p) (s q)", r=side, p=patch_size, q=patch_size)


def back_in_three_colours(patches, patch_size, rows):
    return rearrange(patches, "b (r s) (p q c) -> b c (r p) (s q)", r=rows, p=patch_size, q=patch_size, c=3)


def back_by_columns(patches, patch_size, rows):
    return rearrange(patches, "b (s r) (p q c) -> b c (r p) (s q)", r=rows, p=patch_size, q=patch_size)


def back_colours_first(patches, patch_size, rows):
    return rearrange(patches, "b (r s) (c p q) -> b c (r p) (s q)", r=rows, p=patch_size, q=patch_size)


def rows_and_columns_swapped(y, x, patch_size, width, in_front):
    return in_front + (x // patch_size) * (width // patch_size) + y // patch_size


def nothing_in_front(y, x, patch_size, width, in_front):
    return (y // patch_size) * (width // patch_size) + x // patch_size


def always_fourteen(y, x, patch_size, width, in_front):
    return in_front + (y // patch_size) * 14 + x // patch_size


def one_off(y, x, patch_size, width, in_front):
    return 1 + in_front + (y // patch_size) * (width // patch_size) + x // patch_size


def rounded(y, x, patch_size, width, in_front):
    return in_front + round(y / patch_size) * (width // patch_size) + round(x / patch_size)


def always_sixteen(y, x, patch_size, width, in_front):
    return in_front + (y // 16) * (width // 16) + x // 16


def a_fraction(y, x, patch_size, width, in_front):
    return in_front + (y // patch_size) * (width / patch_size) + x // patch_size


def width_first(positions, images, patch_size):
    grid = (images.shape[3] // patch_size, images.shape[2] // patch_size)
    return rearrange(interpolate_positions(positions, grid), "r c dim -> 1 (r c) dim")


def never_interpolated(positions, images, patch_size):
    return rearrange(positions, "r c dim -> 1 (r c) dim")


def no_batch_axis(positions, images, patch_size):
    grid = (images.shape[2] // patch_size, images.shape[3] // patch_size)
    return interpolate_positions(positions, grid).flatten(0, 1)


def cut_off(positions, images, patch_size):
    rows, columns = images.shape[2] // patch_size, images.shape[3] // patch_size
    wide = torch.cat([positions] * 2, dim=1)
    return wide[:rows, :columns].reshape(1, rows * columns, -1)


WRONG = {
    "check_my_patch_embed": [DimSecond, OneAxis, Transposed, Reshaped, Overlapping, OtherName, Detached],
    "check_my_positions": [columns_before_rows, added, sines_of_both_first, alternating, too_slow, flattened],
    "check_my_interpolate": [
        aliased, bilinear, nearest, aligned, aligned_and_aliased, rows_as_channels, grid_swapped, same_count, detached,
    ],
    "check_without_positions": [
        untouched, zero_but_learned, fixed_instead, frozen_alone, blind, all_frozen, class_token_gone, another_model,
        the_same_twice,
    ],
    "check_patchify": [
        strips, colours_first, down_the_columns, patch_transposed, a_grid, with_einops, with_unfold,
    ],
    "check_unpatchify": [
        back_as_square, back_by_the_root, back_in_three_colours, back_by_columns, back_colours_first,
    ],
    "check_token_of_pixel": [
        rows_and_columns_swapped, nothing_in_front, always_fourteen, one_off, rounded, always_sixteen, a_fraction,
    ],
    "check_positions_for": [width_first, never_interpolated, no_batch_axis, cut_off],
}  # fmt: skip
