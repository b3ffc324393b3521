"""Checkers of chapter 01, Pictures to tokens."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..layers import PatchEmbed, interpolate_positions, sincos_positions
from ..models import ViT
from . import exercise, expect, expect_close, expect_fresh, expect_learns, expect_shape, give_weights, refuse_mistakes


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@exercise
def check_my_patch_embed(my_patch_embed) -> None:
    """The library's layer with the same random weights, on images that are not square, of two channels."""
    answer, library = my_patch_embed(4, 6, channels=2), PatchEmbed(4, 6, channels=2)
    give_weights(answer, library)
    images = _random(3, 2, 8, 12)
    with torch.no_grad():
        tokens, expected = answer(images), library(images)
        expect(isinstance(tokens, Tensor), f"return a tensor, not {type(tokens).__name__}")
        grid = "keep the grid: (batch, rows, columns, dim), not one axis for all patches"
        expect(tuple(tokens.shape) != (3, 6, 6), grid)
        last = "the convolution puts dim second: move it to the end, (batch, rows, columns, dim)"
        expect(tuple(tokens.shape) != (3, 6, 2, 3), last)
        overlapping = "the windows overlap: the stride is as long as the patch"
        expect(tokens.numel() == expected.numel(), f"{overlapping}; the shape is {tuple(tokens.shape)}")
        expect_shape(tokens, (3, 2, 3, 6), "(batch, rows, columns, dim): height gives the rows, width the columns")
        expect_close(tokens, expected, "right shape, wrong numbers: move axes with rearrange or permute, not reshape")
    expect_learns(answer(images), dict(answer.named_parameters()))


@exercise
def check_my_positions(my_positions) -> None:
    """A grid that is not square, each place by itself."""
    expected = sincos_positions((3, 5), 16)
    positions = my_positions((3, 5), 16)
    expect_shape(positions, (3, 5, 16), "(rows, columns, dim)")
    row, column = expected[..., :8], expected[..., 8:]
    swapped = "the first half of the channels is for the row, the second for the column: yours are swapped"
    scale = {
        "row": torch.arange(3)[:, None, None] * torch.ones(1, 5, 1),
        "column": torch.arange(5)[:, None].expand(3, 5, 1),
    }
    slow = [place * 10_000.0 ** (-torch.arange(4) / 8) for place in scale.values()]
    mistakes = {
        swapped: torch.cat([column, row], dim=-1),
        "row and column are added: each has channels of its own, so join them": torch.cat([row + column] * 2, dim=-1),
        "sines of both come first here: all of the row's channels come before the column's": torch.cat(
            [row[..., :4], column[..., :4], row[..., 4:], column[..., 4:]], dim=-1
        ),
        "sine and cosine alternate here: the sines of a line come first, then its cosines": torch.cat(
            [torch.stack(part.chunk(2, -1), -1).flatten(-2) for part in (row, column)], dim=-1
        ),
        "the frequencies fall too slowly: a line of dim / 2 channels has dim / 4 of them": torch.cat(
            [wave for angle in slow for wave in (angle.sin(), angle.cos())], dim=-1
        ),
    }
    refuse_mistakes(positions, mistakes)
    expect_close(positions, expected, "not the sines and cosines of row and column: compare one place with the line's")


@exercise
def check_my_interpolate(my_interpolate) -> None:
    """Shrunk, stretched, and to as many places in another shape, on grids that are not square."""
    positions = _random(8, 6, 5).requires_grad_()
    image = positions.detach().permute(2, 0, 1)[None]
    for grid, word in (((3, 4), "shrunk"), ((10, 9), "stretched"), ((12, 4), "changed")):
        new = my_interpolate(positions, grid)
        expect_shape(new, (*grid, 5), f"(rows, columns, dim) of the new grid, {word} from (8, 6, 5)")
        ways = {
            "bilinear, not bicubic": {"mode": "bilinear", "antialias": True},
            "bilinear and not antialiased: mode='bicubic', antialias=True": {"mode": "bilinear"},
            "the nearest places: mode='bicubic', antialias=True": {"mode": "nearest"},
            "bicubic, but corners are aligned: leave align_corners alone": {
                "mode": "bicubic",
                "align_corners": True,
                "antialias": True,
            },
            "bicubic, but corners are aligned and nothing is smoothed: antialias=True alone": {
                "mode": "bicubic",
                "align_corners": True,
            },
        }
        mistakes = {f"these are {hint}": F.interpolate(image, size=grid, **way) for hint, way in ways.items()}
        if word != "stretched":
            mistakes["shrinking needs smoothing: antialias=True"] = F.interpolate(image, size=grid, mode="bicubic")
        refuse_mistakes(new, {hint: wrong[0].permute(1, 2, 0) for hint, wrong in mistakes.items()})
        turned = interpolate_positions(positions.detach(), grid[::-1])
        refuse_mistakes(new, {"rows and columns of the new grid are swapped": turned.transpose(0, 1)})
        axes = "not the library's positions: dim has to be the channels, rows the height and columns the width"
        expect_close(new, interpolate_positions(positions.detach(), grid), axes)
        expect_learns(new, {"positions": positions})


@exercise
def check_without_positions(without_positions) -> None:
    """Whatever its weights become, the model does not see the patches change places."""
    model = without_positions()
    expect(isinstance(model, nn.Module), f"return the model, not {type(model).__name__}")
    expect_fresh(without_positions)
    plain = dict(ViT.build("vit_shapes_patch8_32").named_parameters())
    values = {name: value for name, value in model.named_parameters() if name != "positions"}
    shapes = {name: value.shape for name, value in plain.items() if name != "positions"}
    same = {name: value.shape for name, value in values.items()} == shapes
    expect(same, "the model is vit_shapes_patch8_32, without positions and with nothing else changed")
    for name, value in values.items():
        expect(value.requires_grad, f"{name} is frozen, too: only the positions are to stay as they are")
        expect(bool(value.any()) or not plain[name].any(), f"{name} is zero, too: only the positions are to go")
    images = _random(2, 3, 32, 32)
    size = 8
    patches = rearrange(images, "b c (r p) (s q) -> b (r s) c p q", p=size, q=size)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    mixed = rearrange(patches[:, order], "b (r s) c p q -> b c (r p) (s q)", r=4)
    generator = torch.Generator().manual_seed(0)

    def sees() -> bool:
        return not torch.allclose(model(images), model(mixed), atol=1e-4)

    with torch.no_grad():
        expect(not sees(), "the logits change when patches change places: the model still has positions")
        kept = [parameter.clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        learns = "the positions are zero now, but training would move them: model.positions.requires_grad_(False)"
        expect(not sees(), learns)
        expect(not torch.allclose(model(images[:1]), model(images[1:]), atol=1e-4), "the model no longer sees images")
        for parameter, value in zip(model.parameters(), kept):
            parameter.copy_(value)


@exercise
def check_patchify(patchify) -> None:
    """Patches of images that are not square, with three channels that differ."""
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    used = _names(patchify)
    for other in ("rearrange", "unfold", "Unfold", "as_strided"):
        expect(other not in used, f"reshape and permute are enough: without {other}")
    patches = patchify(images, 2)
    expect_shape(patches, (2, 6, 12), "(batch, rows · columns, patch_size · patch_size · channels)")
    expected = rearrange(images, "b c (r p) (s q) -> b (r s) (p q c)", p=2, q=2)
    strips = images.reshape(2, 6, 12)
    expect(not torch.equal(patches, strips), "these are strips of pixels, not squares: split rows and columns first")
    colours_first = rearrange(images, "b c (r p) (s q) -> b (r s) (c p q)", p=2, q=2)
    expect(not torch.equal(patches, colours_first), "inside a patch the colours come last: pixel row, column, colour")
    by_column = rearrange(images, "b c (r p) (s q) -> b (s r) (p q c)", p=2, q=2)
    expect(not torch.equal(patches, by_column), "the patches run down the columns: row by row is the order")
    sideways = rearrange(images, "b c (r p) (s q) -> b (r s) (q p c)", p=2, q=2)
    expect(not torch.equal(patches, sideways), "each patch is transposed: its pixels run row by row")
    expect_close(patches, expected, "right numbers in wrong places: print a small image and its patches")


@exercise
def check_unpatchify(unpatchify) -> None:
    """Images back from patches, where rows and columns differ in number."""
    images = torch.randn(2, 2, 8, 32, generator=torch.Generator().manual_seed(0))
    patches = rearrange(images, "b c (r p) (s q) -> b (r s) (p q c)", p=4, q=4)
    back = unpatchify(patches, 4, 2)
    shape = "(batch, channels, height, width); there are `rows` rows of patches, and here two channels"
    expect_shape(back, (2, 2, 8, 32), shape)
    by_column = rearrange(patches, "b (s r) (p q c) -> b c (r p) (s q)", r=2, p=4, q=4)
    colours_first = rearrange(patches, "b (r s) (c p q) -> b c (r p) (s q)", r=2, p=4, q=4)
    mistakes = {
        "the patches are laid down the columns: they run row by row": by_column,
        "inside a patch the colours come last: pixel row, pixel column, colour": colours_first,
    }
    refuse_mistakes(back, mistakes)
    expect_close(back, images, "the pixels are shuffled: split each axis as it was merged, in the same order")


@exercise
def check_token_of_pixel(token_of_pixel) -> None:
    """The index of a pixel's token, in images that are not square and behind tokens that are not patches."""
    expect(token_of_pixel(0, 0, 16, 224, 0) == 0, "the first pixel belongs to token 0 where nothing stands in front")
    expect(token_of_pixel(17, 0, 16, 224, 0) != 1, "y counts rows and x columns: one patch down is a whole row on")
    expect(token_of_pixel(17, 0, 16, 224, 0) == 14, "a row of 224 pixels has 14 patches of 16: row 1 begins at 14")
    expect(token_of_pixel(0, 17, 16, 320, 0) == 1, "one patch to the right is the next token")
    expect(token_of_pixel(20, 20, 16, 320, 0) == 21, "a row of 320 pixels has 20 patches: the width matters")
    expect(token_of_pixel(70, 70, 16, 224, 5) == 65, "tokens in front of the patches push every patch back")
    expect(token_of_pixel(31, 31, 16, 224, 0) == 15, "pixels 16 to 31 belong to patch 1: round down, with //")
    expect(token_of_pixel(9, 9, 8, 32, 1) == 6, "patches need not have 16 pixels: patch_size matters")
    index = token_of_pixel(9, 9, 8, 32, 1)
    expect(hasattr(index, "__index__"), f"an index is a whole number, not {type(index).__name__}: divide with //")


@exercise
def check_positions_for(positions_for) -> None:
    """Positions for a wide image and for the grid they were made for."""
    positions = torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(0))
    wide = positions_for(positions, torch.zeros(2, 3, 12, 24), 4)
    expect_shape(wide, (1, 18, 8), "(1, patches, dim): three rows of six patches, one batch axis to add along")
    expected = interpolate_positions(positions, (3, 6)).reshape(1, 18, 8)
    swapped = interpolate_positions(positions, (6, 3)).reshape(1, 18, 8)
    expect(not torch.allclose(wide, swapped), "height gives the rows and width the columns: yours are swapped")
    expect_close(wide, expected, "these are not the interpolated positions, row by row")
    same = positions_for(positions, torch.zeros(1, 3, 16, 16), 4)
    expect_close(same, positions.reshape(1, 16, 8), "on their own grid the positions stay as they are")


def _names(function) -> set[str]:
    """The names that a function, and functions written inside it, look up."""
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    found: set[str] = set()
    waiting = [code] if code is not None else []
    while waiting:
        part = waiting.pop()
        found |= {*part.co_names, *part.co_freevars}
        waiting += [constant for constant in part.co_consts if hasattr(constant, "co_names")]
    return found
