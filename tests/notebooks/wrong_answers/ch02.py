"""Wrong answers that the checkers of chapter 02 have to refuse."""

import torch
from einops import rearrange


def over_queries(q, k, v):
    attention = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-2)
    return attention @ v, attention


def not_divided(q, k, v):
    attention = (q @ k.transpose(-2, -1)).softmax(dim=-1)
    return attention @ v, attention


def divided_by_dim(q, k, v):
    attention = (q @ k.transpose(-2, -1) / q.shape[-1]).softmax(dim=-1)
    return attention @ v, attention


def divided_afterwards(q, k, v):
    attention = (q @ k.transpose(-2, -1)).softmax(dim=-1) / q.shape[-1] ** 0.5
    return attention @ v, attention


def output_alone(q, k, v):
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v


def heads_transposed(tokens, heads):
    batch, length, channels = tokens.shape
    return tokens.reshape(batch, heads, length, channels // heads)


def every_third_channel(tokens, heads):
    return rearrange(tokens, "b n (d h) -> b h n d", h=heads)


def never_moved(tokens, heads):
    return rearrange(tokens, "b n (h d) -> b n h d", h=heads)


def dropped_before_the_softmax(q, k, token, grid, in_front):
    row = torch.einsum("b h d, b h k d -> b h k", q[:, :, token], k[:, :, in_front:]) / q.shape[-1] ** 0.5
    return row.softmax(-1).unflatten(-1, grid)


def the_column(q, k, token, grid, in_front):
    attention = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return attention[:, :, in_front:, token].unflatten(-1, grid)


def off_by_one(q, k, token, grid, in_front):
    attention = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return attention[:, :, token + 1, in_front:].unflatten(-1, grid)


def grid_transposed(q, k, token, grid, in_front):
    attention = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return attention[:, :, token, in_front:].unflatten(-1, grid[::-1])


def log_of_zero(attention):
    return (-(attention * attention.log()).sum(-1)).exp()


def in_bits(attention):
    return torch.special.entr(attention).div(0.6931472).sum(-1).exp()


def entropy_alone(attention):
    return torch.special.entr(attention).sum(-1)


def over_the_queries(attention):
    return torch.special.entr(attention).sum(-2).exp()


WRONG = {
    "check_attend_with_map": [over_queries, not_divided, divided_by_dim, divided_afterwards, output_alone],
    "check_split_heads": [heads_transposed, every_third_channel, never_moved],
    "check_map_of": [the_column, off_by_one, grid_transposed, dropped_before_the_softmax],
    "check_looks_at": [log_of_zero, in_bits, entropy_alone, over_the_queries],
}
