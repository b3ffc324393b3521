"""Wrong answers that the checkers of chapter 9 have to refuse."""

import torch
from einops import einsum, rearrange

from dtl_lib import TokenPlan, ViT


def _read(block, x, query=None, keys=None, divide=True, out=None):
    """The class token's new value, with one thing wrong where an argument says so."""
    normed, heads = block.norm1(x), block.attention.heads
    query, keys = normed[:, :1] if query is None else query(x, normed), normed if keys is None else keys(x, normed)
    weight, bias = block.attention.qkv.weight, block.attention.qkv.bias
    q, k, v = (
        rearrange(tokens @ w.T + b, "b t (h d) -> b h t d", h=heads)
        for tokens, w, b in zip((query, keys, keys), weight.chunk(3), bias.chunk(3))
    )
    row = (q @ k.mT / (q.shape[-1] ** 0.5 if divide else 1)).softmax(dim=-1)
    attended = block.attention.project(rearrange(row @ v, "b h t d -> b t (h d)"))
    if out is not None:
        return out(block, x[:, :1], attended)
    token = x[:, :1] + block.scale1(attended)
    return token + block.scale2(block.mlp(block.norm2(token)))


def _sequence(token, x):
    return torch.cat([token, x[:, 1:]], dim=1)


def everyone_asks(block, x):
    return block(x)


def token_alone(block, x):
    return _read(block, x)


def normed_patches(block, x):
    return torch.cat([_read(block, x), block.norm1(x)[:, 1:]], dim=1)


def without_itself(block, x):
    return _sequence(_read(block, x, keys=lambda x, normed: normed[:, 1:]), x)


def bare_keys(block, x):
    return _sequence(_read(block, x, keys=lambda x, normed: torch.cat([normed[:, :1], x[:, 1:]], dim=1)), x)


def bare(block, x):
    return _sequence(_read(block, x, query=lambda x, normed: x[:, :1], keys=lambda x, normed: x), x)


def not_divided(block, x):
    return _sequence(_read(block, x, divide=False), x)


def no_mlp(block, x):
    return _sequence(_read(block, x, out=lambda block, token, new: token + block.scale1(new)), x)


def mlp_of_all(block, x):
    patches = x + block.scale2(block.mlp(block.norm2(x)))
    return torch.cat([_read(block, x), patches[:, 1:]], dim=1)


def class_token_last(block, x):
    return torch.cat([x[:, 1:], _read(block, x)], dim=1)


def _twice(block, token, new, scale=lambda scale, x: scale(x)):
    token = token + scale(block.scale1, new)
    return token + scale(block.scale2, block.mlp(block.norm2(token)))


def no_layer_scale(block, x):
    return _sequence(_read(block, x, out=lambda *of: _twice(*of, scale=lambda scale, x: x)), x)


def replaced(block, x):
    return _sequence(_read(block, x, out=lambda block, token, new: _twice(block, 0 * token, new)), x)


def first_patch_asks(block, x):
    return _sequence(_read(block, x, query=lambda x, normed: normed[:, 1:2]), x)


def detached(block, x):
    return _sequence(_read(block, x), x).detach()


def one_head(block, x):
    q, k, v = block.attention.qkv(block.norm1(x)).chunk(3, dim=-1)
    row = (q[:, :1] @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
    return _sequence(_twice(block, x[:, :1], block.attention.project(row @ v)), x)


def _mix(maps, linear, turned=False, bias=True):
    weight = linear.weight.T if turned else linear.weight
    mixed = einsum(maps, weight, "b h q k, g h -> b g q k")
    return mixed + linear.bias[:, None, None] if bias else mixed


def softmax_first(scores, before, after):
    return _mix(_mix(scores.softmax(dim=-1), before), after)


def mixed_once(scores, before, after):
    return _mix(scores, before).softmax(dim=-1)


def mixed_at_the_end(scores, before, after):
    return _mix(scores.softmax(dim=-1), after)


def exchanged(scores, before, after):
    return _mix(_mix(scores, after).softmax(dim=-1), before)


def transposed(scores, before, after):
    return _mix(_mix(scores, before, turned=True).softmax(dim=-1), after, turned=True)


def no_biases(scores, before, after):
    return _mix(_mix(scores, before, bias=False).softmax(dim=-1), after, bias=False)


def over_queries(scores, before, after):
    return _mix(_mix(scores, before).softmax(dim=-2), after)


def over_heads(scores, before, after):
    return _mix(_mix(scores, before).softmax(dim=1), after)


def no_softmax(scores, before, after):
    return _mix(_mix(scores, before), after)


def softmax_twice(scores, before, after):
    return _mix(_mix(scores, before).softmax(dim=-1), after).softmax(dim=-1)


def one_bias_left_out(scores, before, after):
    return _mix(_mix(scores, before).softmax(dim=-1), after, bias=False)


CAIT = TokenPlan.of(5, cls_pos=5, class_blocks=1)


def bias_once(after, keys):
    return after.weight.sum(dim=1) + after.bias


def no_bias(after, keys):
    return after.weight.sum(dim=1)


def other_axis(after, keys):
    return after.weight.sum(dim=0) + keys * after.bias


def all_ones(after, keys):
    return torch.ones(after.out_features)


def each_key_one(after, keys):
    return keys * (after.weight.sum(dim=1) + after.bias)


def _costs(patches, dim):
    tokens = patches + 1
    everyone = 12 * tokens * dim**2 + 2 * tokens**2 * dim
    return tokens, everyone, (2 * tokens + 10) * dim**2 + 2 * tokens * dim


def without_the_class_token(patches, dim):
    _, everyone, alone = _costs(patches - 1, dim)
    return alone / everyone


def keys_of_one(patches, dim):
    tokens, everyone, _ = _costs(patches, dim)
    return (12 * dim**2 + 2 * tokens * dim) / everyone


def queries_of_all(patches, dim):
    _, everyone, alone = _costs(patches, dim)
    return (alone + patches * dim**2) / everyone


def queries_and_projection_of_all(patches, dim):
    _, everyone, alone = _costs(patches, dim)
    return (alone + 2 * patches * dim**2) / everyone


def mlp_of_everyone(patches, dim):
    _, everyone, alone = _costs(patches, dim)
    return (alone + 8 * patches * dim**2) / everyone


def whole_matrix(patches, dim):
    tokens, everyone, alone = _costs(patches, dim)
    return (alone + 2 * (tokens - 1) * tokens * dim) / everyone


def upside_down(patches, dim):
    _, everyone, alone = _costs(patches, dim)
    return everyone / alone


def one_in_tokens(patches, dim):
    return 1 / (patches + 1)


def _built(plan, **changes):
    return ViT.build("vit_shapes_patch8_32", plan=plan, **changes)


def still_class_attention():
    return _built(TokenPlan.of(4, cls_pos=4, class_blocks=2))


def too_shallow():
    return _built(TokenPlan.of(5, cls_pos=4))


def from_the_start():
    return _built(TokenPlan.of(6, cls_pos=0))


def no_class_token():
    return _built(TokenPlan.of(6, cls_pos=None))


def with_registers():
    return _built(TokenPlan.of(6, cls_pos=4, reg_pos=0, num_reg=4))


def talking():
    return _built(TokenPlan.of(6, cls_pos=4), talking_heads=True)


def plan_alone():
    return TokenPlan.of(6, cls_pos=4)


WRONG = {
    "check_my_class_attention": [
        everyone_asks, token_alone, normed_patches, without_itself, bare_keys, bare, not_divided, no_mlp, mlp_of_all,
        class_token_last, no_layer_scale, replaced, first_patch_asks, detached, one_head,
    ],
    "check_my_talking_heads": [
        softmax_first, mixed_once, mixed_at_the_end, exchanged, transposed, no_biases, over_queries, over_heads,
        no_softmax, softmax_twice, one_bias_left_out,
    ],
    "check_same_function": [
        CAIT, TokenPlan.of(6), TokenPlan.of(6, cls_pos=4), TokenPlan.of(5, cls_pos=4), TokenPlan.of(6, cls_pos=None),
        TokenPlan.of(6, cls_pos=5, reg_pos=5, num_reg=1), 5,
    ],
    "check_row_sums": [bias_once, no_bias, other_axis, all_ones, each_key_one],
    "check_cost_ratio": [
        without_the_class_token, keys_of_one, queries_of_all, queries_and_projection_of_all, mlp_of_everyone,
        whole_matrix, upside_down, one_in_tokens,
    ],
    "check_moving": [
        still_class_attention, too_shallow, from_the_start, no_class_token, with_registers, talking, plan_alone,
    ],
}  # fmt: skip
