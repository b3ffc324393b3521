"""Checkers of chapter 09, Class attention: CaiT."""

from collections.abc import Callable

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from ..config import ViTConfig
from ..cost import cost_of
from ..layers import Block
from ..models import ViT
from ..tokens import TokenPlan
from . import (
    exercise,
    expect,
    expect_close,
    expect_fresh,
    expect_learns,
    expect_number,
    expect_shape,
    is_near,
    refuse_mistakes,
)

DEPTH, CLASS_BLOCKS = 4, 2  # of the model in "change, run, explain"


def _drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every parameter at a value of its own, as large as is usual after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return module.eval()


def _class_token(block: Block, x: Tensor, normed: Tensor, keys: Tensor, divide: bool = True) -> Tensor:
    """The class token's new value; `normed` has its query, `keys` are what it may attend to."""
    weights, biases = block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3)
    q, k, v = (
        rearrange(part @ weight.T + bias, "b t (h d) -> b h t d", h=block.attention.heads)
        for part, weight, bias in zip((normed, keys, keys), weights, biases)
    )
    scores = q @ k.mT / (q.shape[-1] ** 0.5 if divide else 1)
    out = block.attention.project(rearrange(scores.softmax(dim=-1) @ v, "b h t d -> b t (h d)"))
    x = x[:, :1] + block.scale1(out)
    return x + block.scale2(block.mlp(block.norm2(x)))


def _with_patches(token: Tensor, x: Tensor) -> Tensor:
    return torch.cat([token, x[:, 1:]], dim=1)


@exercise
def check_my_class_attention(my_class_attention) -> None:
    """A block with LayerScale and biases, three images, a class token and six patches."""
    block = _drawn(Block(12, 3, layer_scale=0.5))
    x = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answer = my_class_attention(block, x.clone())
        expect(
            not (isinstance(answer, Tensor) and answer.shape == (3, 1, 12)),
            "return the whole sequence: the new class token, then the patches as they were",
        )
        expect_shape(answer, (3, 7, 12), "the sequence is as long as before: (batch, tokens, dim)")
        normed, everyone = block.norm1(x), block(x)
        right = _class_token(block, x, normed[:, :1], normed)
        attended = x[:, :1] + block.scale1(block.attention(normed, slice(0, 1)))
        mistakes = {
            "the patches have changed too: only the class token asks and is updated": everyone,
            "the patches come back normalised: they stay as they were": torch.cat([right, normed[:, 1:]], dim=1),
            "the keys are those of the patches alone: the class token is a key too": _with_patches(
                _class_token(block, x, normed[:, :1], normed[:, 1:]), x
            ),
            "the keys are made without norm1: it is applied to every token": _with_patches(
                _class_token(block, x, normed[:, :1], torch.cat([normed[:, :1], x[:, 1:]], dim=1)), x
            ),
            "nothing is normalised: norm1 comes before attention": _with_patches(
                _class_token(block, x, x[:, :1], x), x
            ),
            "the scores are not divided by the root of the head dimension": _with_patches(
                _class_token(block, x, normed[:, :1], normed, divide=False), x
            ),
            "the MLP is missing: after attention comes the block's second line": _with_patches(attended, x),
            "the MLP works on the patches too: they stay as they were": torch.cat(
                [right, (x + block.scale2(block.mlp(block.norm2(x))))[:, 1:]], dim=1
            ),
            "the class token comes last: it is the first of the sequence": torch.cat([x[:, 1:], right], dim=1),
        }
        refuse_mistakes(answer, mistakes | _unscaled(block, x, normed))
        expect_close(
            answer, _with_patches(right, x), "the block's two lines for the class token, keys from every token"
        )
    for name, parameter in block.attention.named_parameters():
        expect_learns(my_class_attention(block, x.clone()), {f"attention.{name}": parameter})


def _unscaled(block: Block, x: Tensor, normed: Tensor) -> dict[str, Tensor]:
    """What comes of a branch whose LayerScale is left out, or that replaces the stream."""
    attention, query = block.attention(normed, slice(0, 1)), x[:, :1]
    bare = query + attention
    bare = bare + block.mlp(block.norm2(bare))
    replaced = block.scale1(attention)
    replaced = replaced + block.scale2(block.mlp(block.norm2(replaced)))
    return {
        "LayerScale is left out: scale1 and scale2 multiply the branches": _with_patches(bare, x),
        "attention replaces the class token: it is added to it": _with_patches(replaced, x),
    }


@exercise
def check_my_talking_heads(my_talking_heads) -> None:
    """Scores of two images, three heads, four queries and five keys."""
    before, after = _drawn(nn.Linear(3, 3), 2), _drawn(nn.Linear(3, 3), 3)
    scores = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        answer = my_talking_heads(scores.clone(), before, after)
        expect_shape(answer, (2, 3, 4, 5), "a matrix for each head: (batch, heads, query, key)")
        first, plain = _mixed(scores, before), scores.softmax(dim=-1)
        mistakes = {
            "the softmax comes before both mixings: the first mixes scores": _mixed(_mixed(plain, before), after),
            "the second mixing is missing": first.softmax(dim=-1),
            "the first mixing is missing": _mixed(plain, after),
            "before and after are exchanged": _mixed(_mixed(scores, after).softmax(dim=-1), before),
            "the weights are transposed: weight[g, h] is what head g takes of head h": _mixed(
                _mixed(scores, before, turned=True).softmax(dim=-1), after, turned=True
            ),
            "the biases are left out: nn.Linear adds one": _mixed(
                _mixed(scores, before, bias=False).softmax(dim=-1), after, bias=False
            ),
            "the softmax runs over the queries: over the keys, the last axis": _mixed(first.softmax(dim=-2), after),
            "the softmax runs over the heads: over the keys, the last axis": _mixed(first.softmax(dim=1), after),
            "there is no softmax between the two": _mixed(first, after),
            "there is a second softmax at the end: the second mixing is the last step": (
                _mixed(first.softmax(dim=-1), after).softmax(dim=-1)
            ),
        }
        refuse_mistakes(answer, mistakes)
        expect_close(answer, _mixed(first.softmax(dim=-1), after), "mix the scores, softmax over keys, mix the shares")


def _mixed(maps: Tensor, linear: nn.Linear, turned: bool = False, bias: bool = True) -> Tensor:
    weight = linear.weight.T if turned else linear.weight
    mixed = einsum(maps, weight, "batch head query key, new head -> batch new query key")
    return mixed + linear.bias[:, None, None] if bias else mixed


@exercise
def check_same_function(plan) -> None:
    """Five blocks and one of class attention, with random weights, beside a plain model of the reader's plan."""
    expect(isinstance(plan, TokenPlan), f"a TokenPlan is wanted, not {type(plan).__name__}")
    expect(plan.class_blocks == 0, "a plain ViT has no class-attention blocks: class_blocks=0")
    expect(plan.group("cls") is not None, "the head reads a class token: give cls_pos")
    expect(len(plan.groups) == 1, "there are no other tokens than the class token in the first model")
    expect(plan.depth == 6, f"five blocks and one are six: yours has a depth of {plan.depth}")
    cait = _model(TokenPlan.of(5, cls_pos=5, class_blocks=1))
    plain = ViT(cait.config.with_plan(plan)).eval()
    plain.load_state_dict(cait.state_dict())
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        theirs, yours = cait(images), plain(images)
    hint = "with the same weights the logits differ: before which block does the first model's class token enter?"
    expect_close(yours, theirs, hint, 1e-4)


def _model(plan: TokenPlan) -> ViT:
    config = ViTConfig(16, 4, dim=24, depth=plan.depth, heads=3, plan=plan, classes=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        model = ViT(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@exercise
def check_row_sums(row_sums) -> None:
    """Two mixings, of three and of two heads, over five and nine keys."""
    for heads, keys in ((3, 5), (2, 9)):
        after = _drawn(nn.Linear(heads, heads), heads)
        with torch.no_grad():
            answer = row_sums(after, keys)
            expect_shape(answer, (heads,), "a sum for each head: (heads,)")
            of_weights, bias = after.weight.sum(dim=1), after.bias
            mistakes = {
                "every key gets the bias: over a row it adds up to keys · bias": of_weights + bias,
                "the bias is left out": of_weights,
                "the weights are added over the wrong axis: weight[g, h] is what head g takes of head h": (
                    after.weight.sum(dim=0) + keys * bias
                ),
                "a row of the softmax sums to 1, not to the number of keys": keys * (of_weights + bias),
            }
            refuse_mistakes(answer, mistakes)
            expect_close(
                answer, of_weights + keys * bias, "each row that is mixed sums to 1; the bias is added to each key"
            )


@exercise
def check_cost_ratio(cost_ratio) -> None:
    """Against the library's count, for three sizes."""
    for patches, dim in ((16, 24), (64, 48), (196, 192)):
        size, tokens = 4 * round(patches**0.5), patches + 1
        config = ViTConfig(size, 4, dim=dim, depth=2, heads=2, plan=TokenPlan.of(2, class_blocks=1))
        everyone, *_, alone = cost_of(config).blocks
        answer, square = cost_ratio(patches, dim), dim**2
        mistakes = {
            "the class token is one token more: tokens = patches + 1": _ratio(patches, dim),
            "keys and values are made of every token": (12 * square + 2 * tokens * dim) / everyone,
            "the MLP works on the class token alone": (alone + 8 * patches * square) / everyone,
            "queries, and the projection after attention, are of the class token alone": (
                (alone + patches * square) / everyone
            ),
            "queries are of the class token alone, and so is the projection after attention": (
                (alone + 2 * patches * square) / everyone
            ),
            "the class token's row of scores, and its mixture of values, are one row: 2 · tokens · dim": (
                (alone + 2 * (tokens - 1) * tokens * dim) / everyone
            ),
            "that is self-attention over class attention: the other way round": everyone / alone,
        }
        for hint, wrong in mistakes.items():
            expect(not is_near(answer, wrong), hint)
        expect_number(answer, alone / everyone, f"{patches} patches of width {dim}: {alone:,} of {everyone:,}")


def _ratio(tokens: int, dim: int) -> float:
    everyone = 12 * tokens * dim**2 + 2 * tokens**2 * dim
    return ((2 * tokens + 10) * dim**2 + 2 * tokens * dim) / everyone


@exercise
def check_moving(moving: Callable[[], ViT]) -> None:
    """The same parameters as the model with class attention, and no class attention."""
    model = moving()
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    plan = model.plan
    expect(plan.class_blocks == 0, "there is class attention in it still: class_blocks=0")
    expect(plan.depth == DEPTH + CLASS_BLOCKS, f"{DEPTH} blocks and {CLASS_BLOCKS} are {DEPTH + CLASS_BLOCKS} blocks")
    cls = plan.group("cls")
    expect(cls is not None, f"the class token enters where it did: cls_pos={DEPTH}")
    expect(cls.enter == DEPTH, f"the class token enters where it did: cls_pos={DEPTH}, not {cls.enter}")
    expect(len(plan.groups) == 1, "nothing else enters")
    expected = ViT.build("vit_shapes_patch8_32", plan=plan).config
    expect(model.config == expected, 'all else as in ViT.build("vit_shapes_patch8_32")')
    expect_fresh(moving)
