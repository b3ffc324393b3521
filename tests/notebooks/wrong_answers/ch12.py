"""Wrong answers that the checkers of chapter 12 have to refuse."""

from functools import partial

import torch

from dtl_lib import ViT


def _rolled(attention, fuse="amax", one=1.0, scale=-1, order=1, keep=True):
    result = torch.eye(attention[0].shape[-1])
    for heads in attention[::order]:
        mixed = getattr(heads, fuse)(dim=0) + one * torch.eye(heads.shape[-1])
        result = (mixed / mixed.sum(dim=scale, keepdim=keep) if scale is not None else mixed / 2) @ result
    return result


def no_identity(attention):
    return _rolled(attention, one=0)


def columns_scaled(attention):
    return _rolled(attention, keep=False)


def not_scaled(attention):
    return _rolled(attention, scale=None)


def only_added(attention):
    return 2 ** len(attention) * _rolled(attention, scale=None)


def scaled_too_early(attention):
    result = torch.eye(attention[0].shape[-1])
    for heads in attention:
        most = heads.amax(dim=0)
        result = (most / most.sum(dim=-1, keepdim=True) + torch.eye(len(result))) / 2 @ result
    return result


def reversed_order(attention):
    return _rolled(attention, order=-1)


def last_block(attention):
    return _rolled(attention[-1:])


def first_missing(attention):
    return _rolled(attention[1:])


def mean_of_heads(attention):
    return _rolled(attention, fuse="mean")


def least_of_heads(attention):
    return _rolled(attention, fuse="amin")


def turned(attention):
    return _rolled(attention).T


def class_token_dropped(attention):
    return _rolled([heads[:, 1:, 1:] for heads in attention])


def one_row(attention):
    return _rolled(attention)[0]


def head_by_head(attention):
    return torch.stack([_rolled([heads[head : head + 1] for heads in attention]) for head in range(3)])


def element_by_element(attention):
    return _rolled(attention[:1]) * _rolled(attention[1:2]) * _rolled(attention[2:])


def columns_to_one(attention):
    result = torch.eye(attention[0].shape[-1])
    for heads in attention:
        mixed = heads.amax(dim=0) + torch.eye(len(result))
        result = mixed / mixed.sum(dim=0) @ result
    return result


def scaled_at_the_end(attention):
    result = _rolled(attention, scale=None)
    return result / result.sum(dim=-1, keepdim=True)


def last_missing(attention):
    return _rolled(attention[:-1])


def into_the_blocks(attention):
    for heads in attention:
        heads += torch.eye(heads.shape[-1])
    return _rolled(attention, one=0)


def emptied(attention):
    result = _rolled(attention)
    attention.clear()
    return result


def begun_with_zeros(attention):
    return 0 * _rolled(attention)


def _relevant(attention, gradients, part=lambda a, g: (a * g).clamp(min=0).mean(dim=0), order=1):
    result = torch.eye(attention[0].shape[-1])
    for a, g in list(zip(attention, gradients))[::order]:
        result = result + part(a, g) @ result
    return result


def positive_after_mean(attention, gradients):
    return _relevant(attention, gradients, lambda a, g: (a * g).mean(dim=0).clamp(min=0))


def all_signs(attention, gradients):
    return _relevant(attention, gradients, lambda a, g: (a * g).mean(dim=0))


def absolute(attention, gradients):
    return _relevant(attention, gradients, lambda a, g: (a * g).abs().mean(dim=0))


def gradient_alone(attention, gradients):
    return _relevant(attention, gradients, lambda a, g: g.clamp(min=0).mean(dim=0))


def attention_alone(attention, gradients):
    return _relevant(attention, gradients, lambda a, g: a.mean(dim=0))


def product_of_means(attention, gradients):
    return _relevant(attention, gradients, lambda a, g: a.mean(dim=0) * g.clamp(min=0).mean(dim=0))


def heads_summed(attention, gradients):
    return _relevant(attention, gradients, lambda a, g: (a * g).clamp(min=0).sum(dim=0))


def last_comes_first(attention, gradients):
    return _relevant(attention, gradients, order=-1)


def identity_removed(attention, gradients):
    return _relevant(attention, gradients) - torch.eye(5)


def part_to_the_right(attention, gradients):
    result = torch.eye(5)
    for a, g in zip(attention, gradients):
        result = result + result @ (a * g).clamp(min=0).mean(dim=0)
    return result


def times_element(attention, gradients):
    result = torch.eye(5)
    for a, g in zip(attention, gradients):
        result = result + (a * g).clamp(min=0).mean(dim=0) * result
    return result


def begun_with_nothing(attention, gradients):
    return 0 * _relevant(attention, gradients)


def first_left_out(attention, gradients):
    return _relevant(attention[1:], gradients[1:])


def last_alone(attention, gradients):
    return _relevant(attention[-1:], gradients[-1:])


def exchanged(attention, gradients):
    return _relevant(attention, gradients).T


def into_the_attention(attention, gradients):
    for a, g in zip(attention, gradients):
        a.mul_(g).clamp_(min=0)
    return _relevant(attention, gradients, lambda a, g: a.mean(dim=0))


def largest_head(attention, gradients):
    return _relevant(attention, gradients, lambda a, g: (a * g).clamp(min=0).amax(dim=0))


def replaced(attention, gradients):
    result = torch.eye(5)
    for a, g in zip(attention, gradients):
        result = (a * g).clamp(min=0).mean(dim=0) @ result
    return result


def parts_added(attention, gradients):
    return torch.eye(5) + sum((a * g).clamp(min=0).mean(dim=0) for a, g in zip(attention, gradients))


def rows_scaled(attention, gradients):
    result = torch.eye(5)
    for a, g in zip(attention, gradients):
        block = torch.eye(5) + (a * g).clamp(min=0).mean(dim=0)
        result = block / block.sum(dim=-1, keepdim=True) @ result
    return result


def halved(attention, gradients):
    return _relevant(attention, gradients) / 2 ** len(attention)


def own_share(tokens, blocks, residual):
    return residual**blocks + (1 - residual**blocks) / tokens


def without_itself(tokens, blocks, residual):
    return (1 - residual**blocks) / (tokens - 1)


def one_block(tokens, blocks, residual):
    return (1 - residual) / tokens


def wrong_power(tokens, blocks, residual):
    return (1 - residual) ** blocks / tokens


def nothing_kept(tokens, blocks, residual):
    return 1 / tokens


def only_kept(tokens, blocks, residual):
    return torch.tensor(residual**blocks)


def all_patches(tokens, blocks, residual):
    return (tokens - 1) * (1 - residual**blocks) / tokens


def all_tokens(tokens, blocks, residual):
    return 1 - residual**blocks


def mixed_once(tokens, blocks, residual):
    return blocks * residual ** (blocks - 1) * (1 - residual) / tokens


def _halves(attention):
    return [(heads.mean(dim=0) + torch.eye(heads.shape[-1])) / 2 for heads in attention]


def _way_back(matrices, row):
    for matrix in reversed(matrices):
        row = row[-len(matrix) :] @ matrix
    return row


def from_entry(attention):
    late = [block for block in _halves(attention) if len(block) == 7]
    return _way_back(late, torch.eye(7)[0])[1:]


def scaled_up(attention):
    row = _way_back(_halves(attention), torch.eye(7)[0])
    return row / row.sum()


def last_block_followed(attention):
    halves = _halves(attention)
    return _way_back([block for block in halves if len(block) == 6] + halves[-1:], torch.eye(7)[0])


def early_exchanged(attention):
    halves = [block.T if len(block) == 6 else block for block in _halves(attention)]
    early = [block for block in halves if len(block) == 6]
    return _way_back(early[::-1] + [block for block in halves if len(block) == 7], torch.eye(7)[0])


def early_reversed(attention):
    halves = _halves(attention)
    early = [block for block in halves if len(block) == 6]
    return _way_back(early[::-1] + [block for block in halves if len(block) == 7], torch.eye(7)[0])


def without_skip_connection(attention):
    return _way_back([heads.mean(dim=0) for heads in attention], torch.eye(7)[0])


def most_of_heads(attention):
    blocks = [heads.amax(dim=0) + torch.eye(heads.shape[-1]) for heads in attention]
    return _way_back([block / block.sum(dim=-1, keepdim=True) for block in blocks], torch.eye(7)[0])


def last_patch_dropped(attention):
    row = torch.eye(7)[0]
    for block in reversed(_halves(attention)):
        row = row[: len(block)] @ block
    return row


def turned_round(attention):
    attention.reverse()
    return _way_back(_halves(attention)[::-1], torch.eye(7)[0])


def class_token_too(attention):
    return torch.cat([torch.zeros(1), _way_back(_halves(attention), torch.eye(7)[0])])


def _by_patch(values, patch_size):
    return values.unflatten(-1, (-1, patch_size)).unflatten(-3, (-1, patch_size))


def first_image(masks, patch_size):
    return _by_patch(masks[0].float(), patch_size).mean(dim=(1, 3))


def of_every_image(masks, patch_size):
    return _by_patch(masks.float(), patch_size).mean(dim=(2, 4))


def one_pixel(masks, patch_size):
    return masks.float().mean(dim=0)[::patch_size, ::patch_size]


def largest(masks, patch_size):
    return _by_patch(masks.float().mean(dim=0), patch_size).amax(dim=(1, 3))


def mixed_up(masks, patch_size):
    return masks.float().mean(dim=0).flatten().view(6, 8, -1).mean(dim=-1)


def any_pixel(masks, patch_size):
    return _by_patch(masks.float(), patch_size).amax(dim=(2, 4)).mean(dim=0)


def in_all(masks, patch_size):
    return _by_patch(masks.float().sum(dim=0), patch_size).mean(dim=(1, 3))


def pixels_added(masks, patch_size):
    return _by_patch(masks.float().mean(dim=0), patch_size).sum(dim=(1, 3))


def everything_added(masks, patch_size):
    return _by_patch(masks.float().sum(dim=0), patch_size).sum(dim=(1, 3))


def to_its_maximum(masks, patch_size):
    often = _by_patch(masks.float().mean(dim=0), patch_size).mean(dim=(1, 3))
    return often / often.max()


def to_sum_1(masks, patch_size):
    often = _by_patch(masks.float().mean(dim=0), patch_size).mean(dim=(1, 3))
    return often / often.sum()


def far_apart(masks, patch_size):
    mean = masks.float().mean(dim=0)
    return mean.unflatten(0, (patch_size, -1)).unflatten(-1, (patch_size, -1)).mean(dim=(0, 2))


def the_ground(masks, patch_size):
    return 1 - _by_patch(masks.float().mean(dim=0), patch_size).mean(dim=(1, 3))


def any_image(masks, patch_size):
    return _by_patch(masks.any(dim=0).float(), patch_size).mean(dim=(1, 3))


def a_blob(masks, patch_size):
    rows, columns = (length // patch_size for length in masks.shape[1:])
    down, across = torch.arange(rows) - (rows - 1) / 2, torch.arange(columns) - (columns - 1) / 2
    return torch.exp(-(down[:, None] ** 2 + across**2) / 4)


def _changed(road):
    model = ViT.build("vit_shapes_patch8_32")
    for block in model.blocks:
        block.forward = partial(road, block)
    return model


def not_changed():
    return ViT.build("vit_shapes_patch8_32")


def neither_skip():
    return _changed(lambda b, x, queries=slice(None): b.mlp(b.norm2(b.attention(b.norm1(x), queries))))


def other_skip():
    return _changed(lambda b, x, queries=slice(None): b.mlp(b.norm2(x[:, queries] + b.attention(b.norm1(x), queries))))


def no_attention():
    return _changed(lambda b, x, queries=slice(None): x[:, queries] + b.mlp(b.norm2(x[:, queries])))


def _attend_then_mlp(block, x, queries=slice(None)):
    x = block.attention(x, queries)
    return x + block.mlp(block.norm2(x))


def no_first_norm():
    return _changed(_attend_then_mlp)


def no_second_norm():
    return _changed(lambda b, x, q=slice(None): (y := b.attention(b.norm1(x), q)) + b.mlp(y))


def normed_skip():
    def road(block, x, queries=slice(None)):
        normed = block.norm1(x)
        x = normed[:, queries] + block.attention(normed, queries)
        return x + block.mlp(block.norm2(x))

    return _changed(road)


def another_model():
    model = ViT.build("vit_shapes_patch8_32", mlp_ratio=2.0)
    for block in model.blocks:
        block.forward = partial(_right, block)
    return model


def _every_query(block, x, queries=slice(None)):
    x = block.attention(block.norm1(x))
    return x + block.mlp(block.norm2(x))


def queries_forgotten():
    return _changed(_every_query)


def _right(block, x, queries=slice(None)):
    x = block.attention(block.norm1(x), queries)
    return x + block.mlp(block.norm2(x))


ONE = _changed(_right)


def same_again():
    return ONE


WRONG = {
    "check_my_rollout": [
        no_identity, columns_scaled, not_scaled, only_added, scaled_too_early, reversed_order, last_block,
        first_missing, mean_of_heads, least_of_heads, turned, class_token_dropped, one_row, head_by_head,
        element_by_element, columns_to_one, scaled_at_the_end, last_missing, begun_with_zeros, into_the_blocks,
        emptied,
    ],
    "check_my_relevance": [
        positive_after_mean, all_signs, absolute, gradient_alone, attention_alone, product_of_means, heads_summed,
        last_comes_first, identity_removed, replaced, parts_added, rows_scaled, halved, part_to_the_right,
        times_element, begun_with_nothing, first_left_out, last_alone, exchanged, largest_head, into_the_attention,
    ],
    "check_even": [
        own_share, without_itself, one_block, wrong_power, nothing_kept, only_kept, all_patches, all_tokens, mixed_once,
    ],
    "check_to_image": [
        from_entry, scaled_up, last_block_followed, early_exchanged, early_reversed, class_token_too,
        without_skip_connection, most_of_heads, last_patch_dropped, turned_round,
    ],
    "check_blind": [
        first_image, of_every_image, one_pixel, largest, mixed_up, the_ground, any_image, a_blob, any_pixel, far_apart,
        in_all, pixels_added, everything_added, to_its_maximum, to_sum_1,
    ],
    "check_without_skip": [
        not_changed, neither_skip, other_skip, no_attention, no_first_norm, queries_forgotten, same_again,
        no_second_norm, normed_skip, another_model,
    ],
}  # fmt: skip
