"""Wrong answers that the checkers of chapter 06 have to refuse."""

import torch
from einops import rearrange

from dtl_lib import TokenPlan, ViT


def _run(blocks, patches, registers, behind=False):
    reg = registers.expand(len(patches), *registers.shape)
    x = torch.cat([patches, reg] if behind else [reg, patches], dim=1)
    for block in blocks:
        x = block(x)
    return x


def registers_stay(blocks, patches, registers):
    return _run(blocks, patches, registers)


def behind_the_patches(blocks, patches, registers):
    return _run(blocks, patches, registers, behind=True)[:, : patches.shape[1]]


def never_met(blocks, patches, registers):
    for block in blocks:
        patches = block(patches)
    return patches


def registers_alone(blocks, patches, registers):
    return _run(blocks, patches, registers)[:, : len(registers)]


def first_tokens(blocks, patches, registers):
    return _run(blocks, patches, registers)[:, : patches.shape[1]]


def both(blocks, patches, registers):
    x = _run(blocks, patches, registers)
    return x[:, len(registers) :], x[:, : len(registers)]


def one_for_the_batch(blocks, patches, registers):
    return torch.cat([registers, patches], dim=1)


def joined_again(blocks, patches, registers):
    for block in blocks:
        patches = _run([block], patches, registers)[:, len(registers) :]
    return patches


def one_dropped(blocks, patches, registers):
    return _run(blocks, patches, registers)[:, 1:]


def detached(blocks, patches, registers):
    return _run(blocks, patches, registers.detach())[:, len(registers) :]


def only_added(out, lse, score, value):
    return out + torch.sigmoid(score - lse)[:, None] * value


def exchanged(out, lse, score, value):
    return value + torch.sigmoid(score - lse)[:, None] * (out - value)


def odds(out, lse, score, value):
    return out + (score - lse).exp()[:, None] * (value - out)


def overflows(out, lse, score, value):
    share = score.exp() / (lse.exp() + score.exp())
    return out + share[:, None] * (value - out)


def unchanged(out, lse, score, value):
    return out


def of_scores(out, lse, score, value):
    share = score / (lse + score)
    return out + share[:, None] * (value - out)


def one_query(out, lse, score, value):
    return (out + torch.sigmoid(score - lse)[:, None] * (value - out))[0]


def _built(pool=None, plan=None):
    model = ViT.build("vit_shapes_patch8_32", plan or TokenPlan.of(4, cls_pos=None, reg_pos=0, num_reg=4))
    if pool:
        model.pool_patches = lambda x: pool(model, x)
    return model


def not_replaced():
    return _built()


def not_normalised():
    return _built(lambda model, x: x.mean(dim=1))


def normalised_after():
    return _built(lambda model, x: model.norm(x.mean(dim=1)))


def mean_of_registers():
    return _built(lambda model, x: model.norm(x)[:, :4].mean(dim=1))


def mean_over_channels():
    return _built(lambda model, x: model.norm(x).mean(dim=2))


def without_the_first():
    return _built(lambda model, x: model.norm(x)[:, 1:].mean(dim=1))


def with_a_class_token():
    return _built(lambda model, x: model.norm(x).mean(dim=1), TokenPlan.of(4, reg_pos=0, num_reg=4))


def no_model():
    return lambda x: x


ONE = _built(lambda model, x: model.norm(x).mean(dim=1))


def same_again():
    return ONE


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


def counted_places(attention, layout, grid):
    return rearrange(attention[:, :, 1:3, 3:], CUT, rows=grid[0])


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
    "check_with_registers": [
        registers_stay, behind_the_patches, never_met, registers_alone, first_tokens, both, one_for_the_batch,
        joined_again, one_dropped, detached,
    ],
    "check_add_register": [only_added, exchanged, odds, overflows, unchanged, of_scores, one_query],
    "check_mean_of_all": [
        not_replaced, not_normalised, normalised_after, mean_of_registers, mean_over_channels, without_the_first,
        with_a_class_token, no_model, same_again,
    ],
    "check_register_maps": [
        columns_instead, grid_flipped, grid_swapped, of_the_class_token, mean_over_heads, counted_places,
    ],
    "check_extra_work": [last_block_whole, last_block_free, no_products, from_block_0],
}  # fmt: skip
