"""Checkers of chapter 17, Registers without training."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..config import named
from ..models import ViT
from ..tokens import TokenPlan
from . import exercise, expect, expect_close, expect_fresh, expect_number, expect_shape, is_near, refuse_mistakes
from .moved_neuron import first_alone, move, move_mistakes, over_batch


@exercise
def check_my_shares(my_shares) -> None:
    """Two images with one long patch and with three, five channels, eight neurons."""
    drawn = torch.Generator().manual_seed(17)
    hidden = torch.randn(2, 6, 8, generator=drawn) + 0.5
    columns, tokens = torch.randn(5, 8, generator=drawn), torch.randn(2, 6, 5, generator=drawn)
    long = torch.tensor([[0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 1]]).bool()
    hidden[..., 3][long] += 20
    tokens[long] += 20 * columns[:, 3]
    answer = my_shares(hidden.clone(), columns.clone(), tokens.clone(), long.clone())
    shape = "one share for each neuron: (neurons,)"
    wide = isinstance(answer, Tensor) and tuple(answer.shape) == (5,)
    expect(not wide, "that is one value for each channel: take each neuron's column along the direction")
    expect_shape(answer, (8,), shape)
    high, usual = hidden[long].mean(dim=0), hidden[~long].mean(dim=0)
    one, other = tokens[long].mean(dim=0), tokens[~long].mean(dim=0)
    apart, gap = one - other, high - usual
    direction, distance = apart / apart.norm(), apart.norm()

    def by_image(values: Tensor) -> Tensor:
        return torch.stack(
            [value[there].mean(dim=0) - value[~there].mean(dim=0) for value, there in zip(values, long)]
        ).mean(dim=0)

    each = by_image(tokens)
    mistakes = {
        "that is the activation alone: a neuron with a short column, or one across the direction, writes little": gap,
        "that is the activation on the long patches alone: count what the neuron writes": high,
        "what the neuron writes in the other patches is not taken off: it does not tell the two apart": (
            high * (direction @ columns) / distance
        ),
        "the direction is the long patches' mean state: take off that of the others": (
            gap * (one / one.norm() @ columns) / one.norm()
        ),
        "the direction has length 1, and the result is not yet divided by the distance": gap * (direction @ columns),
        "the direction is not scaled to length 1: divide by the distance once more": gap * (apart @ columns) / distance,
        "nothing is divided by the distance: shares of it are asked for": gap * (apart @ columns),
        "the length of the column counts what the neuron writes across the direction, too": (
            gap * columns.norm(dim=0) / distance
        ),
        "the sign is lost: a neuron may write against the direction": (gap * (direction @ columns) / distance).abs(),
        "an image with one long patch counts as much as one with three: take the mean over all long patches": (
            by_image(hidden) * (each / each.norm() @ columns) / each.norm()
        ),
        "long and others are exchanged in one of the two": -gap * (direction @ columns) / distance,
        "sums grow with the number of patches: take means": (
            (hidden[long].sum(dim=0) - hidden[~long].sum(dim=0)) * (direction @ columns) / distance
        ),
    }
    refuse_mistakes(answer, mistakes)
    expect_close(answer, gap * (direction @ columns) / distance, "(high − usual) · (direction @ columns) / distance")


@exercise
def check_my_move(my_move) -> None:
    """A class token, two new ones, one of another kind, five patches; two of six neurons; some activations below 0."""
    drawn = torch.Generator().manual_seed(3)
    hidden = torch.randn(3, 9, 6, generator=drawn).abs() + 0.1
    hidden[:, 0] += 9  # the class token's is the largest
    hidden[:, 3] += 7  # then that of a token which is neither new nor a patch
    hidden[0, 2, 4] = 7.0  # a new token may have the largest itself
    hidden[1, 1:3, 1], hidden[1, 4:, 1] = -0.5, -hidden[1, 4:, 1]  # all of one neuron's are below 0
    neurons, new, patches = [1, 4], slice(1, 3), slice(4, 9)
    answer = my_move(hidden.clone(), list(neurons), new, patches)
    expect_shape(answer, hidden.shape, "as many tokens and neurons as came in")
    refuse_mistakes(answer, move_mistakes(hidden, neurons, new, patches))
    others = [neuron for neuron in range(6) if neuron not in neurons]
    expect_close(answer[..., others], hidden[..., others], "a neuron that is not in `neurons` keeps its activations")
    right = move(hidden, neurons, new, patches)
    expect_close(answer, right, "each neuron's largest activation, photo by photo, at the new tokens; 0 elsewhere")


@exercise
def check_my_distance(my_distance) -> None:
    """Two images of four tokens; one token of the state is long, and one target is longer than the others."""
    drawn = torch.Generator().manual_seed(21)
    state, target = (torch.randn(2, 4, 6, generator=drawn) for _ in range(2))
    state[0, 1] *= 30
    target[1, 2] *= 3
    learned = state.clone().requires_grad_(True)
    answer = my_distance(learned, target.clone())
    expect(isinstance(answer, Tensor), f"return a tensor, which gradients flow through, not {type(answer).__name__}")
    expect_shape(answer, (), "one number for all tokens")
    expect(answer.requires_grad, "no gradient flows to `state`: keep it a tensor, without item() or detach()")
    answer = answer.detach()
    cosine = cosine_similarity(state, target, dim=-1)
    apart, length = (state - target).square().sum(dim=-1), target.square().sum(dim=-1)
    squared, turned = apart.mean() / length.mean(), (1 - cosine).mean()
    whole = 1 - cosine_similarity(state.flatten(), target.flatten(), dim=0)
    mistakes = {
        "that is 1 − cosine alone: a patch may point the right way and be far too long": turned,
        "that is the squared distance alone: add 1 − cosine": squared,
        "the cosine is added, and not 1 − cosine: training would turn the patches away": squared + cosine.mean(),
        "the squared distance is not divided by the target's squared length": apart.mean() + turned,
        "the squared distance is divided by the state's length: divide by the target's": (
            apart.mean() / state.square().sum(dim=-1).mean() + turned
        ),
        "each token is divided by its own target: a ratio of two means is asked for": (apart / length).mean() + turned,
        "a root is taken: both are squared lengths": (apart.sqrt().mean() / length.sqrt().mean() + turned),
        "the cosine is of the whole batch: one for each token, then their mean": squared + whole,
        "sums grow with the number of tokens: take the mean of 1 − cosine": squared + (1 - cosine).sum(),
    }
    refuse_mistakes(answer, mistakes)
    expect_close(answer, squared + turned, "mean squared distance / mean squared length + mean of 1 − cosine")


@exercise
def check_same_alone(same_alone) -> None:
    """Moves that are right, that are right but for rounding, and some that mix a batch or forget a part of it."""
    drawn = torch.Generator().manual_seed(5)
    hidden = torch.rand(4, 7, 6, generator=drawn)
    given = (hidden, [2, 5], slice(1, 2), slice(2, 7))

    def noisy(hidden, neurons, new, patches):
        return move(hidden, neurons, new, patches) * (1 + 1e-7 * len(hidden))

    def last_wrong(hidden, neurons, new, patches):
        moved = move(hidden, neurons, new, patches)
        return torch.cat([moved[:-1], hidden[-1:]]) if len(hidden) > 1 else moved

    def exchanged(hidden, neurons, new, patches):
        return move(hidden, neurons, new, patches).flip(0)

    def leaks(hidden, neurons, new, patches):
        moved = move(hidden, neurons, new, patches)
        return moved + 0.01 * (moved.mean(dim=0) - moved) * (len(hidden) > 1)

    cases = (
        (move, True, "a move that treats each photo alone passes"),
        (noisy, True, "a batch may be rounded otherwise than one photo: compare with a tolerance"),
        (first_alone, False, "this move changes only the first photo of a batch, and passes"),
        (over_batch, False, "this move takes one maximum for the whole batch, and passes"),
        (last_wrong, False, "this move forgets the last photo of a batch, and passes: compare every photo"),
        (exchanged, False, "this move returns the photos in another order, and passes: compare place by place"),
        (leaks, False, "in this move a hundredth comes from the other photos, and it passes: allow rounding, no more"),
    )
    for function, right, hint in cases:
        found = same_alone(function, *given)
        expect(isinstance(found, bool), f"return True or False, not {type(found).__name__}")
        expect(found == right, hint)


@exercise
def check_others(others) -> None:
    """Three neurons of two blocks, one of ten and one of 50 neurons a block."""
    for neurons, width, count in (([(7, 4), (6, 1), (6, 5)], 10, 6), ([(2, 40)], 50, 6), ([(1, 0), (1, 1)], 5, 20)):
        draws = others(list(neurons), width, count, 0)
        expect(isinstance(draws, list) and len(draws) == count, "return a list with as many draws as are asked for")
        for drawn in draws:
            pairs = [tuple(map(int, one)) for one in drawn]
            expect(len(pairs) == len(neurons), f"a draw has {len(neurons)} neurons, as many as are compared with")
            blocks = sorted(block for block, _ in pairs)
            expect(blocks == sorted(block for block, _ in neurons), "a draw has as many neurons of each block")
            expect(all(0 <= neuron < width for _, neuron in pairs), f"neurons are 0 … {width - 1}")
            expect(not set(pairs) & set(neurons), "a register neuron has been drawn: it is no control")
            expect(len(set(pairs)) == len(pairs), "a neuron has been drawn twice in one draw")
        flat = [sorted(map(tuple, drawn)) for drawn in draws]
        expect(any(one != flat[0] for one in flat), "all draws are alike: draw anew each time")
        again = others(list(neurons), width, count, 0)
        expect(again == draws, "the same seed draws other neurons: give the generator the seed")
        expect(others(list(neurons), width, count, 1) != draws, "another seed draws the same neurons")
    reached = {neuron for drawn in others([(0, 3)], 8, 200, 0) for _, neuron in drawn}
    expect(reached == {0, 1, 2, 4, 5, 6, 7}, "some neurons are never drawn: each of the others may be")
    twice = {tuple(number for _, number in sorted(drawn)) for drawn in others([(0, 0), (1, 2)], 4, 400, 0)}
    hint = "neuron 2 of block 0 is free where neuron 2 of block 1 is not, and a draw may have one number in two blocks"
    wanted = {(first, second) for first in (1, 2, 3) for second in (0, 1, 3)}
    expect(twice == wanted, hint)


@exercise
def check_paired(paired) -> None:
    """Photos that were right before and after, some gained, some lost; also none."""
    for always, gained, lost, neither in ((140, 5, 18, 37), (8, 0, 0, 2), (3, 4, 1, 2)):
        before = torch.tensor([1] * always + [0] * gained + [1] * lost + [0] * neither).bool()
        after = torch.tensor([1] * always + [1] * gained + [0] * lost + [0] * neither).bool()
        n = len(before)
        answer = paired(before.clone(), after.clone())
        expect(
            isinstance(answer, tuple | list) and len(answer) == 3, "return three numbers: the difference and both ends"
        )
        difference, *ends = (float(value) for value in answer)
        where = f"{gained} gained and {lost} lost of {n}"

        def end(more: float, less: float, count: float, sign: int) -> float:
            return more - less + sign * 1.96 * math.sqrt((more + less - (more - less) ** 2) / count)

        more, less = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
        right = (gained - lost) / n
        expect(not is_near(difference, -right) or right == 0, f"{where}: it is after less before")
        counted = "the difference itself is of the photos as counted; only the interval counts one more of each"
        expect(not is_near(difference, more - less) or is_near(right, more - less), f"{where}: {counted}")
        expect(not is_near(difference, 100 * right) or right == 0, f"{where}: that is in percent; shares are asked for")
        expect_number(difference, right, f"{where}: the difference is {right:.4g}")
        first, second = float(before.double().mean()), float(after.double().mean())
        apart = 1.96 * math.sqrt((first * (1 - first) + second * (1 - second)) / n)
        wrong = {
            "that is the interval of two independent samples: these are the same photos": right - apart,
            "one more is counted of each, gained and lost, and two more photos: else nothing lost has no width": end(
                gained / n, lost / n, n, -1
            ),
            "the interval is around the difference as counted: its middle is that of the counts with one more": (
                right - (end(more, less, n + 2, 1) - (more - less))
            ),
            "n + 2 photos stand below the root as well": end(more, less, n, -1),
            "the square of the difference is missing below the root": (
                more - less - 1.96 * math.sqrt((more + less) / (n + 2))
            ),
        }
        low, high = end(more, less, n + 2, -1), end(more, less, n + 2, 1)
        expect(not (is_near(ends[0], high) and is_near(ends[1], low)), f"{where}: the lower end comes first")
        for hint, value in wrong.items():
            expect(not is_near(ends[0], value) or is_near(low, value), f"{where}: {hint}")
        expect_number(ends[0], low, f"{where}: the lower end is {low:.4g}")
        expect_number(ends[1], high, f"{where}: the upper end is {high:.4g}")


def _rounded(x: Tensor, largest: Tensor, steps: int = 127) -> Tensor:
    step = largest / steps
    return (x / step).round() * step


@exercise
def check_to_int8(to_int8) -> None:
    """Two images whose values differ in size, eight tokens; two new ones, far larger than the rest, one still more."""
    drawn = torch.Generator().manual_seed(8)
    x = torch.randn(2, 8, 5, generator=drawn) * torch.tensor([1.0, 3.0])[:, None, None]
    new = slice(1, 3)
    x[:, new] *= torch.tensor([60.0, 200.0])[:, None]
    x[:, 4, 2] = -8.0 * torch.tensor([1.0, 3.0])
    answer = to_int8(x.clone(), new)
    expect_shape(answer, x.shape, "as many tokens and channels as came in")
    rest = [0, 3, 4, 5, 6, 7]
    own, others = x[:, new].abs().amax(dim=(1, 2)), x[:, rest].abs().amax(dim=(1, 2))
    limits = others[:, None, None].expand(2, 8, 1).clone()
    limits[:, new] = own[:, None, None]
    positive = x[:, rest].amax(dim=(1, 2))[:, None, None].expand(2, 8, 1).clone()
    positive[:, new] = x[:, new].amax(dim=(1, 2))[:, None, None]
    batch = limits.amax(dim=0, keepdim=True).expand_as(limits)
    step, float_kept, each = limits / 127, _rounded(x, limits), _rounded(x, x.abs().amax(dim=2, keepdim=True))
    float_kept[:, new], each[:, rest] = x[:, new], _rounded(x, limits)[:, rest]
    mistakes = {
        "nothing is rounded": x,
        "one scale serves all tokens: the new one is to have its own, or nothing is left for the rest": _rounded(
            x, x.abs().amax(dim=(1, 2), keepdim=True)
        ),
        "each token has a scale of its own: only the new ones do, the rest share one": _rounded(
            x, x.abs().amax(dim=2, keepdim=True)
        ),
        "each new token has a step of its own: they share one": each,
        "one scale serves the whole batch: each image has its own": _rounded(x, batch),
        "the largest value without its sign is meant: a negative one may be larger": _rounded(x, positive),
        "the new tokens are not rounded": float_kept,
        "values are cut off and not rounded": (x / step).trunc() * step,
        "values are rounded down: take the nearest": (x / step).floor() * step,
        "these are the whole numbers: multiply by the step again": (x / step).round(),
        "the largest value is 127 steps, not 128 or 255": _rounded(x, limits, 128),
        "the largest value is 127 steps and not 255: numbers below 0 need half of them": _rounded(x, limits, 255),
    }  # fmt: skip
    refuse_mistakes(answer, mistakes)
    expect_close(answer, _rounded(x, limits), "step = largest / 127, for the new tokens and for the rest of each image")


@exercise
def check_empty_token(empty_token) -> None:
    """The model's plan, its register, and what is trained."""
    model = empty_token()
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    group = model.plan.group("reg")
    expect(group is not None, "the model has no register: TokenPlan.of(4, reg_pos=0, num_reg=1)")
    expect(group.tokens == 1, f"one register is asked for, not {group.tokens}")
    expect(group.enter == 0, f"the register enters before block 0, not {group.enter}")
    expect(model.plan == TokenPlan.of(4, reg_pos=0, num_reg=1), "nothing else of the plan changes")
    config = named("vit_shapes_patch8_32").with_plan(model.plan)
    expect(model.config == config, "the configuration stays that of vit_shapes_patch8_32: its plan alone changes")
    register = model.tokens["reg"]
    expect(not register.any(), "the register is not empty: set its values to 0")
    expect(not register.requires_grad, "the register would be trained: requires_grad_(False) keeps it empty")
    still = [name for name, value in model.named_parameters() if not value.requires_grad and name != "tokens.reg"]
    expect(not still, f"{still[0] if still else ''} is not trained either: only the register stays as it is")
    expect_fresh(empty_token)
