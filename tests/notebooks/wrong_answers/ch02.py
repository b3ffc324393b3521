"""Wrong answers that the checkers of chapter 02 have to refuse."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dtl_lib import ViT
from dtl_lib.layers import DotProduct


def over_queries(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-2) @ v


def not_divided(q, k, v):
    return (q @ k.mT).softmax(dim=-1) @ v


def divided_by_dim(q, k, v):
    return (q @ k.mT / q.shape[-1]).softmax(dim=-1) @ v


def divided_by_keys(q, k, v):
    return (q @ k.mT / k.shape[-2] ** 0.5).softmax(dim=-1) @ v


def divided_afterwards(q, k, v):
    return (q @ k.mT).softmax(dim=-1) / q.shape[-1] ** 0.5 @ v


def no_softmax(q, k, v):
    return q @ k.mT / q.shape[-1] ** 0.5 @ v


def keys_mixed(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ k


def a_list(q, k, v):
    return [F.scaled_dot_product_attention(q, k, v)]


def divided_by_8(q, k, v):
    return (q @ k.mT / 8).softmax(dim=-1) @ v


def divided_in_place(q, k, v):
    return (q.div_(q.shape[-1] ** 0.5) @ k.mT).softmax(dim=-1) @ v


def layer(cut="(heads dim)", join="(heads dim)", order=(0, 1, 2), scale=None, project=True, whole=False):
    """A multi-head attention with one mistake."""

    class Wrong(nn.Module):
        def __init__(self, dim, heads):
            super().__init__()
            self.heads = heads
            self.qkv = nn.Linear(dim, 3 * dim)
            self.project = nn.Linear(dim, dim)

        def forward(self, x):
            parts = self.qkv(x).chunk(3, dim=-1)
            heads = 1 if whole else self.heads
            q, k, v = (rearrange(parts[i], f"b n {cut} -> b heads n dim", heads=heads) for i in order)
            out = F.scaled_dot_product_attention(q, k, v, scale=scale(x.shape[-1]) if scale else None)
            out = rearrange(out, f"b heads n dim -> b n {join}")
            return self.project(out) if project else out

    return Wrong


class CutByReshape(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = (part.reshape(batch, self.heads, tokens, -1) for part in self.qkv(x).chunk(3, dim=-1))
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class JoinedByReshape(CutByReshape):
    def forward(self, x):
        cut = "b n (heads dim) -> b heads n dim"
        q, k, v = (rearrange(part, cut, heads=self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.project(F.scaled_dot_product_attention(q, k, v).reshape(x.shape))


class HeadByHead(CutByReshape):
    def forward(self, x):
        q, k, v = rearrange(self.qkv(x), "b n (heads part dim) -> part b heads n dim", heads=self.heads, part=3)
        return self.project(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n dim -> b n (heads dim)"))


class OverHeads(CutByReshape):
    def forward(self, x):
        q, k, v = (rearrange(part, "b n (h dim) -> b n h dim", h=self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.project(F.scaled_dot_product_attention(q, k, v).flatten(2))


class ThreeHeads(CutByReshape):
    def forward(self, x):
        q, k, v = (rearrange(part, "b n (h dim) -> b h n dim", h=3) for part in self.qkv(x).chunk(3, dim=-1))
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class OtherNames(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x):
        return self.to_out(x)


interleaved = layer(cut="(dim heads)")
interleaved_both = layer(cut="(dim heads)", join="(dim heads)")
joined_interleaved = layer(join="(dim heads)")
keys_first = layer(order=(1, 0, 2))
values_first = layer(order=(2, 1, 0))
wide_scale = layer(scale=lambda dim: dim**-0.5)
no_scale = layer(scale=lambda dim: 1.0)
not_projected = layer(project=False)
one_head = layer(whole=True)


class Core(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale)


def with_core(core, blocks=slice(None)):
    model = ViT.build("vit_shapes_patch8_32")
    for block in model.blocks[blocks]:
        block.attention.core = core
    return model


def untouched():
    return with_core(DotProduct())


def only_the_first():
    return with_core(Core(1.0), slice(0, 1))


def divided_still():
    return with_core(Core(0.25))


def multiplied():
    return with_core(Core(4.0))


def a_core():
    return Core(1.0)


def _turn(positions, half, sign, factor=500.0):
    """The rotation that moves a position by one row (half 0) or column (half 1)."""
    dim = positions.shape[-1]
    quarter = dim // 4
    angle = sign * 10_000.0 ** (-torch.arange(quarter) / quarter)
    weight = torch.eye(dim)
    sin, cos = (torch.arange(quarter) + (2 * half + part) * quarter for part in (0, 1))
    weight[sin, sin], weight[cos, sin] = angle.cos(), angle.sin()
    weight[sin, cos], weight[cos, cos] = -angle.sin(), angle.cos()
    return weight * factor


def look_at_itself(positions):
    return torch.eye(positions.shape[-1]) * 500


def look_right(positions):
    return _turn(positions, 1, 1)


def look_up(positions):
    return _turn(positions, 0, -1)


def look_down(positions):
    return _turn(positions, 0, 1)


def look_left_faintly(positions):
    return _turn(positions, 1, -1, factor=10.0)


def look_two_to_the_left(positions):
    return _turn(positions, 1, -2)


def dropped_before_the_softmax(q, k, token, grid, in_front):
    row = torch.einsum("b h d, b h k d -> b h k", q[:, :, token], k[:, :, in_front:]) / q.shape[-1] ** 0.5
    return row.softmax(-1).unflatten(-1, grid)


def _attention(q, k):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)


def the_column(q, k, token, grid, in_front):
    return _attention(q, k)[:, :, in_front:, token].unflatten(-1, grid)


def counted_from_the_patches(q, k, token, grid, in_front):
    return _attention(q, k)[:, :, token + in_front, in_front:].unflatten(-1, grid)


def grid_transposed(q, k, token, grid, in_front):
    return _attention(q, k)[:, :, token, in_front:].unflatten(-1, grid[::-1])


def by_columns(q, k, token, grid, in_front):
    return _attention(q, k)[:, :, token, in_front:].unflatten(-1, grid[::-1]).mT


def row_not_divided(q, k, token, grid, in_front):
    return (q[:, :, token : token + 1] @ k.mT).softmax(-1)[:, :, 0, in_front:].unflatten(-1, grid)


def the_last_dropped(q, k, token, grid, in_front):
    return _attention(q[:, :, token : token + 1], k)[:, :, 0, :-in_front].unflatten(-1, grid)


def every_row(q, k, token, grid, in_front):
    return _attention(q, k)[:, :, token, in_front:].unflatten(-1, grid)


def every_row_by_einsum(q, k, token, grid, in_front):
    scores = torch.einsum("b h q d, b h k d -> b h q k", q, k) / q.shape[-1] ** 0.5
    return scores.softmax(-1)[:, :, token, in_front:].unflatten(-1, grid)


def _tiles(k, v, size):
    return zip(k.split(size, dim=-2), v.split(size, dim=-2))


def tiles_averaged(q, k, v, size):
    outs = [F.scaled_dot_product_attention(q, *tile) for tile in _tiles(k, v, size)]
    return sum(outs) / len(outs)


def tiles_added(q, k, v, size):
    return sum(F.scaled_dot_product_attention(q, *tile) for tile in _tiles(k, v, size))


def full_tiles_only(q, k, v, size):
    whole = k.shape[-2] // size * size
    return F.scaled_dot_product_attention(q, k[:, :, :whole], v[:, :, :whole])


def the_last_tile(q, k, v, size):
    return [F.scaled_dot_product_attention(q, *tile) for tile in _tiles(k, v, size)][-1]


def no_maximum(q, k, v, size):
    total = out = 0.0
    for keys, values in _tiles(k, v, size):
        weights = (q @ keys.mT / q.shape[-1] ** 0.5).exp()
        total, out = total + weights.sum(-1, keepdim=True), out + weights @ values
    return out / total


def nothing_shrinks(q, k, v, size):
    top, total, out = torch.full((*q.shape[:-1], 1), float("-inf")), 0.0, 0.0
    for keys, values in _tiles(k, v, size):
        scores = q @ keys.mT / q.shape[-1] ** 0.5
        top = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights = (scores - top).exp()
        total, out = total + weights.sum(-1, keepdim=True), out + weights @ values
    return out / total


def all_at_once(q, k, v, size):
    return _attention(q, k) @ v


def log_of_zero(attention):
    return (-(attention * attention.log()).sum(-1)).exp()


def in_bits(attention):
    return torch.special.entr(attention).div(0.6931472).sum(-1).exp()


def entropy_alone(attention):
    return torch.special.entr(attention).sum(-1)


def wrong_sign(attention):
    return (-torch.special.entr(attention)).sum(-1).exp()


def over_the_queries(attention):
    return torch.special.entr(attention).sum(-2).exp()


def those_not_zero(attention):
    return (attention > 0).sum(-1).float()


def ready_made(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def a_loop(q, k, v):
    out = torch.zeros_like(q)
    for b in range(len(q)):
        for h in range(q.shape[1]):
            for i, query in enumerate(q[b, h]):
                out[b, h, i] = (query @ k[b, h].T / q.shape[-1] ** 0.5).softmax(-1) @ v[b, h]
    return out


def swapped(q, k, token, grid, in_front):
    shares = (k[:, :, token : token + 1] @ q.mT / q.shape[-1] ** 0.5).softmax(-1)
    return rearrange(shares[:, :, 0, in_front:], "b h (r c) -> b h r c", r=grid[0])


def every_query_elsewhere(q, k, token, grid, in_front):
    shares = (torch.einsum("bhqd,bhkd->bqhk", q, k) / q.shape[-1] ** 0.5).softmax(-1)
    return rearrange(shares[:, token, :, in_front:], "b h (r c) -> b h r c", r=grid[0])


def ready_made_tiles(q, k, v, size):
    return F.scaled_dot_product_attention(q, k, v)


def query_by_query(q, k, v, size):
    shares = [(q[:, :, i : i + 1] @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v for i in range(q.shape[2])]
    return torch.cat(shares, dim=2)


def larger_tiles(q, k, v, size):
    return in_proper_tiles(q, k, v, 3 * size)


def tiles_twice_as_large(q, k, v, size):
    return in_proper_tiles(q, k, v, 2 * size)


def maximum_from_0(q, k, v, size):
    return in_proper_tiles(q, k, v, size, begin=0.0)


def one_maximum_for_all(q, k, v, size):
    return in_proper_tiles(q, k, v, size, axes=(0, 1, 2, 3))


def undivided_tiles(q, k, v, size):
    return in_proper_tiles(q * q.shape[-1] ** 0.5, k, v, size)


def in_proper_tiles(q, k, v, size, begin=-torch.inf, axes=(-1,)):
    top, total, out = torch.full((*q.shape[:-1], 1), begin), 0.0, 0.0
    for keys, values in zip(k.split(size, dim=-2), v.split(size, dim=-2)):
        scores = q @ keys.mT / q.shape[-1] ** 0.5
        highest = torch.maximum(top, scores.amax(dim=axes, keepdim=True))
        weights, shrink = (scores - highest).exp(), (top - highest).exp()
        total, out, top = total * shrink + weights.sum(-1, keepdim=True), out * shrink + weights @ values, highest
    return out / total


def another_model():
    model = ViT.build("vit_shapes_patch8_32", mlp_ratio=2.0)
    for block in model.blocks:
        block.attention.core = Undivided()
    return model


class Undivided(torch.nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)


WRONG = {
    "check_my_attend": [
        over_queries,
        not_divided,
        divided_by_dim,
        divided_by_keys,
        divided_afterwards,
        no_softmax,
        keys_mixed,
        a_list,
        divided_by_8,
        divided_in_place,
        ready_made,
        a_loop,
    ],
    "check_my_attention": [
        CutByReshape,
        JoinedByReshape,
        HeadByHead,
        OverHeads,
        ThreeHeads,
        OtherNames,
        interleaved,
        interleaved_both,
        joined_interleaved,
        keys_first,
        values_first,
        wide_scale,
        no_scale,
        not_projected,
        one_head,
    ],
    "check_unscaled": [untouched, only_the_first, divided_still, multiplied, a_core, another_model],
    "check_look_left": [look_at_itself, look_right, look_up, look_down, look_left_faintly, look_two_to_the_left],
    "check_map_of": [
        the_column,
        counted_from_the_patches,
        grid_transposed,
        by_columns,
        row_not_divided,
        the_last_dropped,
        dropped_before_the_softmax,
        every_row,
        every_row_by_einsum,
        swapped,
        every_query_elsewhere,
    ],
    "check_in_tiles": [
        tiles_averaged,
        tiles_added,
        full_tiles_only,
        the_last_tile,
        no_maximum,
        nothing_shrinks,
        all_at_once,
        ready_made_tiles,
        query_by_query,
        larger_tiles,
        tiles_twice_as_large,
        maximum_from_0,
        one_maximum_for_all,
        undivided_tiles,
    ],
    "check_looks_at": [log_of_zero, in_bits, entropy_alone, wrong_sign, over_the_queries, those_not_zero],
}
