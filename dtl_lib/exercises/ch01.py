"""Checkers of chapter 01, Pictures to tokens."""

import torch
from einops import rearrange

from ..layers import interpolate_positions
from . import exercise, expect, expect_close, expect_shape


@exercise
def check_patchify(patchify) -> None:
    """Patches of images that are not square, with three channels that differ."""
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    patches = patchify(images, 2)
    expect_shape(patches, (2, 6, 12), "(batch, rows · columns, patch_size · patch_size · channels)")
    expected = rearrange(images, "b c (r p) (s q) -> b (r s) (p q c)", p=2, q=2)
    strips = images.reshape(2, 6, 12)
    expect(not torch.equal(patches, strips), "these are strips of pixels, not squares: split rows and columns first")
    colours_first = rearrange(images, "b c (r p) (s q) -> b (r s) (c p q)", p=2, q=2)
    expect(not torch.equal(patches, colours_first), "inside a patch the colours come last: pixel row, column, colour")
    by_column = rearrange(images, "b c (r p) (s q) -> b (s r) (p q c)", p=2, q=2)
    expect(not torch.equal(patches, by_column), "the patches run down the columns: row by row is the order")
    expect_close(patches, expected, "right numbers in wrong places: print a small image and its patches")


@exercise
def check_unpatchify(unpatchify) -> None:
    """Images back from patches, where rows and columns differ in number."""
    images = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    patches = rearrange(images, "b c (r p) (s q) -> b (r s) (p q c)", p=4, q=4)
    back = unpatchify(patches, 4, 2)
    expect_shape(back, (2, 3, 8, 12), "(batch, channels, height, width); there are `rows` rows of patches")
    expect_close(back, images, "the pixels are shuffled: split each axis as it was merged, in the same order")


@exercise
def check_token_of_pixel(token_of_pixel) -> None:
    """The index of a pixel's token, in pictures that are not square and behind tokens that are not patches."""
    expect(token_of_pixel(0, 0, 16, 224, 0) == 0, "the first pixel belongs to token 0")
    expect(token_of_pixel(17, 0, 16, 224, 0) == 14, "a row of 224 pixels has 14 patches of 16: row 1 begins at 14")
    expect(token_of_pixel(0, 17, 16, 320, 0) == 1, "one patch to the right is the next token")
    expect(token_of_pixel(20, 20, 16, 320, 0) == 21, "a row of 320 pixels has 20 patches: the width matters")
    expect(token_of_pixel(70, 70, 16, 224, 5) == 65, "tokens in front of the patches push every patch back")


@exercise
def check_positions_for(positions_for) -> None:
    """Positions for a wide picture and for the grid they were made for."""
    positions = torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(0))
    wide = positions_for(positions, torch.zeros(2, 3, 12, 24), 4)
    expect_shape(wide, (1, 18, 8), "(1, patches, dim): three rows of six patches, one batch axis to add along")
    expected = interpolate_positions(positions, (3, 6)).reshape(1, 18, 8)
    swapped = interpolate_positions(positions, (6, 3)).reshape(1, 18, 8)
    expect(not torch.allclose(wide, swapped), "height gives the rows and width the columns: yours are swapped")
    expect_close(wide, expected, "these are not the interpolated positions, row by row")
    same = positions_for(positions, torch.zeros(1, 3, 16, 16), 4)
    expect_close(same, positions.reshape(1, 16, 8), "on their own grid the positions stay as they are")
