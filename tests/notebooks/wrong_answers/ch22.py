"""Wrong answers that the checkers of chapter 22 have to refuse."""

import math
from dataclasses import replace

from dtl_lib import ViT, named
from dtl_lib.lab.papers import verdict


def no_difference_is_null(low, high, claim, margin):
    answer = verdict(low, high, claim, margin)
    return "null" if answer == "undecided" else answer


def never_null(low, high, claim, margin):
    answer = verdict(low, high, claim, margin)
    return "undecided" if answer == "null" else answer


def without_the_claim(low, high, claim, margin):
    return verdict(low, high, 1, margin)


def found_only_beyond_the_margin(low, high, claim, margin):
    if low > margin or high < -margin:
        return verdict(low, high, claim, margin)
    return "null" if max(-low, high) < margin else "undecided"


def by_the_middle(low, high, claim, margin):
    middle = (low + high) / 2
    if abs(middle) < margin / 10:
        return "null"
    return "reproduced" if middle * claim > 0 else "opposite"


def margin_above_alone(low, high, claim, margin):
    answer = verdict(low, high, claim, margin)
    return "null" if answer == "undecided" and high < margin else answer


def margin_of_one(low, high, claim, margin):
    return verdict(low, high, claim, 1.0)


def small_is_null(low, high, claim, margin):
    return "null" if max(abs(low), abs(high)) < margin else verdict(low, high, claim, margin)


def never_a_claimed_null(low, high, claim, margin):
    return verdict(low, high, claim or 1, margin)


def zero_inside_is_no_difference(low, high, claim, margin):
    if claim == 0:
        return "reproduced" if low <= 0 <= high else "opposite"
    return verdict(low, high, claim, margin)


def tiny_is_opposite(low, high, claim, margin):
    if claim == 0 and (low > 0 or high < 0):
        return "opposite"
    return verdict(low, high, claim, margin)


def by_the_length(low, high, claim, margin):
    if low <= 0 <= high:
        return ("null" if claim else "reproduced") if (high - low) / 2 < margin else "undecided"
    return verdict(low, high, claim, margin)


def no_difference_from_above_alone(low, high, claim, margin):
    if claim == 0:
        return "reproduced" if high < margin else "opposite" if low > 0 else "undecided"
    return verdict(low, high, claim, margin)


def opposite_above_alone(low, high, claim, margin):
    answer = verdict(low, high, claim, margin)
    return "undecided" if claim == 0 and answer == "opposite" and high < 0 else answer


def opposite_beyond_the_margin_alone(low, high, claim, margin):
    answer = verdict(low, high, claim, margin)
    return "undecided" if answer == "opposite" and claim == 0 and -margin <= low <= margin else answer


def tiny_below_is_opposite(low, high, claim, margin):
    return "opposite" if claim == 0 and high < 0 else verdict(low, high, claim, margin)


def claimed_null_at_margin_one(low, high, claim, margin):
    return verdict(low, high, claim, margin if claim else 1.0)


def one_side_where_below_is_claimed(low, high, claim, margin):
    answer = verdict(low, high, claim, margin)
    if claim == -1 and answer in ("null", "undecided"):
        return "null" if -low < margin else "undecided"
    return answer


def other_side_where_below_is_claimed(low, high, claim, margin):
    answer = verdict(low, high, claim, margin)
    if claim == -1 and answer in ("null", "undecided"):
        return "null" if high < margin else "undecided"
    return answer


def small_below_is_null(low, high, claim, margin):
    return "null" if claim and high < 0 and -low < margin else verdict(low, high, claim, margin)


def either_sign(claims, level):
    return claims * level, 1 - (1 - level) ** claims


def both_expected(claims, level):
    return claims * level / 2, claims * level / 2


def one_number(claims, level):
    return claims * level / 2


def chance_of_all(claims, level):
    return claims * level / 2, (level / 2) ** claims


def either_sign_at_least_one(claims, level):
    return claims * level / 2, 1 - (1 - level) ** claims


def poisson(claims, level):
    return claims * level / 2, 1 - math.exp(-claims * level / 2)


def exactly_one(claims, level):
    return claims * level / 2, claims * (level / 2) * (1 - level / 2) ** (claims - 1)


def none_at_all(claims, level):
    return claims * level / 2, (1 - level / 2) ** claims


def as_text(claims, level):
    return f"{claims * level / 2}", f"{1 - (1 - level / 2) ** claims}"


def the_other_way_round(claims, level):
    return 1 - (1 - level / 2) ** claims, claims * level / 2


def rounded(half, runs, margin):
    return max(runs, round(runs * (half / margin) ** 2))


def without_the_margin(half, runs, margin):
    return max(runs, math.ceil(runs * half**2))


def times_the_margin(half, runs, margin):
    return max(runs, math.ceil(runs * (half * margin) ** 2))


def by_the_difference(half, runs, margin):
    return max(runs, math.ceil(runs * (1 + half - margin) ** 2))


def runs_to_add(half, runs, margin):
    return max(0, math.ceil(runs * (half / margin) ** 2) - runs)


def one_too_many(half, runs, margin):
    return max(runs, math.floor(runs * (half / margin) ** 2) + 1)


def not_whole(half, runs, margin):
    return max(runs, runs * (half / margin) ** 2)


def not_squared(half, runs, margin):
    return max(runs, math.ceil(runs * half / margin))


def rounded_down(half, runs, margin):
    return max(runs, math.floor(runs * (half / margin) ** 2))


def fewer(half, runs, margin):
    return math.ceil(runs * (half / margin) ** 2)


def more_of_them(half, runs, margin):
    return max(runs, math.ceil((half / margin) ** 2))


PLAIN = named("vit_shapes_patch8_32")


def as_it_was():
    return ViT(PLAIN)


def patches_of_four():
    return ViT(replace(PLAIN, patch_size=4))


def wider_too():
    return ViT(replace(PLAIN, patch_size=16, dim=2 * PLAIN.dim))


def larger_image():
    return ViT(replace(PLAIN, patch_size=16, image_size=(64, 64)))


def dropped_too():
    return ViT(replace(PLAIN, patch_size=16, drop_path=0.5))


def scaled_too():
    return ViT(replace(PLAIN, patch_size=16, layer_scale=0.1))


def without_biases():
    return ViT(replace(PLAIN, patch_size=16, qkv_bias=False))


LARGE = ViT(replace(PLAIN, patch_size=16))


def the_same_one():
    return LARGE


WRONG = {
    "check_my_verdict": [
        no_difference_is_null,
        never_null,
        without_the_claim,
        found_only_beyond_the_margin,
        by_the_middle,
        margin_above_alone,
        margin_of_one,
        small_is_null,
        never_a_claimed_null,
        zero_inside_is_no_difference,
        tiny_is_opposite,
        by_the_length,
        no_difference_from_above_alone,
        opposite_above_alone,
        opposite_beyond_the_margin_alone,
        tiny_below_is_opposite,
        claimed_null_at_margin_one,
        one_side_where_below_is_claimed,
        other_side_where_below_is_claimed,
        small_below_is_null,
    ],
    "check_by_chance": [either_sign, both_expected, one_number, chance_of_all, either_sign_at_least_one]
    + [poisson, exactly_one, none_at_all, as_text, the_other_way_round],
    "check_runs_needed": [not_squared, rounded_down, fewer, more_of_them, rounded, without_the_margin]
    + [times_the_margin, by_the_difference, runs_to_add, one_too_many, not_whole],
    "check_large_patches": [as_it_was, patches_of_four, wider_too, larger_image, the_same_one]
    + [dropped_too, scaled_too, without_biases],
}
