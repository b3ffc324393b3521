"""Wrong answers to chapter 18: each is refused, with the hint that names its mistake."""

import itertools

import torch
from torch import nn

from dtl_lib import ViT


def _put(values, which, new):
    return torch.where(which[..., None], new, values)


def _new(values, others, by):
    number = torch.randint(len(others), (len(values),))
    noise = others.mean(0) + others.std(0) * torch.randn(values.shape)
    return {"zero": torch.zeros_like(values), "mean": others.mean(0).expand_as(values), "noise": noise,
            "shuffle": others[number]}[by]  # fmt: skip


def _with(by_wrong, change):
    def answer(values, which, others, by):
        return change(values, which, others) if by == by_wrong else _put(values, which, _new(values, others, by))

    return answer


def always_zero(values, which, others, by):
    return _put(values, which, torch.zeros_like(values))


def other_way_round(values, which, others, by):
    return _put(values, ~which, _new(values, others, by))


def unchanged(values, which, others, by):
    return values.clone()


mean_over_places = _with("mean", lambda v, w, o: _put(v, w, o.mean(dim=(0, 1)).expand_as(v)))
mean_of_patch = _with("mean", lambda v, w, o: _put(v, w, o.mean(0).mean(-1, keepdim=True).expand_as(v)))
mean_of_own = _with("mean", lambda v, w, o: _put(v, w, v.mean(0).expand_as(v)))
one_noise = _with("noise", lambda v, w, o: _put(v, w, (o.mean(0) + o.std(0) * torch.randn(v.shape[1:])).expand_as(v)))
plain_noise = _with("noise", lambda v, w, o: _put(v, w, torch.randn(v.shape)))
variance = _with("noise", lambda v, w, o: _put(v, w, o.mean(0) + o.var(0) * torch.randn(v.shape)))
noise_added = _with("noise", lambda v, w, o: _put(v, w, v + o.std(0) * torch.randn(v.shape)))
other_place = _with("shuffle", lambda v, w, o: _put(v, w, o[: len(v)].roll(1, dims=1)))
several_donors = _with(
    "shuffle", lambda v, w, o: _put(v, w, torch.stack([o[[i, i + 1, i + 2, i + 3], range(4)] for i in range(len(v))]))
)
values_shuffled = _with("shuffle", lambda v, w, o: _put(v, w, o[: len(v)].flip(-1)))


same_donor = _with("shuffle", lambda v, w, o: _put(v, w, o[:1].expand_as(v)))
same_drawn = _with("shuffle", lambda v, w, o: _put(v, w, o[torch.randint(len(o), (1,))].expand_as(v)))
in_turn = _with("shuffle", lambda v, w, o: _put(v, w, o[torch.arange(len(v)) % len(o)]))
one_draw_a_patch = _with("noise", lambda v, w, o: _put(v, w, o.mean(0) + o.std(0) * torch.randn(*v.shape[:2], 1)))
one_draw_an_image = _with("noise", lambda v, w, o: _put(v, w, o.mean(0) + o.std(0) * torch.randn(len(v), 1, 1)))


def _curve(probability, patches, new, gone):
    return torch.stack([probability(torch.where(one[..., None], new, patches)) for one in gone], dim=1)


def _place(ranking):
    return ranking.flatten(1).argsort(dim=1, descending=True).argsort(dim=1)


def _counts(patches, steps):
    return [round(patches.shape[1] * step / steps) for step in range(steps + 1)]


def smallest_first(probability, patches, new, ranking, steps):
    place = _place(-ranking)
    return _curve(probability, patches, new, [place < count for count in _counts(patches, steps)])


def insertion(probability, patches, new, ranking, steps):
    place = _place(ranking)
    return _curve(probability, patches, new, [place >= count for count in _counts(patches, steps)])


def once_sorted(probability, patches, new, ranking, steps):
    order = ranking.flatten(1).argsort(dim=1, descending=True)
    return _curve(probability, patches, new, [order < count for count in _counts(patches, steps)])


def of_the_first(probability, patches, new, ranking, steps):
    place = _place(ranking)[:1].expand(len(patches), -1)
    return _curve(probability, patches, new, [place < count for count in _counts(patches, steps)])


def transposed(probability, patches, new, ranking, steps):
    place = _place(ranking.mT)
    return _curve(probability, patches, new, [place < count for count in _counts(patches, steps)])


def without_the_first_point(probability, patches, new, ranking, steps):
    place = _place(ranking)
    return _curve(probability, patches, new, [place < count for count in _counts(patches, steps)[1:]])


def other_axis(probability, patches, new, ranking, steps):
    place = _place(ranking)
    return _curve(probability, patches, new, [place < count for count in _counts(patches, steps)]).mT


def one_too_many(probability, patches, new, ranking, steps):
    place = _place(ranking)
    return _curve(probability, patches, new, [place <= count for count in _counts(patches, steps)])


def step_alone(probability, patches, new, ranking, steps):
    place, counts = _place(ranking), _counts(patches, steps)
    gone = [(place >= low) & (place < high) for low, high in zip([0, *counts], counts)]
    return _curve(probability, patches, new, gone)


def two_a_step(probability, patches, new, ranking, steps):
    return _curve(probability, patches, new, [_place(ranking) < 2 * step for step in range(steps + 1)])


def to_zero(probability, patches, new, ranking, steps):
    return _curve(probability, patches, torch.zeros_like(new), [_place(ranking) < c for c in _counts(patches, steps)])


def _area(curve, shares):
    return torch.trapezoid(curve, shares)


def deletion_less_insertion(shares, deletion, insertion):
    return _area(deletion, shares) - _area(insertion, shares)


def mean_of_points(shares, deletion, insertion):
    return (insertion - deletion).mean(dim=1)


def left_ends(shares, deletion, insertion):
    return ((insertion - deletion)[:, :-1] * shares.diff()).sum(dim=1)


def right_ends(shares, deletion, insertion):
    return ((insertion - deletion)[:, 1:] * shares.diff()).sum(dim=1)


def unsigned(shares, deletion, insertion):
    return (_area(insertion, shares) - _area(deletion, shares)).abs()


def one_number(shares, deletion, insertion):
    return (_area(insertion, shares) - _area(deletion, shares)).mean()


def _means(gaps, maps, seed, signs=True):
    drawn = torch.Generator().manual_seed(seed)
    draws, images = gaps.shape
    which = torch.randint(draws, (maps, images), generator=drawn)
    chosen = gaps[which, torch.arange(images)]
    return chosen * (2 * torch.randint(2, (maps, images), generator=drawn) - 1) if signs else chosen


def _ends(values, low=0.025):
    return float(values.quantile(low)), float(values.quantile(1 - low))


def not_reversed(gaps, maps, seed):
    return _ends(_means(gaps, maps, seed, signs=False).mean(dim=1))


def of_one_image(gaps, maps, seed):
    return _ends(_means(gaps, maps, seed)[:, 0])


def eighty(gaps, maps, seed):
    return _ends(_means(gaps, maps, seed).mean(dim=1), 0.1)


def ninety(gaps, maps, seed):
    return _ends(_means(gaps, maps, seed).mean(dim=1), 0.05)


def always_2000(gaps, maps, seed):
    return _ends(_means(gaps, 2000, seed).mean(dim=1))


def extremes(gaps, maps, seed):
    means = _means(gaps, maps, seed).mean(dim=1)
    return float(means.min()), float(means.max())


def high_first(gaps, maps, seed):
    return _ends(_means(gaps, maps, seed).mean(dim=1))[::-1]


def without_seed(gaps, maps, seed):
    return _ends(_means(gaps, maps, int(torch.randint(1000, (1,)))).mean(dim=1))


def one_seed(gaps, maps, seed):
    return _ends(_means(gaps, maps, 0).mean(dim=1))


def mean_of_draws(gaps, maps, seed):
    drawn = torch.Generator().manual_seed(seed)
    sign = 2 * torch.randint(2, (maps, gaps.shape[1]), generator=drawn) - 1
    return _ends((sign * gaps.mean(dim=0)).mean(dim=1))


def one_sign_a_map(gaps, maps, seed):
    drawn = torch.Generator().manual_seed(seed)
    sign = 2 * torch.randint(2, (maps,), generator=drawn) - 1
    return _ends(sign * _means(gaps, maps, seed, signs=False).mean(dim=1))


def _signs(one, other):
    pairs = itertools.combinations(range(len(one)), 2)
    return [float(torch.sign((one[i] - one[j]) * (other[i] - other[j]))) for i, j in pairs]


def share_that_agrees(one, other):
    signs = _signs(one, other)
    return sum(sign > 0 for sign in signs) / len(signs)


def not_divided(one, other):
    return sum(_signs(one, other))


def by_six(one, other):
    return sum(_signs(one, other)) / 6


def pairs_twice(one, other):
    return sum(_signs(one, other)) / (len(one) * (len(one) - 1))


def with_itself(one, other):
    return sum(_signs(one, other)) / len(one) ** 2


def pearson(one, other):
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def spearman(one, other):
    ranks = [values.argsort().argsort().float() for values in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def reversed_order(one, other):
    return -sum(_signs(one, other)) / len(_signs(one, other))


def _swapped(model, source, target, block, at=slice(0, 1), after=False, leave=False, first=False):
    kept = []
    layer = model.blocks[block]

    def keep(module, given):
        kept.append(given[0])

    def put(module, given):
        x = given[0].clone()
        x[:, at] = (kept[0][:1].expand_as(x) if first else kept[0])[:, at]
        return (x, *given[1:])

    with torch.no_grad():
        hook = layer.register_forward_pre_hook(keep)
        model(source)
        hook.remove()
        hook = layer.register_forward_pre_hook(put)
        logits = model(target)
    if not leave:
        hook.remove()
    return logits


def hook_left(model, source, target, block):
    return _swapped(model, source, target, block, leave=True)


def whole_sequence(model, source, target, block):
    return _swapped(model, source, target, block, at=slice(None))


def nothing_swapped(model, source, target, block):
    with torch.no_grad():
        return model(target)


def roles_exchanged(model, source, target, block):
    return _swapped(model, target, source, block)


def first_into_both(model, source, target, block):
    return _swapped(model, source, target, block, first=True)


def one_block_later(model, source, target, block):
    return _swapped(model, source, target, min(block + 1, 3))


def one_block_early(model, source, target, block):
    return _swapped(model, source, target, block - 1)


def a_register(model, source, target, block):
    return _swapped(model, source, target, block, at=slice(1, 2))


def a_patch(model, source, target, block):
    return _swapped(model, source, target, block, at=slice(5, 6))


class _Holes(nn.Module):
    def __init__(self, share=0.5, size=8, only_training=True, by_image=True, channels=1, name="vit_shapes_patch8_32"):
        super().__init__()
        self.vit = ViT.build(name)
        self.share, self.size, self.only, self.by_image, self.channels = share, size, only_training, by_image, channels

    def forward(self, x):
        if self.training or not self.only:
            cells = 32 // self.size
            stays = torch.rand(len(x) if self.by_image else 1, self.channels, cells, cells) >= self.share
            x = x * stays.repeat_interleave(self.size, 2).repeat_interleave(self.size, 3)
        return self.vit(x)


def no_holes():
    return _Holes(share=0.0)


def a_tenth():
    return _Holes(share=0.1)


def pixels():
    return _Holes(size=1)


def larger_holes():
    return _Holes(size=16)


def channel_by_channel():
    return _Holes(channels=3)


def also_in_evaluation():
    return _Holes(only_training=False)


class _ExactlyHalf(_Holes):
    def forward(self, x):
        if self.training:
            stays = (torch.rand(len(x), 16).argsort(dim=1) < 8).view(-1, 1, 4, 4)
            x = x * stays.repeat_interleave(8, 2).repeat_interleave(8, 3)
        return self.vit(x)


def exactly_half():
    return _ExactlyHalf()


def same_for_all():
    return _Holes(by_image=False)


def the_plain_one():
    return ViT.build("vit_shapes_patch8_32")


class _Fixed(_Holes):
    def forward(self, x):
        state = torch.get_rng_state()
        torch.manual_seed(0)
        result = super().forward(x)
        torch.set_rng_state(state)
        return result


def always_the_same():
    return _Fixed()


ONE = _Holes()


def one_object():
    return ONE


WRONG = {
    "check_my_replace": [
        always_zero, other_way_round, unchanged, mean_over_places, mean_of_patch, mean_of_own, one_noise, plain_noise,
        variance, noise_added, other_place, several_donors, values_shuffled, same_donor, same_drawn, in_turn,
        one_draw_a_patch, one_draw_an_image,
    ],
    "check_my_deletion": [
        smallest_first, insertion, once_sorted, of_the_first, transposed, without_the_first_point, other_axis,
        one_too_many, step_alone, to_zero, two_a_step,
    ],
    "check_my_gap": [deletion_less_insertion, mean_of_points, left_ends, right_ends, unsigned, one_number],
    "check_my_interval": [
        not_reversed, of_one_image, eighty, ninety, extremes, high_first, without_seed, one_seed, mean_of_draws,
        one_sign_a_map, always_2000,
    ],
    "check_my_tau": [
        share_that_agrees, not_divided, by_six, pairs_twice, with_itself, pearson, spearman, reversed_order,
    ],
    "check_my_swap": [
        hook_left, whole_sequence, nothing_swapped, roles_exchanged, first_into_both, one_block_later, one_block_early,
        a_register, a_patch,
    ],
    "check_with_holes": [
        no_holes, a_tenth, pixels, larger_holes, channel_by_channel, also_in_evaluation, same_for_all, the_plain_one,
        always_the_same, exactly_half, one_object,
    ],
}  # fmt: skip
