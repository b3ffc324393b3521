"""Wrong answers that the checkers of chapter 13 have to refuse."""

import torch
import torch.nn.functional as F
from torch import nn

from dtl_lib import ViT
from dtl_lib.probes.distance import distances


def no_norm(model, tokens):
    return model.classifiers["cls"](tokens)


def a_fresh_norm(model, tokens):
    return model.classifiers["cls"](F.layer_norm(tokens, tokens.shape[-1:]))


def a_blocks_norm(model, tokens):
    return model.classifiers["cls"](model.blocks[0].norm1(tokens))


def another_norm(model, tokens):
    return model.classifiers["cls"](model.blocks[0].norm2(tokens))


def probabilities(model, tokens):
    return model.classifiers["cls"](model.norm(tokens)).softmax(dim=-1)


def normed_twice(model, tokens):
    return model.classifiers["cls"](model.norm(model.norm(tokens)))


def logarithms(model, tokens):
    return model.classifiers["cls"](model.norm(tokens)).log_softmax(dim=-1)


def blocks_again(model, tokens):
    for block in model.blocks:
        tokens = block(tokens)
    return model.classifiers["cls"](model.norm(tokens))


def no_bias(model, tokens):
    return model.norm(tokens) @ model.classifiers["cls"].weight.T


def the_names(model, tokens):
    return model.classifiers["cls"](model.norm(tokens)).argmax(dim=-1)


def all_heads(model, tokens):
    return model.classifiers(model.norm(tokens))


def class_token_alone(model, tokens):
    return model.classifiers["cls"](model.norm(tokens[:, 0]))


def the_mean(model, tokens):
    pooled = model.norm(tokens).mean(dim=1, keepdim=True)
    return model.classifiers["cls"](pooled).expand(-1, tokens.shape[1], -1)


def distance(rows=True, pixels=True, power=1.0, turned=False, columns=False, everyone=False, first=False, total=False):
    """A mean attention distance with one mistake."""

    def wrong(attention, grid, patch_size, in_front):
        count = grid[0] * grid[1]
        start = 0 if first else in_front
        asking = slice(None) if everyone else slice(start, start + count)
        shares = attention[asking, start : start + count]
        if columns:
            shares = shares / shares.sum(dim=0, keepdim=True)
        elif rows:
            shares = shares / shares.sum(dim=1, keepdim=True)
        far = distances(grid[::-1] if turned else grid) * (patch_size if pixels else 1)
        if everyone:
            far = F.pad(far, (0, 0, in_front, 0))
        each = (shares * far**power).sum(dim=0 if columns else 1)
        return each.sum() if total else each.mean()

    return wrong


def an_even_share(attention, grid, patch_size, in_front):
    return patch_size * distances(grid).mean()


def steps(attention, grid, patch_size, in_front):
    shares = attention[in_front:, in_front:]
    place = torch.arange(len(shares))
    row, column = place // grid[1], place % grid[1]
    far = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    return (shares / shares.sum(-1, keepdim=True) * far * patch_size).sum(-1).mean()


def root_of_the_mean(attention, grid, patch_size, in_front):
    shares = attention[in_front:, in_front:]
    shares = shares / shares.sum(-1, keepdim=True)
    return (shares * (patch_size * distances(grid)) ** 2).sum(-1).sqrt().mean()


def one_sum(attention, grid, patch_size, in_front):
    shares = attention[in_front:, in_front:]
    return (shares * patch_size * distances(grid)).sum() / shares.sum()


def one_token_in_front(attention, grid, patch_size, in_front):
    shares = attention[2:, 2:]
    if shares.shape[0] != grid[0] * grid[1]:
        return torch.tensor(0.0)
    return (shares / shares.sum(-1, keepdim=True) * 8 * distances(grid)).sum(-1).mean()


def of_each_patch(attention, grid, patch_size, in_front):
    shares = attention[in_front:, in_front:]
    return (shares / shares.sum(-1, keepdim=True) * patch_size * distances(grid)).sum(-1)


def in_place(attention, grid, patch_size, in_front):
    shares = attention[in_front:, in_front:]
    shares /= shares.sum(-1, keepdim=True)
    return (shares * patch_size * distances(grid)).sum(-1).mean()


def mean_of_all(attention, grid, patch_size, in_front):
    return of_each_patch(attention, grid, patch_size, in_front).mean() / (grid[0] * grid[1])


def first_patch(attention, grid, patch_size, in_front):
    return of_each_patch(attention, grid, patch_size, in_front)[0]


def others_alone(attention, grid, patch_size, in_front):
    shares = attention[in_front:, in_front:].clone().fill_diagonal_(0)
    return (shares / shares.sum(-1, keepdim=True) * patch_size * distances(grid)).sum(-1).mean()


def opposite_corners(grid, patch_size):
    return patch_size * distances(grid).max()


def mean_distance(grid, patch_size):
    return patch_size * distances(grid).mean()


def in_patches(grid, patch_size):
    return distances(grid).max(dim=1).values.mean()


def one_for_all(grid, patch_size):
    return patch_size * distances(grid).mean(dim=0).max()


def between_edges(grid, patch_size):
    return patch_size * (distances(grid).max(dim=1).values + 1).mean()


def in_steps(grid, patch_size):
    place = torch.arange(grid[0] * grid[1])
    row, column = place // grid[1], place % grid[1]
    far = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    return patch_size * far.max(dim=1).values.double().mean()


def all_added(grid, patch_size):
    return patch_size * distances(grid).max(dim=1).values.sum()


def _same(logits):
    said = logits.argmax(dim=-1)
    return said == said[-1]


def first_time(logits):
    return _same(logits).int().argmax(dim=0)


def from_one(logits):
    return _right(logits) + 1


def the_one_before(logits):
    return _right(logits) - 1


def how_many(logits):
    return _same(logits).sum(dim=0)


def how_long(logits):
    return len(logits) - _right(logits)


def how_many_changes(logits):
    said = logits.argmax(dim=-1)
    return (said[1:] != said[:-1]).sum(dim=0)


def how_many_disagree(logits):
    return (~_same(logits)).sum(dim=0)


def of_the_first_image(logits):
    return _right(logits)[:1]


def _right(logits):
    return len(logits) - _same(logits).flip(0).int().cumprod(dim=0).sum(dim=0)


def displacement(signs=True, itself=False, left_over=False, by_place=False, length=False, up=True, narrow=False):
    """A share by displacement with one mistake."""

    def wrong(similarity):
        height, width = similarity.shape[:2]
        place = torch.arange(height * width)
        row, column = place // width, place % width
        down, across = row[None] - row[:, None], column[None] - column[:, None]
        kind = down * 1000 + across if signs else down.abs() * 1000 + across.abs()
        kind = kind if up else down.abs() * 1000 + across
        kind = down * width + across if narrow else kind
        kind = down**2 + across**2 if length else kind
        kind = place[:, None].expand(height * width, height * width) if by_place else kind
        kept = torch.ones_like(kind, dtype=torch.bool) if itself else ~torch.eye(len(place), dtype=torch.bool)
        values, index = similarity.reshape(height * width, -1)[kept], kind[kept].unique(return_inverse=True)[1]
        means = torch.bincount(index, weights=values) / torch.bincount(index)
        share = (values - means[index]).square().sum() / (values - values.mean()).square().sum()
        return share if left_over else 1 - share

    return wrong


class Masked(nn.Module):
    def __init__(self, allowed):
        super().__init__()
        self.register_buffer("allowed", allowed)

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.allowed[: q.shape[-2]])


def masked(near, row=True, column=True, itself=True, blocks=4, name="vit_shapes_patch8_32"):
    """A model whose attention is masked, with one mistake."""

    def wrong():
        model, allowed = ViT.build(name), torch.ones(17, 17, dtype=torch.bool)
        allowed[1:, 1:] = near
        allowed[0, 1:] = row
        allowed[1:, 0] = column
        allowed[1:, 1:] &= ~torch.eye(16, dtype=torch.bool) | itself
        for block in list(model.blocks)[:blocks]:
            block.attention.core = Masked(allowed)
        return model

    return wrong


NEAR = distances((4, 4)) <= 1.5
plain = masked(torch.ones(16, 16, dtype=torch.bool))
ONE = masked(NEAR)()


def same_again():
    return ONE


def blind_to_itself():
    allowed = torch.ones(17, 17, dtype=torch.bool)
    allowed[1:, 1:], allowed[0, 0] = NEAR, False
    model = ViT.build("vit_shapes_patch8_32")
    for block in model.blocks:
        block.attention.core = Masked(allowed)
    return model


def a_core():
    return Masked(torch.ones(17, 17, dtype=torch.bool))


def shallow():
    return ViT.build("vit_shapes_patch8_32", mlp_ratio=2.0)


WRONG = {
    "check_my_lens": [
        no_norm,
        a_fresh_norm,
        a_blocks_norm,
        another_norm,
        probabilities,
        normed_twice,
        class_token_alone,
        the_mean,
        logarithms,
        blocks_again,
        no_bias,
        the_names,
        all_heads,
    ],
    "check_my_distance": [
        distance(rows=False),
        distance(pixels=False),
        distance(power=2.0),
        distance(turned=True),
        distance(columns=True),
        distance(everyone=True),
        distance(first=True),
        distance(total=True),
        an_even_share,
        steps,
        root_of_the_mean,
        one_sum,
        one_token_in_front,
        of_each_patch,
        in_place,
        mean_of_all,
        first_patch,
        others_alone,
    ],
    "check_farthest": [opposite_corners, mean_distance, in_patches, one_for_all, between_edges, all_added, in_steps],
    "check_settled": [
        first_time,
        from_one,
        the_one_before,
        how_many,
        how_long,
        how_many_disagree,
        how_many_changes,
        of_the_first_image,
    ],
    "check_by_displacement": [
        displacement(signs=False),
        displacement(itself=True),
        displacement(left_over=True),
        displacement(by_place=True),
        displacement(length=True),
        displacement(up=False),
        displacement(narrow=True),
    ],
    "check_local": [
        plain,
        masked(distances((4, 4)) <= 1),
        masked(distances((4, 4)) <= 2),
        masked(NEAR, row=False),
        masked(NEAR, column=False),
        masked(NEAR, itself=False),
        masked(NEAR, blocks=1),
        a_core,
        shallow,
        same_again,
        blind_to_itself,
    ],
}
