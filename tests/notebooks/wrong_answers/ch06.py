"""Wrong answers that the checkers of chapter 06 have to refuse."""

import torch
from einops import rearrange


def _run(blocks, patches, registers, enter, behind=False):
    reg = registers.expand(len(patches), *registers.shape)
    for number, block in enumerate(blocks):
        if number == enter:
            patches = torch.cat([patches, reg] if behind else [reg, patches], dim=1)
        patches = block(patches)
    return patches


def registers_stay(blocks, patches, registers, enter):
    return _run(blocks, patches, registers, enter), registers.expand(len(patches), *registers.shape)


def behind_the_patches(blocks, patches, registers, enter):
    x, n = _run(blocks, patches, registers, enter, behind=True), patches.shape[1]
    return x[:, :n], x[:, n:]


def never_met(blocks, patches, registers, enter):
    reg = registers.expand(len(patches), *registers.shape)
    for block in blocks:
        patches, reg = block(patches), block(reg)
    return patches, reg


def other_way_round(blocks, patches, registers, enter):
    x, n = _run(blocks, patches, registers, enter), len(registers)
    return x[:, :n], x[:, n:]


def as_they_were(blocks, patches, registers, enter):
    x, n = _run(blocks, patches, registers, enter), len(registers)
    return x[:, n:], registers.expand(len(patches), *registers.shape)


def patches_alone(blocks, patches, registers, enter):
    return _run(blocks, patches, registers, enter)[:, len(registers) :]


def from_the_start(blocks, patches, registers, enter):
    x, n = _run(blocks, patches, registers, 0), len(registers)
    return x[:, n:], x[:, :n]


def one_block_late(blocks, patches, registers, enter):
    x, n = _run(blocks, patches, registers, min(enter + 1, len(blocks) - 1)), len(registers)
    return x[:, n:], x[:, :n]


def mean_of_all(x, layout):
    return x.mean(dim=1)


def without_the_first(x, layout):
    return x[:, 1:].mean(dim=1)


def last_four(x, layout):
    return x[:, -4:].mean(dim=1)


def over_the_batch(x, layout):
    return x[:, layout["patches"]].mean(dim=0)


def without_known_names(x, layout):
    return x[:, max(layout[name].stop for name in ("cls", "reg") if name in layout) if "cls" in layout else 0 :].mean(
        dim=1
    )


CUT = "b h t (rows columns) -> b h t rows columns"


def columns_instead(attention, layout, grid):
    return rearrange(attention[:, :, layout["patches"], layout["reg"]].transpose(-2, -1), CUT, rows=grid[0])


def grid_flipped(attention, layout, grid):
    maps = attention[:, :, layout["reg"], layout["patches"]]
    return rearrange(maps, "b h t (columns rows) -> b h t rows columns", rows=grid[0])


def grid_swapped(attention, layout, grid):
    return rearrange(attention[:, :, layout["reg"], layout["patches"]], CUT, rows=grid[1])


def of_the_class_token(attention, layout, grid):
    maps = attention[:, :, layout["cls"], layout["patches"]].expand(-1, -1, 2, -1)
    return rearrange(maps, CUT, rows=grid[0])


def mean_over_heads(attention, layout, grid):
    maps = attention[:, :, layout["reg"], layout["patches"]].mean(dim=1, keepdim=True)
    return rearrange(maps, CUT, rows=grid[0])


def _whole(dim, patches, num_reg, squares=True):
    products = 2 * ((1 + patches + num_reg) ** 2 - (1 + patches) ** 2) * dim
    return 12 * num_reg * dim**2 + squares * products


def last_block_whole(dim, depth, patches, num_reg, reg_pos):
    return (depth - reg_pos) * _whole(dim, patches, num_reg)


def last_block_free(dim, depth, patches, num_reg, reg_pos):
    return (depth - 1 - reg_pos) * _whole(dim, patches, num_reg)


def no_products(dim, depth, patches, num_reg, reg_pos):
    last = 2 * num_reg * dim**2 + 2 * num_reg * dim
    return (depth - 1 - reg_pos) * _whole(dim, patches, num_reg, squares=False) + last


def from_block_0(dim, depth, patches, num_reg, reg_pos):
    return (depth - 1) * _whole(dim, patches, num_reg) + 2 * num_reg * dim**2 + 2 * num_reg * dim


WRONG = {
    "check_enter_at": [
        registers_stay, behind_the_patches, never_met, other_way_round, as_they_were, patches_alone, from_the_start,
        one_block_late,
    ],
    "check_patch_mean": [mean_of_all, without_the_first, last_four, over_the_batch, without_known_names],
    "check_register_maps": [columns_instead, grid_flipped, grid_swapped, of_the_class_token, mean_over_heads],
    "check_extra_work": [last_block_whole, last_block_free, no_products, from_block_0],
}  # fmt: skip
