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
    ],
    "check_by_chance": [either_sign, both_expected, one_number, chance_of_all, either_sign_at_least_one],
    "check_runs_needed": [not_squared, rounded_down, fewer, more_of_them],
    "check_large_patches": [as_it_was, patches_of_four, wider_too, larger_image, the_same_one],
}
