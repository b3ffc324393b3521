"""Checkers of chapter 02, Attention."""

from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..config import named
from ..layers import Attention, DotProduct, sincos_positions
from . import exercise, expect, expect_close, expect_fresh, expect_shape, give_weights, refuse_mistakes


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class _Computed(TorchFunctionMode):
    """Remembers what is computed inside it: the shape of every tensor, and every function called but questions."""

    def __init__(self):
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.calls: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if (name := getattr(function, "__name__", "")) not in ASKED:
            self.calls.append(name)
        values = result if isinstance(result, tuple | list) else (result,)
        self.shapes += [tuple(value.shape) for value in values if isinstance(value, Tensor)]
        return result


FUSED, MANY_CALLS = "scaled_dot_product_attention", 20  # a product for every head or token makes more
ASKED = ("__get__", "is_inference")  # of a tensor, such as its shape: nothing is computed


@exercise
def check_my_attend(my_attend) -> None:
    """Fewer queries than keys, of a width that stands nowhere on the page, against the fused call."""
    q, k, v = _random(2, 3, 4, 5), _random(2, 3, 6, 5, seed=1), _random(2, 3, 6, 5, seed=2)
    with _Computed() as computed:
        out = my_attend(q, k, v)
    expect_shape(out, (2, 3, 4, 5), "one output for each query: (batch, heads, queries, dim)")
    products = q @ k.mT
    scores = products / 5**0.5
    mistakes = {
        "the shares sum to 1 over the queries: the softmax runs over the keys, the last axis": scores.softmax(-2) @ v,
        "the scores are not divided: divide by √dim before the softmax": products.softmax(-1) @ v,
        "the scores are divided by dim: divide by its square root": (products / 5).softmax(-1) @ v,
        "the scores are divided by 8, whatever the width: take the root of q's last axis": (products / 8).softmax(-1)
        @ v,
        "divide by √dim before the softmax, not after it": products.softmax(-1) @ v / 5**0.5,
        "the scores are divided by √keys: divide by √dim": (products / 6**0.5).softmax(-1) @ v,
        "the scores themselves weight the values: the softmax is missing": scores @ v,
        "these are mixtures of the keys: the shares mix the values": scores.softmax(-1) @ k,
    }
    refuse_mistakes(out, mistakes)
    expect_close(out, F.scaled_dot_product_attention(q, k, v), "not the mixture: compare a small case with the loop")
    expect(FUSED not in computed.calls, "right, but that is PyTorch's own attention: write it with einsum or @")
    expect(
        len(computed.calls) < MANY_CALLS, "right, but in a loop: one product makes the scores of all heads and queries"
    )


def _by_hand(layer: Attention, x: Tensor, how: str) -> Tensor:
    """`layer` of x, with the mistake that `how` names."""
    heads = layer.heads
    parts = layer.qkv(x).chunk(3, -1)
    run, apart = "(heads dim)", "(dim heads)"
    cut = f"batch tokens {apart if how.startswith('interleaved') else run} -> batch heads tokens dim"
    q, k, v = (rearrange(part, cut, heads=heads) for part in parts)
    if how == "head by head":
        q, k, v = rearrange(layer.qkv(x), "b n (heads part dim) -> part b heads n dim", heads=heads, part=3)
    if how == "over heads":
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    if how == "reshaped":
        q, k, v = (part.reshape(q.shape) for part in parts)
    if how == "one head":
        q, k, v = (part[:, None] for part in parts)
    if how == "keys first":
        q, k = k, q
    if how == "values first":
        q, v = v, q
    if how == "values before keys":
        k, v = v, k
    scale = x.shape[-1] ** -0.5 if how == "wide scale" else 1.0 if how == "no scale" else None
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    out = out.transpose(1, 2) if how == "over heads" else out
    if how == "joined as it lies":
        out = out.reshape(x.shape)
    else:
        join = apart if how in ("joined interleaved", "interleaved twice") else run
        out = rearrange(out, f"batch heads tokens dim -> batch tokens {join}")
    out = out if how == "not projected" else layer.project(out)
    return out + x if how == "added" else out


@exercise
def check_my_attention(my_attention) -> None:
    """The library's layer with the same random weights."""
    answer, library, x = my_attention(12, 3), Attention(12, 3), _random(2, 5, 12)
    give_weights(answer, library)
    with torch.no_grad():
        out = answer(x.clone())
        expect_shape(out, (2, 5, 12), "a token in, a token out: (batch, tokens, dim)")
        run = "head 0 has channels 0 to dim / heads − 1: a head is a run of neighbours, not every third"
        hints = {
            "interleaved": run,
            "interleaved twice": f"{run}, in the cut and in the join",
            "head by head": "qkv gives the queries of all heads first: cut it in three, then into heads",
            "over heads": "the heads of one token attend to each other: the tokens' axis comes after the heads'",
            "reshaped": "the cut has mixed tokens and channels: split the channels into heads, then move that axis",
            "one head": "this is one head as wide as the token: cut q, k and v into heads first",
            "keys first": "queries and keys are swapped: qkv gives queries, keys, values, in this order",
            "values first": "queries and values are swapped: qkv gives queries, keys, values, in this order",
            "values before keys": "keys and values are swapped: qkv gives queries, keys, values, in this order",
            "added": "x has been added: that is the block's business, the layer returns what it has found",
            "wide scale": "divide by the root of a head's width, dim / heads, not of the token's",
            "no scale": "the scores are not divided by the root of a head's width",
            "joined as it lies": "joining the heads has mixed tokens and channels: move the heads' axis back first",
            "joined interleaved": "the heads are joined in another order than they were cut: head 0 comes first",
            "not projected": "the heads' outputs are joined, but `project` is missing",
        }
        refuse_mistakes(out, {hint: _by_hand(library, x, how) for how, hint in hints.items()})
        expect_close(out, library(x), "not the library's output: check q, k and v, then the cut, then the join")
        answer, library = my_attention(12, 2), Attention(12, 2)
        give_weights(answer, library)
        expect_close(answer(x.clone()), library(x), "right with 3 heads, and not with 2: use self.heads")


@exercise
def check_unscaled(unscaled) -> None:
    """Every block's core leaves the scores undivided, and nothing else has changed."""
    model = unscaled()
    blocks = getattr(model, "blocks", None)
    expect(blocks is not None, f"return the model, not {type(model).__name__}")
    expect(model.config == named("vit_shapes_patch8_32"), "another model: take ViT.build('vit_shapes_patch8_32')")
    q, k, v = _random(2, 3, 5, 16), _random(2, 3, 5, 16, seed=1), _random(2, 3, 5, 16, seed=2)
    for number, block in enumerate(blocks):
        core = block.attention.core
        expect(not isinstance(core, DotProduct), f"block {number} still has the library's core: change every block")
        out = core(q, k, v)
        expect_shape(out, (2, 3, 5, 16), "a core returns an output for each query")
        fused = F.scaled_dot_product_attention
        refuse_mistakes(
            out,
            {
                "the scores are still divided by √dim": fused(q, k, v),
                "the scores are multiplied by √dim: leave them as they are, scale=1": fused(q, k, v, scale=16**0.5),
            },
        )
        expect_close(out, fused(q, k, v, scale=1.0), "not softmax(q kᵀ) v: the scores stay as they are")
    expect_fresh(unscaled)


@exercise
def check_look_left(look_left) -> None:
    """On a grid that is not square, every patch that has a left neighbour gives most of its attention to it."""
    positions = sincos_positions((4, 6), 16)
    weight = look_left(positions)
    expect_shape(weight, (16, 16), "(dim, dim): it maps a position to a query")
    flat = sincos_positions((4, 6), 16).flatten(0, 1)
    attention = (flat @ weight.to(flat) @ flat.T / 16**0.5).softmax(dim=-1).reshape(4, 6, 4, 6)
    looks = {(r, c): divmod(int(attention[r, c].argmax()), 6) for r in range(4) for c in range(1, 6)}
    for hint, (down, right) in {
        "most patches look at themselves: the query has to be the position of the patch on the left": (0, 0),
        "most patches look at their right neighbour: turn the other way": (0, 1),
        "most patches look up: rows have the first half of the channels, columns the second": (-1, 0),
        "most patches look down: rows have the first half of the channels, columns the second": (1, 0),
    }.items():
        found = sum(looked == (r + down, c + right) for (r, c), looked in looks.items())
        expect(found <= len(looks) / 2, hint)
    wrong = [place for place, looked in looks.items() if looked != (place[0], place[1] - 1)]
    expect(
        not wrong, f"patch {wrong[:1]} does not look most at its left neighbour; {len(wrong)} of {len(looks)} do not"
    )
    least = min(float(attention[r, c, r, c - 1]) for r, c in looks)
    expect(
        least > 0.5, f"the left neighbour has the largest share, but only {least:.2f}: multiply the weight, up to 1000"
    )


@exercise
def check_map_of(map_of) -> None:
    """A patch's view on a grid that is not square, behind two tokens, and no other token's scores."""
    q, k = _random(2, 3, 8, 4), _random(2, 3, 8, 4, seed=1)
    attention = (q @ k.mT / 2).softmax(-1)
    with _Computed() as computed:
        view = map_of(q, k, 4, (2, 3), 2)
    expect_shape(view, (2, 3, 2, 3), "(batch, heads, rows, columns)")
    products = q[:, :, 4:5] @ k.mT
    before = (q[:, :, 4:5] @ k[:, :, 2:].mT / 2).softmax(-1)
    mistakes = {
        "the tokens in front take their share too: drop them after the softmax": before,
        "this is who attends to the token: its own attention is the row, not the column": attention[:, :, 2:, 4],
        "queries and keys are swapped: the token's query meets all keys": (k @ q.mT / 2).softmax(-1)[:, :, 4, 2:],
        "the scores are not divided by √dim": products.softmax(-1)[..., 2:],
        "the scores are divided by dim: divide by its square root": (products / 4).softmax(-1)[..., 2:],
        "this is another token's row: `token` counts from the start of the sequence": attention[:, :, 6, 2:],
        "the softmax is missing": products[..., 2:] / 2,
        "these are the last tokens dropped: `in_front` tokens stand before the patches": attention[:, :, 4, :6],
    }
    refuse_mistakes(view, {hint: wrong.reshape(2, 3, 2, 3) for hint, wrong in mistakes.items()})
    right = attention[:, :, 4, 2:]
    transposed = right.reshape(2, 3, 3, 2).mT
    refuse_mistakes(view, {"the patches are laid out column by column: they run row by row": transposed})
    expect_close(view, right.reshape(2, 3, 2, 3), "not the row of this token over the patches")
    every = [shape for shape in computed.shapes if {8, 6} & set(shape) and prod(shape) >= 2 * 3 * 8 * 6]
    expect(not every, "right, but the scores of every token are computed: take the one query before the product")


def _wide(shape: tuple[int, ...]) -> bool:
    """Whether a tensor holds scores of more keys than a tile of 4, in `check_in_tiles`: no other axis has 6 to 14."""
    last = sorted(shape[-2:])
    return bool(last) and 6 <= last[-1] <= 14 and not {3, 4} & set(last)


@exercise
def check_in_tiles(in_tiles) -> None:
    """Keys in tiles of which the last is not full, scores too large for a bare exponential, no score of all keys."""
    q, k, v = _random(2, 2, 5, 3), _random(2, 2, 14, 3, seed=1), _random(2, 2, 14, 3, seed=2)
    with _Computed() as computed:
        out = in_tiles(q, k, v, 4)
    expect_shape(out, (2, 2, 5, 3), "one output for each query: (batch, heads, queries, dim)")
    attend = F.scaled_dot_product_attention
    each = [attend(q, *tile) for tile in zip(k.split(4, dim=-2), v.split(4, dim=-2))]
    mistakes = {
        "these are the tiles' outputs, averaged: a tile counts by the sum of its exponentials": sum(each) / len(each),
        "these are the tiles' outputs, added: divide by the sum of the exponentials of all tiles": sum(each),
        "the last tile is missing: it may be smaller than the others": attend(q, k[:, :, :12], v[:, :, :12]),
        "this is the last tile alone: earlier tiles have to be kept": each[-1],
        "the scores are not divided by √dim": attend(q, k, v, scale=1.0),
    }
    refuse_mistakes(out, mistakes)
    expected = attend(q, k, v)
    expect_close(out, expected, "not the attention over all keys: does what is kept shrink when the maximum grows?")
    expect(FUSED not in computed.calls, "right, but that is PyTorch's own attention: write what it does")
    wide = any(map(_wide, computed.shapes))
    expect(not wide, "right, but more than `size` scores of a query are held at once: go tile by tile")
    large = in_tiles(q * 900, k, v, 4)
    finite = "large scores give inf or nan: subtract each query's largest score so far before the exponential"
    expect(bool(large.isfinite().all()), finite)
    grown = "with large scores the output is off: when the maximum grows, what is kept has to shrink with it"
    expect_close(large, attend(q * 900, k, v), grown, 1e-4)
    low, high = -900 * q.abs(), k.abs()
    begun = "where all scores are far below 0 the output is off: the largest score so far begins at −∞"
    expect_close(in_tiles(low, high, v, 4), attend(low, high, v), begun, 1e-4)


@exercise
def check_looks_at(looks_at) -> None:
    """One token, all tokens, and zeros."""
    shares = torch.tensor([[0.5, 0.25, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25] * 4]).repeat(2, 1, 1)
    numbers = looks_at(shares)
    expect_shape(numbers, (2, 3), "(…, queries): one number for each query, so sum over the keys")
    expect(not numbers.isnan().any(), "a share of 0 gives 0 · log 0 = nan: use torch.special.entr")
    entropy = torch.special.entr(shares).sum(-1)
    mistakes = {
        "this is the entropy itself: take e to the power of it": entropy,
        "the entropy has the wrong sign: there is a minus in H": (-entropy).exp(),
        "the entropy is in bits, so that e is the wrong base: use the natural logarithm": (
            entropy / torch.tensor(2.0).log()
        ).exp(),
        "this counts the shares that are not 0: weigh them by the entropy": (shares > 0).sum(-1).float(),
        "this is 1 over the sum of squares, another such count: take e to the power of the entropy": (
            1 / shares.square().sum(-1)
        ),
    }
    refuse_mistakes(numbers, mistakes)
    expect_close(numbers, entropy.exp(), "not e to the entropy: by hand, shares of 1/2, 1/4 and 1/4 give 2.83")
