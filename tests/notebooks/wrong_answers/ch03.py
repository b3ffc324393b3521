"""Wrong answers that the checkers of chapter 03 have to refuse."""

import torch


def scale_on_the_residual(x, norm1, attention, scale1, norm2, mlp, scale2):
    x = scale1(x) + attention(norm1(x))
    return scale2(x) + mlp(norm2(x))


def post_norm(x, norm1, attention, scale1, norm2, mlp, scale2):
    x = norm1(x + scale1(attention(x)))
    return norm2(x + scale2(mlp(x)))


def side_by_side(x, norm1, attention, scale1, norm2, mlp, scale2):
    return x + scale1(attention(norm1(x))) + scale2(mlp(norm2(x)))


def no_residual(x, norm1, attention, scale1, norm2, mlp, scale2):
    return scale2(mlp(norm2(scale1(attention(norm1(x))))))


def mlp_first(x, norm1, attention, scale1, norm2, mlp, scale2):
    x = x + scale2(mlp(norm2(x)))
    return x + scale1(attention(norm1(x)))


def class_token_last(patches, token):
    return torch.cat([patches, token.expand(len(patches), 1, -1)], dim=1)


def class_token_added(patches, token):
    return patches + token


def class_token_once(patches, token):
    return torch.cat([token[None], patches[:1]], dim=1)


def class_token_instead(patches, token):
    return torch.cat([token.expand(len(patches), 1, -1), patches[:, 1:]], dim=1)


def _count(dim, depth, patch_size, image_size, classes, cls=1, norms=4, last=2):
    places = (image_size // patch_size) ** 2 + cls
    patches = 3 * patch_size**2 * dim + dim
    block = 12 * dim**2 + (9 + norms) * dim
    return patches + places * dim + depth * block + last * dim + (dim + 1) * classes


def no_class_token(dim, depth, patch_size, image_size, classes):
    return _count(dim, depth, patch_size, image_size, classes, cls=0)


def no_norms(dim, depth, patch_size, image_size, classes):
    return _count(dim, depth, patch_size, image_size, classes, norms=0)


def no_last_norm(dim, depth, patch_size, image_size, classes):
    return _count(dim, depth, patch_size, image_size, classes, last=0)


def tiny_alone(dim, depth, patch_size, image_size, classes):
    return 5_717_224


def always_196_places(dim, depth, patch_size, image_size, classes):
    return _count(dim, depth, patch_size, 14 * patch_size, classes)


def every_block_idle(depth, reads_patches):
    return ["all" if reads_patches else "cls"] * depth


def never_idle(depth, reads_patches):
    return ["all"] * depth


def idle_for_patches_too(depth, reads_patches):
    return ["all"] * (depth - 1) + ["cls"]


def first_instead(depth, reads_patches):
    return ["all" if reads_patches else "cls"] + ["all"] * (depth - 1)


WRONG = {
    "check_block_forward": [scale_on_the_residual, post_norm, side_by_side, no_residual, mlp_first],
    "check_with_class_token": [class_token_last, class_token_added, class_token_once, class_token_instead],
    "check_parameters": [no_class_token, no_norms, no_last_norm, tiny_alone, always_196_places],
    "check_needed_rows": [every_block_idle, never_idle, idle_for_patches_too, first_instead],
}
