"""Wrong answers to chapter 17: each is refused, with the hint that names its mistake."""

import random

import torch

from dtl_lib import TokenPlan, ViT


def _parts(hidden, tokens, long):
    return (hidden[long].mean(0), hidden[~long].mean(0), tokens[long].mean(0), tokens[~long].mean(0))


def activation_alone(hidden, columns, tokens, long):
    high, usual, *_ = _parts(hidden, tokens, long)
    return high - usual


def high_alone(hidden, columns, tokens, long):
    return hidden[long].mean(0)


def usual_kept(hidden, columns, tokens, long):
    high, _, one, other = _parts(hidden, tokens, long)
    apart = one - other
    return high * (apart @ columns) / apart.norm() ** 2


def not_less_the_others(hidden, columns, tokens, long):
    high, usual, one, _ = _parts(hidden, tokens, long)
    return (high - usual) * (one @ columns) / one.norm() ** 2


def in_lengths(hidden, columns, tokens, long):
    high, usual, one, other = _parts(hidden, tokens, long)
    return (high - usual) * ((one - other) / (one - other).norm() @ columns)


def never_divided(hidden, columns, tokens, long):
    high, usual, one, other = _parts(hidden, tokens, long)
    return (high - usual) * ((one - other) @ columns)


def length_of_column(hidden, columns, tokens, long):
    high, usual, one, other = _parts(hidden, tokens, long)
    return (high - usual) * columns.norm(dim=0) / (one - other).norm()


def _share(hidden, columns, tokens, long):
    high, usual, one, other = _parts(hidden, tokens, long)
    apart = one - other
    return (high - usual) * (apart @ columns) / apart.norm() ** 2


def no_sign(hidden, columns, tokens, long):
    return _share(hidden, columns, tokens, long).abs()


def exchanged_once(hidden, columns, tokens, long):
    return -_share(hidden, columns, tokens, long)


def image_by_image(hidden, columns, tokens, long):
    gaps = [h[there].mean(0) - h[~there].mean(0) for h, there in zip(hidden, long)]
    aparts = [t[there].mean(0) - t[~there].mean(0) for t, there in zip(tokens, long)]
    gap, apart = sum(gaps) / len(gaps), sum(aparts) / len(aparts)
    return gap * (apart @ columns) / apart.norm() ** 2


def sums(hidden, columns, tokens, long):
    _, _, one, other = _parts(hidden, tokens, long)
    apart = one - other
    return (hidden[long].sum(0) - hidden[~long].sum(0)) * (apart @ columns) / apart.norm() ** 2


def of_channels(hidden, columns, tokens, long):
    return columns @ (hidden[long].mean(0) - hidden[~long].mean(0))


def _there(hidden, neurons, new, patches):
    return torch.cat([hidden[:, new, neurons], hidden[:, patches, neurons]], dim=1)


def _put(hidden, neurons, new, value):
    moved = hidden.clone()
    moved[:, :, neurons] = 0
    moved[:, new, neurons] = value.expand_as(moved[:, new, neurons])
    return moved


def unmoved(hidden, neurons, new, patches):
    return hidden.clone()


def batch_maximum(hidden, neurons, new, patches):
    return _put(hidden, neurons, new, _there(hidden, neurons, new, patches).amax(dim=(0, 1), keepdim=True))


def first_photo(hidden, neurons, new, patches):
    there = _there(hidden, neurons, new, patches)
    moved = hidden.clone()
    moved[0, :, neurons] = 0
    moved[0, new, neurons] = there[0].amax(dim=0, keepdim=True).expand_as(moved[0, new, neurons])
    return moved


def mean_moved(hidden, neurons, new, patches):
    return _put(hidden, neurons, new, _there(hidden, neurons, new, patches).mean(dim=1, keepdim=True))


def sum_moved(hidden, neurons, new, patches):
    return _put(hidden, neurons, new, _there(hidden, neurons, new, patches).sum(dim=1, keepdim=True))


def one_for_both(hidden, neurons, new, patches):
    return _put(hidden, neurons, new, _there(hidden, neurons, new, patches).amax(dim=(1, 2), keepdim=True))


def every_token(hidden, neurons, new, patches):
    return _put(hidden, neurons, new, hidden[:, :, neurons].amax(dim=1, keepdim=True))


def patches_alone(hidden, neurons, new, patches):
    return _put(hidden, neurons, new, hidden[:, patches, neurons].amax(dim=1, keepdim=True))


def copied(hidden, neurons, new, patches):
    moved = hidden.clone()
    value = _there(hidden, neurons, new, patches).amax(dim=1, keepdim=True)
    moved[:, new, neurons] = value.expand_as(moved[:, new, neurons])
    return moved


def class_token_kept(hidden, neurons, new, patches):
    moved = copied(hidden, neurons, new, patches)
    moved[:, patches, neurons] = 0
    return moved


def only_zero(hidden, neurons, new, patches):
    return _put(hidden, neurons, new, torch.zeros(1))


def all_neurons(hidden, neurons, new, patches):
    moved = torch.zeros_like(hidden)
    moved[:, new] = torch.cat([hidden[:, new], hidden[:, patches]], dim=1).amax(dim=1, keepdim=True)
    return moved


def first_token(hidden, neurons, new, patches):
    moved = _put(hidden, neurons, new, _there(hidden, neurons, new, patches).amax(dim=1, keepdim=True))
    moved[:, new.start + 1 : new.stop, neurons] = 0
    return moved


def every_token_but_the_first(hidden, neurons, new, patches):
    return _put(hidden, neurons, new, hidden[:, 1:, neurons].amax(dim=1, keepdim=True))


def other_token_kept(hidden, neurons, new, patches):
    moved = class_token_kept(hidden, neurons, new, patches)
    moved[:, 0, neurons] = 0
    return moved


def largest_in_size(hidden, neurons, new, patches):
    there = _there(hidden, neurons, new, patches)
    return _put(hidden, neurons, new, there.gather(1, there.abs().argmax(dim=1, keepdim=True)))


def not_below_0(hidden, neurons, new, patches):
    return _put(hidden, neurons, new, _there(hidden, neurons, new, patches).amax(dim=1, keepdim=True).clamp(min=0))


def moved_in_place(hidden, neurons, new, patches):
    value = _there(hidden, neurons, new, patches).amax(dim=1, keepdim=True)
    hidden[:, :, neurons] = 0
    hidden[:, new, neurons] = value.expand_as(hidden[:, new, neurons])
    return hidden


def _apart(state, target):
    return (state - target).square().sum(dim=-1), target.square().sum(dim=-1)


def _turned(state, target):
    return 1 - torch.cosine_similarity(state, target, dim=-1)


def turned_alone(state, target):
    return _turned(state, target).mean()


def squared_alone(state, target):
    apart, length = _apart(state, target)
    return apart.mean() / length.mean()


def cosine_added(state, target):
    return squared_alone(state, target) + 1 - turned_alone(state, target)


def not_relative(state, target):
    return _apart(state, target)[0].mean() + turned_alone(state, target)


def of_the_state(state, target):
    return _apart(state, target)[0].mean() / state.square().sum(dim=-1).mean() + turned_alone(state, target)


def token_by_token(state, target):
    apart, length = _apart(state, target)
    return (apart / length).mean() + turned_alone(state, target)


def roots(state, target):
    apart, length = _apart(state, target)
    return apart.sqrt().mean() / length.sqrt().mean() + turned_alone(state, target)


def of_the_whole_batch(state, target):
    return squared_alone(state, target) + 1 - torch.cosine_similarity(state.flatten(), target.flatten(), dim=0)


def turns_summed(state, target):
    return squared_alone(state, target) + _turned(state, target).sum()


def for_each_token(state, target):
    apart, length = _apart(state, target)
    return apart / length + _turned(state, target)


def no_gradient(state, target):
    return (squared_alone(state, target) + turned_alone(state, target)).detach()


def no_tensor(state, target):
    return (squared_alone(state, target) + turned_alone(state, target)).item()


def _alone(move, hidden, rest):
    return torch.cat([move(one[None], *rest) for one in hidden])


def to_the_bit(move, hidden, *rest):
    return torch.equal(move(hidden, *rest), _alone(move, hidden, rest))


def of_the_first(move, hidden, *rest):
    return torch.allclose(move(hidden, *rest)[0], move(hidden[:1], *rest)[0])


def of_two(move, hidden, *rest):
    return torch.allclose(move(hidden, *rest)[:2], _alone(move, hidden[:2], rest))


def shapes_alone(move, hidden, *rest):
    return move(hidden, *rest).shape == _alone(move, hidden, rest).shape


def means_alone(move, hidden, *rest):
    return bool((move(hidden, *rest).mean() - _alone(move, hidden, rest).mean()).abs() < 1e-5)


def far_too_loose(move, hidden, *rest):
    return torch.allclose(move(hidden, *rest), _alone(move, hidden, rest), atol=0.1)


def always_false(move, hidden, *rest):
    return torch.allclose(move(hidden, *rest), hidden)


def a_tensor(move, hidden, *rest):
    return (move(hidden, *rest) - _alone(move, hidden, rest)).abs().max() < 1e-5


def _draw(neurons, width, draws, seed, allowed=None, replace=False):
    drawn, made = random.Random(seed), []
    for _ in range(draws):
        one = []
        for block, _ in neurons:
            taken = set() if replace else set(one)
            left = [n for n in (allowed or range(width)) if (block, n) not in taken and (block, n) not in neurons]
            one.append((block, drawn.choice(left)))
        made.append(one)
    return made


def register_drawn(neurons, width, draws, seed):
    drawn = random.Random(seed)
    return [[(block, drawn.randrange(width)) for block, _ in neurons] for _ in range(draws)]


def drawn_twice(neurons, width, draws, seed):
    return _draw(neurons, width, draws, seed, replace=True)


def of_one_block(neurons, width, draws, seed):
    return [[(neurons[0][0], n) for _, n in one] for one in _draw(neurons, width, draws, seed)]


def one_each(neurons, width, draws, seed):
    return _draw(neurons[:1], width, draws, seed) if len(neurons) > 1 else [[]] * draws


def always_alike(neurons, width, draws, seed):
    return _draw(neurons, width, 1, seed) * draws


def without_seed(neurons, width, draws, seed):
    return _draw(neurons, width, draws, None)


def one_seed(neurons, width, draws, seed):
    return _draw(neurons, width, draws, 0)


def too_few(neurons, width, draws, seed):
    return _draw(neurons, width, 1, seed)


def lower_half(neurons, width, draws, seed):
    return _draw(neurons, width, draws, seed, allowed=range(max(6, width // 2)))


def number_by_number(neurons, width, draws, seed):
    taken = {number for _, number in neurons}
    return _draw(neurons, width, draws, seed, allowed=[n for n in range(width) if n not in taken])


def no_number_twice(neurons, width, draws, seed):
    drawn = random.Random(seed)
    made = [drawn.sample(range(width), len(neurons)) for _ in range(40 * draws)]
    pairs = [[(block, n) for (block, _), n in zip(neurons, numbers)] for numbers in made]
    return [one for one in pairs if not set(one) & set(neurons)][:draws]


def too_far(neurons, width, draws, seed):
    return _draw(neurons, width, draws, seed, allowed=range(width, 2 * width))


def _counts(before, after):
    return int((after & ~before).sum()), int((before & ~after).sum()), len(before)


def _ends(more, less, count):
    half = 1.96 * ((more + less - (more - less) ** 2) / count) ** 0.5
    return more - less - half, more - less + half


def _right_paired(before, after):
    gained, lost, n = _counts(before, after)
    return ((gained - lost) / n, *_ends((gained + 1) / (n + 2), (lost + 1) / (n + 2), n + 2))


def before_less_after(before, after):
    return _right_paired(after, before)


def adjusted_difference(before, after):
    _, low, high = _right_paired(before, after)
    return (low + high) / 2, low, high


def in_percent(before, after):
    return tuple(100 * value for value in _right_paired(before, after))


def independent(before, after):
    one, two, n = float(before.double().mean()), float(after.double().mean()), len(before)
    half = 1.96 * ((one * (1 - one) + two * (1 - two)) / n) ** 0.5
    return two - one, two - one - half, two - one + half


def none_added(before, after):
    gained, lost, n = _counts(before, after)
    return ((gained - lost) / n, *_ends(gained / n, lost / n, n))


def around_the_count(before, after):
    difference, low, high = _right_paired(before, after)
    return difference, difference - (high - low) / 2, difference + (high - low) / 2


def n_below(before, after):
    gained, lost, n = _counts(before, after)
    return ((gained - lost) / n, *_ends((gained + 1) / (n + 2), (lost + 1) / (n + 2), n))


def no_square(before, after):
    gained, lost, n = _counts(before, after)
    more, less = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.96 * ((more + less) / (n + 2)) ** 0.5
    return (gained - lost) / n, more - less - half, more - less + half


def high_first(before, after):
    difference, low, high = _right_paired(before, after)
    return difference, high, low


def number_alone(before, after):
    return _right_paired(before, after)[0]


def _limits(x, new):
    largest = x.abs().amax(dim=2, keepdim=True)
    rest = torch.ones(x.shape[1], dtype=torch.bool)
    rest[new] = False
    limits = largest[:, rest].amax(dim=1, keepdim=True).expand_as(largest).clone()
    limits[:, new] = largest[:, new].amax(dim=1, keepdim=True)
    return limits


def _steps(x, limits, steps=127):
    return (x / (limits / steps)).round() * (limits / steps)


def not_rounded(x, new):
    return x.clone()


def one_scale(x, new):
    return _steps(x, x.abs().amax(dim=(1, 2), keepdim=True))


def token_scale(x, new):
    return _steps(x, x.abs().amax(dim=2, keepdim=True))


def each_new_token(x, new):
    limits = _limits(x, new)
    limits[:, new] = x.abs().amax(dim=2, keepdim=True)[:, new]
    return _steps(x, limits)


def batch_scale(x, new):
    return _steps(x, _limits(x, new).amax(dim=0, keepdim=True))


def new_in_float(x, new):
    result = _steps(x, _limits(x, new))
    result[:, new] = x[:, new]
    return result


def cut_off(x, new):
    step = _limits(x, new) / 127
    return (x / step).trunc() * step


def downwards(x, new):
    step = _limits(x, new) / 127
    return (x / step).floor() * step


def whole_numbers(x, new):
    return (x / (_limits(x, new) / 127)).round()


def of_128(x, new):
    return _steps(x, _limits(x, new), 128)


def of_255(x, new):
    return _steps(x, _limits(x, new), 255)


def positive_alone(x, new):
    rest = torch.ones(x.shape[1], dtype=torch.bool)
    rest[new] = False
    limits = x[:, rest].amax(dim=(1, 2))[:, None, None].expand(*x.shape[:2], 1).clone()
    limits[:, new] = x[:, new].amax(dim=(1, 2))[:, None, None]
    return _steps(x, limits)


def _with_register(plan=None, **changes):
    model = ViT.build("vit_shapes_patch8_32", plan or TokenPlan.of(4, reg_pos=0, num_reg=1), **changes)
    with torch.no_grad():
        model.tokens["reg"].zero_()
    model.tokens["reg"].requires_grad_(False)
    return model


def no_register():
    return ViT.build("vit_shapes_patch8_32")


def four_registers():
    return _with_register(TokenPlan.of(4, reg_pos=0, num_reg=4))


def late_register():
    return _with_register(TokenPlan.of(4, reg_pos=2, num_reg=1))


def late_class_token():
    return _with_register(TokenPlan.of(4, cls_pos=2, reg_pos=0, num_reg=1))


def not_empty():
    model = ViT.build("vit_shapes_patch8_32", TokenPlan.of(4, reg_pos=0, num_reg=1))
    model.tokens["reg"].requires_grad_(False)
    return model


def still_trained():
    model = _with_register()
    model.tokens["reg"].requires_grad_(True)
    return model


def nothing_trained():
    return _with_register().requires_grad_(False)


def narrower():
    return _with_register(mlp_ratio=2.0)


ONE = _with_register()


def one_object():
    return ONE


WRONG = {
    "check_my_shares": [
        activation_alone, high_alone, usual_kept, not_less_the_others, in_lengths, never_divided, length_of_column,
        no_sign, exchanged_once, image_by_image, sums, of_channels,
    ],
    "check_my_move": [
        unmoved, batch_maximum, first_photo, mean_moved, sum_moved, one_for_both, every_token, patches_alone, copied,
        class_token_kept, only_zero, all_neurons, first_token, moved_in_place,
        every_token_but_the_first, other_token_kept, largest_in_size, not_below_0,
    ],
    "check_my_distance": [
        turned_alone, squared_alone, cosine_added, not_relative, of_the_state, token_by_token, roots,
        of_the_whole_batch, turns_summed, for_each_token, no_gradient, no_tensor,
    ],
    "check_same_alone": [
        to_the_bit, of_the_first, of_two, shapes_alone, means_alone, far_too_loose, always_false, a_tensor,
    ],
    "check_others": [
        register_drawn, drawn_twice, of_one_block, one_each, always_alike, without_seed, one_seed, too_few, lower_half,
        too_far, number_by_number, no_number_twice,
    ],
    "check_paired": [
        before_less_after, adjusted_difference, in_percent, independent, none_added, around_the_count, n_below,
        no_square, high_first, number_alone,
    ],
    "check_to_int8": [
        not_rounded, one_scale, token_scale, batch_scale, new_in_float, cut_off, downwards, whole_numbers, of_128,
        of_255, positive_alone, each_new_token,
    ],
    "check_empty_token": [
        no_register, four_registers, late_register, late_class_token, not_empty, still_trained, nothing_trained,
        narrower, one_object,
    ],
}  # fmt: skip
