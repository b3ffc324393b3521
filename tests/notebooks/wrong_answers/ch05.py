"""Wrong answers that the checkers of chapter 05 have to refuse."""

import torch

from dtl_lib.models import ViT


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


def nothing_leaves(x, now, name):
    return x + 0


def zeroed(x, now, name):
    x = x.clone()
    x[:, now[name]] = 0
    return x


def wrong_axis(x, now, name):
    return torch.cat([x[now[name].stop :], x[: now[name].start]], dim=0)


def after_it_alone(x, now, name):
    return x[:, now[name].stop :]


def reordered(x, now, name):
    return torch.cat([x[:, now[name].stop :], x[:, : now[name].start]], dim=1)


def guest_alone(x, now, name):
    return torch.cat([x[:, :1], x[:, 3:]], dim=1)


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


def linear_alone(dim, patches, cls_pos):
    return cls_pos * 12 * dim**2


def query_alone(dim, patches, cls_pos):
    return cls_pos * (12 * dim**2 + 2 * patches * dim)


def without_itself(dim, patches, cls_pos):
    return cls_pos * (12 * dim**2 + 4 * patches * dim)


def all_blocks(dim, patches, cls_pos):
    return 12 * (12 * dim**2 + 2 * (2 * patches + 1) * dim)


WRONG = {
    "check_layout": [
        never_leaves, leaves_late, enters_late, always_there, closed_patches, no_patches, one_token_a_group,
    ],
    "check_leave": [nothing_leaves, zeroed, wrong_axis, after_it_alone, reordered, guest_alone],
    "check_first_query": [unnormalised, key_instead, of_block_0, heads_transposed, not_cut],
    "check_saved": [linear_alone, query_alone, without_itself, all_blocks],
}  # fmt: skip
