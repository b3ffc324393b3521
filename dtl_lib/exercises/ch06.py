"""Checkers of chapter 06, Registers."""

import torch
from einops import rearrange

from ..config import ViTConfig
from ..tokens import TokenPlan
from . import exercise, expect, expect_close, expect_shape


@exercise
def check_enter_at(enter_at) -> None:
    """Blocks in which every token sees the mean of all and its own place; registers at the start, later, and last."""
    blocks = [lambda x, n=n: x + x.mean(dim=1, keepdim=True) + n * torch.arange(x.shape[1])[:, None] for n in (1, 2, 3)]
    torch.manual_seed(0)
    patches, registers = torch.randn(2, 6, 4), torch.randn(3, 4)
    for enter in (1, 0, 2):
        answer = enter_at(blocks, patches, registers, enter)
        expect(isinstance(answer, tuple | list) and len(answer) == 2, "return two things: patches and registers")
        out, reg = answer
        expect(tuple(out.shape) != (2, 3, 4), "the patches come first in what you return, then the registers")
        expect_shape(out, (2, 6, 4), "as many patches come out as went in: the registers do not stay among them")
        expect_shape(reg, (2, 3, 4), "every picture of the batch has registers of its own")
        expected = _entered(blocks, patches, registers, enter)
        one_late = _entered(blocks, patches, registers, enter + 1)
        expect(not torch.allclose(out, one_late[:, 3:]), f"registers that enter before block {enter} are in that block")
        early = _entered(blocks, patches, registers, 0)
        expect(enter == 0 or not torch.allclose(out, early[:, 3:]), f"before block {enter} the patches are alone")
        expect(not torch.allclose(reg, registers.expand(2, 3, 4)), "return what became of the registers")
        expect_close(out, expected[:, 3:], "registers stand in front; pack, run the rest of the blocks, unpack")
        expect_close(reg, expected[:, :3], "the registers are what comes out where they went in")


def _entered(blocks, patches, registers, enter):
    for number, block in enumerate(blocks):
        if number == enter:
            patches = torch.cat([registers.expand(len(patches), *registers.shape), patches], dim=1)
        patches = block(patches)
    if enter >= len(blocks):
        patches = torch.cat([registers.expand(len(patches), *registers.shape), patches], dim=1)
    return patches


@exercise
def check_patch_mean(patch_mean) -> None:
    """With a class token and registers, with neither, and with a group behind a name of its own."""
    torch.manual_seed(0)
    x = torch.randn(2, 9, 4)
    layout = {"cls": slice(0, 1), "reg": slice(1, 5), "patches": slice(5, None)}
    answer = patch_mean(x, layout)
    expect_shape(answer, (2, 4), "(batch, dim): a mean over tokens")
    expect(not torch.allclose(answer, x.mean(dim=1)), "that is the mean of every token")
    expect(not torch.allclose(answer, x[:, 1:].mean(dim=1)), "that mean has registers in it")
    expect_close(answer, x[:, 5:].mean(dim=1), "the mean of the patches and of nothing else")
    expect_close(patch_mean(x, {"patches": slice(0, None)}), x.mean(dim=1), "with patches alone, all of them count")
    late = {"guest": slice(0, 2), "patches": slice(2, None)}
    expect_close(patch_mean(x, late), x[:, 2:].mean(dim=1), "a group may have any name: ask the layout for the patches")


@exercise
def check_register_maps(register_maps) -> None:
    """Rows that can be told apart, a grid that is not square."""
    torch.manual_seed(0)
    layout = {"cls": slice(0, 1), "reg": slice(1, 3), "patches": slice(3, None)}
    attention = torch.rand(2, 3, 9, 9)
    answer = register_maps(attention, layout, (2, 3))
    expect_shape(answer, (2, 3, 2, 2, 3), "(batch, heads, tokens, rows, columns)")
    rows, columns = attention[:, :, 1:3, 3:], attention[:, :, 3:, 1:3].transpose(-2, -1)
    cut = "b h t (rows columns) -> b h t rows columns"
    by_column = rearrange(columns, cut, rows=2)
    expect(not torch.allclose(answer, by_column), "those are the columns: what the patches take from the registers")
    flipped = rearrange(rows, "b h t (columns rows) -> b h t rows columns", rows=2)
    expect(not torch.allclose(answer, flipped), "patches go row by row: (rows columns)")
    expect_close(answer, rearrange(rows, cut, rows=2), "the registers' rows, and of them the patches' places")


@exercise
def check_extra_work(extra_work) -> None:
    """ViT-Tiny's numbers and small ones, against the cost model."""
    for dim, depth, side, num_reg, reg_pos in ((192, 12, 14, 4, 0), (192, 12, 14, 16, 6), (8, 4, 3, 2, 3)):
        plain = ViTConfig(side * 2, 2, dim=dim, depth=depth, heads=1, classes=2)
        more = plain.with_plan(TokenPlan.of(depth, reg_pos=reg_pos, num_reg=num_reg)).cost().total
        expected, patches = more - plain.cost().total, side**2
        answer = extra_work(dim, depth, patches, num_reg, reg_pos)
        squares = 2 * ((1 + patches + num_reg) ** 2 - (1 + patches) ** 2) * dim
        whole = 12 * num_reg * dim**2 + squares
        last = 2 * num_reg * dim**2 + 2 * num_reg * dim
        expect(answer != (depth - reg_pos) * whole, "nearly: in the last block a register is a key and a value alone")
        no_last = (depth - 1 - reg_pos) * whole
        expect(answer != no_last, "nearly: in the last block a register still needs a key and a value")
        if no_last:
            expect(answer != no_last - (depth - 1 - reg_pos) * squares + last, "registers are queries and keys too")
        where = f"dim {dim}, depth {depth}, {patches} patches, {num_reg} registers at {reg_pos}"
        expect(answer == expected, f"{where}: {expected:,}, not {answer:,}")
