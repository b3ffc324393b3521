"""Wrong answers that the checkers of chapter 01 have to refuse."""

import torch
from einops import rearrange

from dtl_lib.layers import interpolate_positions


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
    "check_patchify": [strips, colours_first, down_the_columns, patch_transposed, a_grid],
    "check_unpatchify": [back_as_square, back_by_columns, back_colours_first],
    "check_token_of_pixel": [rows_and_columns_swapped, nothing_in_front, always_fourteen, one_off],
    "check_positions_for": [width_first, never_interpolated, no_batch_axis, cut_off],
}
