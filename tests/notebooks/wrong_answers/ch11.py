"""Wrong answers that the checkers of chapter 11 have to refuse."""

import torch
from einops import rearrange
from torch import nn

from dtl_lib import ViT, record


def _as_grid(row, grid):
    return rearrange(row, "b h (rows columns) -> b h rows columns", rows=grid[0])


def _row(q, k, axis=-1, scale=None):
    scores = q @ k.mT / (q.shape[-1] ** 0.5 if scale is None else scale)
    return scores.softmax(dim=axis)[:, :, 0]


def over_the_patches(q, k, layout, grid):
    return _as_grid(_row(q, k[:, :, layout["patches"]]), grid)


def over_the_queries(q, k, layout, grid):
    return _as_grid(_row(q, k, -2)[..., layout["patches"]], grid)


def plain_scores(q, k, layout, grid):
    return _as_grid((q @ k.mT / q.shape[-1] ** 0.5)[:, :, 0, layout["patches"]], grid)


def not_divided(q, k, layout, grid):
    return _as_grid(_row(q, k, scale=1)[..., layout["patches"]], grid)


def after_the_class_token(q, k, layout, grid):
    return _as_grid(_row(q, k)[..., 1 : 1 + grid[0] * grid[1]], grid)


def from_the_start(q, k, layout, grid):
    return _as_grid(_row(q, k)[..., : grid[0] * grid[1]], grid)


def from_the_end(q, k, layout, grid):
    return _as_grid(_row(q, k)[..., -grid[0] * grid[1] :], grid)


def after_the_registers(q, k, layout, grid):
    registers = layout["reg"].stop - layout["reg"].start
    return _as_grid(_row(q, k)[..., 1 + registers :], grid)


def its_column(q, k, layout, grid):
    return _as_grid((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)[:, :, layout["patches"], 0], grid)


def to_sum_1(q, k, layout, grid):
    row = _row(q, k)[..., layout["patches"]]
    return _as_grid(row / row.sum(-1, keepdim=True), grid)


def by_columns(q, k, layout, grid):
    return rearrange(_row(q, k)[..., layout["patches"]], "b h (c r) -> b h r c", r=grid[0])


def transposed(q, k, layout, grid):
    return _as_grid(_row(q, k)[..., layout["patches"]], grid).mT


def mean_of_heads(q, k, layout, grid):
    return _as_grid(_row(q, k)[..., layout["patches"]], grid).mean(1)


def divided_by(power, width=False):
    def wrong(q, k, layout, grid):
        scale = (q.shape[-1] * (q.shape[1] if width else 1)) ** power
        return _as_grid(_row(q, k, scale=scale)[..., layout["patches"]], grid)

    return wrong


def keys_ask(q, k, layout, grid):
    return _as_grid(_row(k, q)[..., layout["patches"]], grid)


def rows_of_head_0(q, k, layout, grid):
    attention = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return _as_grid(attention[:, 0, : q.shape[1], layout["patches"]], grid)


def over_heads(q, k, layout, grid):
    return _as_grid(_row(q, k, 1)[..., layout["patches"]], grid)


def to_its_maximum(q, k, layout, grid):
    row = _row(q, k)[..., layout["patches"]]
    return _as_grid(row / row.amax(-1, keepdim=True), grid)


def look(model, images):
    with torch.no_grad(), record(model) as tape:
        model(images)
    return tape


def scale_left(model, images, block):
    tape = look(model, images)
    q, k = tape.queries(block), tape.keys(block)
    row = (q @ k.mT / (q.shape[1] * q.shape[-1]) ** 0.5).softmax(-1)[:, :, 0, tape.plan.layout(block)["patches"]]
    return row.unflatten(-1, tape.grid)


def registers_left(model, images, block):
    tape = look(model, images)
    return tape.row(block)[..., 1:][..., : tape.grid[0] * tape.grid[1]].unflatten(-1, tape.grid)


def square_left(model, images, block):
    tape = look(model, images)
    row = tape.row(block)[..., tape.plan.layout(block)["patches"]]
    side = int(row.shape[-1] ** 0.5)
    return row[..., : side**2].unflatten(-1, (side, side))


def nothing_mended(model, images, block):
    tape = look(model, images)
    q, k = tape.queries(block), tape.keys(block)
    row = (q @ k.mT / (q.shape[1] * q.shape[-1]) ** 0.5).softmax(-1)[:, :, 0, 1:]
    side = int(row.shape[-1] ** 0.5)
    return row[..., : side**2].unflatten(-1, (side, side))


def mended_and_turned(model, images, block):
    return look(model, images).maps(block).mT


def _changes(maps_of, model, image):
    size = model.config.patch_size
    before = maps_of(model, image)
    for row in range(image.shape[-2] // size):
        for column in range(image.shape[-1] // size):
            changed = image.clone()
            changed[..., row * size : (row + 1) * size, column * size : (column + 1) * size] = 0
            yield row, column, before, maps_of(model, changed)


def always(maps_of, model, image):
    return True


def never(maps_of, model, image):
    return False


def shape_alone(maps_of, model, image):
    size = model.config.patch_size
    return maps_of(model, image).shape[-2:] == (image.shape[-2] // size, image.shape[-1] // size)


def anything_changes(maps_of, model, image):
    return all(not torch.equal(before, after) for _, _, before, after in _changes(maps_of, model, image))


def nothing_else_changes(maps_of, model, image):  # forgets that the row is shared out anew
    for row, column, before, after in _changes(maps_of, model, image):
        same = torch.isclose(before, after, rtol=1e-3)
        same[..., row, column] = True
        if not same.all():
            return False
    return True


def the_first_patch_alone(maps_of, model, image):
    row, column, before, after = next(_changes(maps_of, model, image))
    ratio = after / before
    return bool((ratio[..., 1:, :].std() < 1e-3) and not torch.isclose(ratio[..., row, column], ratio[..., 2, 2]).all())


def the_largest_change(maps_of, model, image):
    for row, column, before, after in _changes(maps_of, model, image):
        change = (after / before)[0].flatten(1).log()
        apart = (change - change.median(dim=1).values[:, None]).abs()
        if not (apart.argmax(dim=1) == row * before.shape[-1] + column).all():
            return False
    return shape_alone(maps_of, model, image)


def _follows(maps_of, model, image, patches=slice(None), heads=slice(None)):
    for row, column, before, after in list(_changes(maps_of, model, image))[patches]:
        ratio = (after / before)[0, heads].flatten(1)
        at = row * (image.shape[-1] // model.config.patch_size) + column
        others = torch.cat([ratio[:, :at], ratio[:, at + 1 :]], dim=1)
        usual = others.median(dim=1).values
        if not torch.allclose(others, usual[:, None].expand_as(others), rtol=1e-3):
            return False
        if torch.isclose(ratio[:, at], usual, rtol=1e-3).all():
            return False
    return True


def the_first_two_patches(maps_of, model, image):
    return _follows(maps_of, model, image, slice(2))


def the_last_patch(maps_of, model, image):
    return _follows(maps_of, model, image, slice(-1, None))


def head_0(maps_of, model, image):
    return _follows(maps_of, model, image, heads=slice(1))


def above_the_share(values, share):
    return values >= share


def of_the_maximum(values, share):
    return values >= share * values.max()


def the_smallest(values, share):
    ordered, places = values.flatten().sort()
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[places[ordered.cumsum(0) - ordered < (1 - share) * values.sum()]] = True
    return mask.view(values.shape)


def below_the_line(values, share):
    ordered, places = values.flatten().sort(descending=True)
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[places[ordered.cumsum(0) <= share * values.sum()]] = True
    return mask.view(values.shape)


def one_beyond_the_line(values, share):
    ordered, places = values.flatten().sort(descending=True)
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[places[: int((ordered.cumsum(0) <= share * values.sum()).sum()) + 1]] = True
    return mask.view(values.shape)


def takes_the_sum_for_one(values, share):
    ordered, places = values.flatten().sort(descending=True)
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[places[ordered.cumsum(0) - ordered < share]] = True
    return mask.view(values.shape)


def a_share_of_the_patches(values, share):
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[values.flatten().topk(round(share * values.numel())).indices] = True
    return mask.view(values.shape)


def everything(values, share):
    return torch.ones_like(values, dtype=torch.bool)


def by_the_smallest_kept(values, share):
    ordered = values.flatten().sort(descending=True).values
    kept = ordered[ordered.cumsum(0) - ordered < share * values.sum()]
    return values >= kept.min()


def as_numbers(values, share):
    return (values >= 0.25).float()


class _Core(nn.Module):
    def __init__(self, axis, divide=True, soft=True):
        super().__init__()
        self.axis, self.divide, self.soft = axis, divide, soft

    def forward(self, q, k, v):
        scores = q @ k.mT / (q.shape[-1] ** 0.5 if self.divide else 1)
        return (scores.softmax(self.axis) if self.soft else scores) @ v


def _with_cores(make, blocks=slice(None)):
    model = ViT.build("vit_shapes_patch8_32")
    for block in model.blocks[blocks]:
        block.attention.core = make()
    return model


class _Weights(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, q, k, v):
        return self.weights(q @ k.mT / q.shape[-1] ** 0.5) @ v


def over_the_images():
    return _with_cores(lambda: _Core(0))


def exchanged_weights():
    return _with_cores(lambda: _Weights(lambda scores: scores.mT.softmax(dim=-2)))


def transposed_weights():
    return _with_cores(lambda: _Weights(lambda scores: scores.softmax(dim=-1).mT))


ONE = _with_cores(lambda: _Core(-2))


def same_again():
    return ONE


def another_model():
    model = ViT.build("vit_shapes_patch8_32", mlp_ratio=2.0)
    for block in model.blocks:
        block.attention.core = _Core(-2)
    return model


def untouched():
    return ViT.build("vit_shapes_patch8_32")


def first_block_alone():
    return _with_cores(lambda: _Core(-2), slice(0, 1))


def over_the_keys():
    return _with_cores(lambda: _Core(-1))


def over_the_heads():
    return _with_cores(lambda: _Core(1))


def undivided():
    return _with_cores(lambda: _Core(-2, divide=False))


def no_softmax():
    return _with_cores(lambda: _Core(-2, soft=False))


def detached_cores():
    return _with_cores(lambda: _Weights(lambda scores: scores.softmax(dim=-2).detach()))


def a_core():
    return _Core(-2)


WRONG = {
    "check_my_maps": [
        over_the_patches,
        over_the_queries,
        plain_scores,
        not_divided,
        after_the_class_token,
        from_the_start,
        from_the_end,
        after_the_registers,
        its_column,
        to_sum_1,
        by_columns,
        transposed,
        mean_of_heads,
        divided_by(1),
        divided_by(0.5, width=True),
        keys_ask,
        rows_of_head_0,
        over_heads,
        to_its_maximum,
    ],
    "check_mended": [scale_left, registers_left, square_left, nothing_mended, mended_and_turned],
    "check_follows": [
        always,
        never,
        shape_alone,
        anything_changes,
        nothing_else_changes,
        the_first_patch_alone,
        the_first_two_patches,
        the_last_patch,
        head_0,
        the_largest_change,
    ],
    "check_heaviest_part": [
        above_the_share,
        of_the_maximum,
        the_smallest,
        below_the_line,
        one_beyond_the_line,
        takes_the_sum_for_one,
        a_share_of_the_patches,
        everything,
        by_the_smallest_kept,
        as_numbers,
    ],
    "check_wrong_axis": [
        untouched,
        first_block_alone,
        over_the_keys,
        over_the_heads,
        undivided,
        no_softmax,
        a_core,
        over_the_images,
        exchanged_weights,
        transposed_weights,
        same_again,
        detached_cores,
        another_model,
    ],
}
