"""Checkers of chapter 02, Attention."""

import torch
import torch.nn.functional as F
from einops import rearrange

from . import exercise, expect, expect_close, expect_shape


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@exercise
def check_attend_with_map(attend_with_map) -> None:
    """Fewer queries than keys, against the fused call."""
    q, k, v = _random(2, 3, 4, 8), _random(2, 3, 6, 8).flip(-1), _random(2, 3, 6, 8).flip(-2)
    answer = attend_with_map(q, k, v)
    expect(isinstance(answer, tuple) and len(answer) == 2, "return two things: the output and the map")
    out, attention = answer
    expect_shape(attention, (2, 3, 4, 6), "a row for each query, a column for each key")
    expect_close(attention.sum(-1), torch.ones(2, 3, 4), "a row sums to 1: the softmax runs over the keys")
    unscaled = (q @ k.transpose(-2, -1)).softmax(-1)
    expect(not torch.allclose(attention, unscaled, atol=1e-5), "divide the scores by √dim before the softmax")
    expect_close(out, F.scaled_dot_product_attention(q, k, v), "the output is not the map times the values")
    expect_close(attention @ v, out, "the map is not the one the output was made with")


@exercise
def check_split_heads(split_heads) -> None:
    """Head 1 of a token is the second run of its channels."""
    tokens = torch.arange(2 * 5 * 12, dtype=torch.float32).reshape(2, 5, 12)
    heads = split_heads(tokens, 3)
    expect_shape(heads, (2, 3, 5, 4), "(batch, heads, tokens, dim)")
    expect(
        torch.equal(heads[0, 0, 1], tokens[0, 1, :4]),
        "head 0 of token 1 is not the first channels of token 1: split the channels first, then move the axis",
    )
    expected = rearrange(tokens, "b n (h d) -> b h n d", h=3)
    expect_close(heads, expected, "a head is a run of neighbouring channels, not every third one")


@exercise
def check_map_of(map_of) -> None:
    """A patch's view on a grid that is not square, behind two tokens."""
    q, k = _random(2, 3, 8, 4), _random(2, 3, 8, 4).flip(-1)
    attention = (q @ k.transpose(-2, -1) / 2).softmax(-1)
    view = map_of(q, k, 4, (2, 3), 2)
    expect_shape(view, (2, 3, 2, 3), "(batch, heads, rows, columns)")
    expected = attention[:, :, 4, 2:].reshape(2, 3, 2, 3)
    before = (q[:, :, 4:5] @ k[:, :, 2:].transpose(-2, -1) / 2).softmax(-1).reshape(2, 3, 2, 3)
    expect(not torch.allclose(view, before), "the tokens in front take their share too: drop them after the softmax")
    column = attention[:, :, 2:, 4].reshape(2, 3, 2, 3)
    expect(not torch.allclose(view, column), "this is a column, who looks at the token: its own view is the row")
    expect_close(view, expected, "not the row of this token over the patches")


@exercise
def check_looks_at(looks_at) -> None:
    """One token, all tokens, and zeros."""
    one, all_of_them = torch.eye(4)[:2], torch.full((2, 4), 0.25)
    numbers = looks_at(torch.stack([one, all_of_them]))
    expect_shape(numbers, (2, 2), "(…, queries): one number a row")
    expect(not numbers.isnan().any(), "a share of 0 gives 0 · log 0 = nan: use torch.special.entr")
    expect_close(numbers[0], torch.ones(2), "a row that picks one token looks at 1")
    expect_close(numbers[1], torch.full((2,), 4.0), "a uniform row over 4 tokens looks at 4: e to the entropy")
    shares = torch.tensor([[0.5, 0.25, 0.25]])
    expect_close(looks_at(shares), torch.tensor([2.8284271]), "use the natural logarithm, and e to the power of it")
