"""Wrong answers that the checkers of chapter 05 have to refuse."""

import torch

from dtl_lib import TokenPlan, ViT


def _layout(groups, block, present, patches_first=False, always=False, closed=False):
    places, start = {}, 0
    for name, tokens, enter, leave in groups:
        if present(block, enter, leave) or always:
            places[name] = slice(start, start + tokens)
            start += tokens
    return {**places, "patches": slice(start, start + 16 if closed else None)}


def _there(block, enter, leave):
    return enter <= block and (leave is None or block < leave)


def never_leaves(groups, block):
    return _layout(groups, block, lambda b, enter, leave: enter <= b)


def leaves_late(groups, block):
    return _layout(groups, block, lambda b, enter, leave: enter <= b and (leave is None or b <= leave))


def enters_late(groups, block):
    return _layout(groups, block, lambda b, enter, leave: enter < b and (leave is None or b < leave))


def always_there(groups, block):
    return _layout(groups, block, _there, always=True)


def closed_patches(groups, block):
    return _layout(groups, block, _there, closed=True)


def no_patches(groups, block):
    return {name: where for name, where in _layout(groups, block, _there).items() if name != "patches"}


def one_token_a_group(groups, block):
    return _layout([(name, 1, enter, leave) for name, _, enter, leave in groups], block, _there)


def patches_in_front(groups, block):
    places = _layout(groups, block, _there)
    return {"patches": places.pop("patches"), **places}


def nothing_without_groups(groups, block):
    places = _layout(groups, block, _there)
    return places if len(places) > 1 else {}


def starts_alone(groups, block):
    return {name: where.start for name, where in _layout(groups, block, _there).items()}


def _pieces(x, now, tokens, names):
    return torch.cat([x[:, now[n]] if n in now else tokens[n].expand(len(x), -1, -1) for n in names], dim=1)


def nothing_moves(x, now, then, tokens):
    return x


def appended(x, now, then, tokens):
    return _pieces(x, now, tokens, [n for n in now if n in then] + [n for n in then if n not in now])


def put_in_front(x, now, then, tokens):
    return _pieces(x, now, tokens, [n for n in then if n not in now] + [n for n in now if n in then])


def nobody_leaves(x, now, then, tokens):
    return _pieces(x, now, tokens, [*(n for n in now if n not in then), *then])


def cut_by_then(x, now, then, tokens):
    return _pieces(x, {name: then[name] for name in now if name in then}, tokens, then)


def one_for_the_batch(x, now, then, tokens):
    return torch.cat([x[:, now[n]] if n in now else tokens[n] for n in then], dim=1)


def over_the_batch(x, now, then, tokens):
    return torch.cat([x[:, now[n]] if n in now else tokens[n].expand(len(x), -1, -1) for n in then], dim=0)


def detached(x, now, then, tokens):
    return _pieces(x, now, {name: value.detach() for name, value in tokens.items()}, then)


def cut_off(x, now, then, tokens):
    return _pieces(x.detach(), now, tokens, then)


def by_name(x, now, then, tokens):
    return _pieces(x, now, tokens, sorted(then))


def class_token_alone(x, now, then, tokens):
    return _pieces(x, now, tokens, [name for name in then if name in now or name == "cls"])


def zeros_enter(x, now, then, tokens):
    return _pieces(x, now, {name: torch.zeros_like(value) for name, value in tokens.items()}, then)


def in_place(x, now, then, tokens):
    answer = _pieces(x, now, tokens, then)
    with torch.no_grad():
        x += 1
    return answer


def for_two_images(x, now, then, tokens):
    return torch.cat([x[:, now[n]] if n in now else tokens[n].expand(2, -1, -1) for n in then], dim=1)


def taken_out_of_the_layout(x, now, then, tokens):
    return torch.cat([x[:, now.pop(n)] if n in now else tokens[n].expand(len(x), -1, -1) for n in then], dim=1)


def _query(model: ViT, block: int, part: int = 0, norm: bool = True):
    token, layer = model.tokens["cls"], model.blocks[block]
    token = layer.norm1(token) if norm else token
    return layer.attention.project_qkv(token[None], slice(0, 1))[part]


def _enters(model: ViT) -> int:
    return model.plan.group("cls").enter


def unnormalised(model):
    return _query(model, _enters(model), norm=False).reshape(model.config.heads, -1)


def key_instead(model):
    return _query(model, _enters(model), part=1).reshape(model.config.heads, -1)


def of_block_0(model):
    return _query(model, 0).reshape(model.config.heads, -1)


def heads_transposed(model):
    return _query(model, _enters(model)).reshape(-1, model.config.heads).T


def not_cut(model):
    return _query(model, _enters(model)).flatten()


def divided(model):
    return (
        _query(model, _enters(model)).reshape(model.config.heads, -1) / (model.config.dim // model.config.heads) ** 0.5
    )


def no_bias(model):
    layer = model.blocks[_enters(model)]
    weight = layer.attention.qkv.weight.chunk(3)[0]
    return (layer.norm1(model.tokens["cls"]) @ weight.T).reshape(model.config.heads, -1)


def value_instead(model):
    layer = model.blocks[_enters(model)]
    return layer.attention.qkv(layer.norm1(model.tokens["cls"])).chunk(3, -1)[2].reshape(model.config.heads, -1)


def norm_of_the_mlp(model):
    layer = model.blocks[_enters(model)]
    return layer.attention.qkv(layer.norm2(model.tokens["cls"])).chunk(3, -1)[0].reshape(model.config.heads, -1)


def bare_norm(model):
    token = torch.nn.functional.layer_norm(model.tokens["cls"], (model.config.dim,))
    return model.blocks[_enters(model)].attention.qkv(token).chunk(3, -1)[0].reshape(model.config.heads, -1)


def head_by_head(model):
    layer = model.blocks[_enters(model)]
    return layer.attention.qkv(layer.norm1(model.tokens["cls"])).reshape(model.config.heads, 3, -1)[:, 0]


def linear_alone(dim, patches, cls_pos):
    return cls_pos * 12 * dim**2


def query_alone(dim, patches, cls_pos):
    return cls_pos * (12 * dim**2 + 2 * patches * dim)


def its_own_row(dim, patches, cls_pos):
    return cls_pos * (12 * dim**2 + 2 * (patches + 1) * dim)


def blocks_it_is_in(dim, patches, cls_pos):
    return saved_rightly(dim, patches, 12 - cls_pos)


def one_block_less(dim, patches, cls_pos):
    return saved_rightly(dim, patches, cls_pos - 1)


def without_itself(dim, patches, cls_pos):
    return cls_pos * (12 * dim**2 + 4 * patches * dim)


def all_blocks(dim, patches, cls_pos):
    return 12 * (12 * dim**2 + 2 * (2 * patches + 1) * dim)


def all_blocks_of_four(dim, patches, cls_pos):
    return 4 * (12 * dim**2 + 2 * (2 * patches + 1) * dim) if cls_pos == 3 else saved_rightly(dim, patches, cls_pos)


def two_operations(dim, patches, cls_pos):
    return 2 * saved_rightly(dim, patches, cls_pos)


def saved_rightly(dim, patches, cls_pos):
    return cls_pos * (12 * dim**2 + 2 * (2 * patches + 1) * dim)


def _built(plan, **changes):
    return ViT.build("vit_shapes_patch8_32", plan, **changes)


def from_the_start():
    return _built(TokenPlan.of(4, cls_pos=0))


def one_block_early():
    return _built(TokenPlan.of(4, cls_pos=2))


def pooled():
    return _built(TokenPlan.of(4, cls_pos=None))


def with_registers():
    return _built(TokenPlan.of(4, cls_pos=3, reg_pos=0, num_reg=4))


def class_attention():
    return _built(TokenPlan.of(4, cls_pos=3, class_blocks=1))


def deeper():
    return _built(TokenPlan.of(6, cls_pos=5))


def other_patches():
    return _built(TokenPlan.of(4, cls_pos=3), patch_size=4)


def plan_alone():
    return TokenPlan.of(4, cls_pos=3)


ONE = _built(TokenPlan.of(4, cls_pos=3))


def same_again():
    return ONE


WRONG = {
    "check_enter_and_leave": [
        nothing_moves, appended, put_in_front, nobody_leaves, cut_by_then, one_for_the_batch, over_the_batch, detached,
        class_token_alone, zeros_enter, in_place, cut_off, by_name, for_two_images, taken_out_of_the_layout,
    ],
    "check_late": [
        from_the_start, one_block_early, pooled, with_registers, class_attention, deeper, other_patches, plan_alone,
        same_again,
    ],
    "check_layout": [
        never_leaves, leaves_late, enters_late, always_there, closed_patches, no_patches, one_token_a_group,
        patches_in_front, starts_alone, nothing_without_groups,
    ],
    "check_first_query": [
        unnormalised, key_instead, value_instead, of_block_0, heads_transposed, not_cut, divided, no_bias,
        norm_of_the_mlp, bare_norm, head_by_head,
    ],
    "check_saved": [
        linear_alone, query_alone, its_own_row, without_itself, all_blocks, all_blocks_of_four, two_operations,
        blocks_it_is_in, one_block_less,
    ],
}  # fmt: skip
