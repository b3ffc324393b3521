"""Wrong answers that the checkers of chapter 20 have to refuse."""

from dataclasses import replace

from dtl_lib.tokens import TokenPlan


def added(rate, bandwidth, operations, moved):
    return operations / rate + moved / bandwidth


def the_shorter(rate, bandwidth, operations, moved):
    return min(operations / rate, moved / bandwidth)


def arithmetic_alone(rate, bandwidth, operations, moved):
    return operations / rate


def memory_alone(rate, bandwidth, operations, moved):
    return moved / bandwidth


def a_rate(rate, bandwidth, operations, moved):
    return min(rate, bandwidth * operations / moved)


def of_speed(factor, speed):
    return (speed - 1) / (factor - 1)


def what_remains(factor, speed):
    return 1 - (1 - 1 / speed) / (1 - 1 / factor)


def without_the_factor(factor, speed):
    return 1 - 1 / speed


def a_ratio(factor, speed):
    return speed / factor


def counted_once(images_per_s, multiply_adds, rate):
    return images_per_s * multiply_adds / rate


def forward_alone(images_per_s, multiply_adds, rate):
    return images_per_s * 2 * multiply_adds / rate


def no_addition(images_per_s, multiply_adds, rate):
    return images_per_s * 3 * multiply_adds / rate


def backward_alone(images_per_s, multiply_adds, rate):
    return images_per_s * 2 * 2 * multiply_adds / rate


def upside_down(images_per_s, multiply_adds, rate):
    return rate / (images_per_s * 6 * multiply_adds)


def ignores_the_wish(kind, capability, amp):
    return "off" if kind == "cpu" else "bf16" if capability >= (8, 0) else "fp16"


def later_than_8(kind, capability, amp):
    if amp != "auto" or kind == "cpu":
        return "off" if amp == "auto" else amp
    return "bf16" if capability > (8, 0) else "fp16"


def major_is_8(kind, capability, amp):
    if amp != "auto" or kind == "cpu":
        return "off" if amp == "auto" else amp
    return "bf16" if capability[0] == 8 else "fp16"


def both_at_least(kind, capability, amp):
    if amp != "auto" or kind == "cpu":
        return "off" if amp == "auto" else amp
    return "bf16" if capability[0] >= 8 and capability[1] > 0 else "fp16"


def off_where_old(kind, capability, amp):
    if amp != "auto" or kind == "cpu":
        return "off" if amp == "auto" else amp
    return "bf16" if capability >= (8, 0) else "off"


def half_on_a_cpu(kind, capability, amp):
    return amp if amp != "auto" else "fp16" if kind == "cuda" and capability < (8, 0) else "bf16"


def only_wider(config):
    return replace(config, dim=2 * config.dim)


def wider_and_shallower(config):
    return replace(config, dim=2 * config.dim, depth=config.depth // 3, plan=None)


def a_quarter(config):
    return replace(config, dim=2 * config.dim, heads=2 * config.heads, depth=config.depth // 4, plan=None)


def larger_patches(config):
    return replace(config, dim=2 * config.dim, heads=2 * config.heads, depth=config.depth // 3, plan=None, patch_size=8)


def numbers_alone(config):
    return 2 * config.dim, 2 * config.heads, config.depth // 3


def moves_tokens_too(config):
    plan = TokenPlan.of(config.depth // 3, 2, 0, 4)
    return replace(config, dim=2 * config.dim, heads=2 * config.heads, depth=config.depth // 3, plan=plan)


def drops_paths_too(config):
    wide = replace(config, dim=2 * config.dim, heads=2 * config.heads, depth=config.depth // 3, plan=None)
    return replace(wide, drop_path=0.5, qkv_bias=False)


def in_per_cent(images_per_s, multiply_adds, rate):
    return 100 * 6 * images_per_s * multiply_adds / rate


WRONG = {
    "check_at_most": [added, the_shorter, arithmetic_alone, memory_alone, a_rate],
    "check_share_of": [of_speed, what_remains, without_the_factor, a_ratio],
    "check_utilisation": [counted_once, forward_alone, no_addition, backward_alone, upside_down, in_per_cent],
    "check_precision": [ignores_the_wish, later_than_8, major_is_8, both_at_least, off_where_old, half_on_a_cpu],
    "check_wide": [
        only_wider,
        wider_and_shallower,
        a_quarter,
        larger_patches,
        numbers_alone,
        moves_tokens_too,
        drops_paths_too,
    ],
}
