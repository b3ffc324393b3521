"""Wrong answers that the checkers of chapter 8 have to refuse."""

import copy
import math

import torch
from torch import nn

from dtl_lib import TokenPlan, ViT


def scaled(forward, shape="channels", first=None, learned=True, frozen=""):
    """A scaled residual with one mistake."""

    class Wrong(nn.Module):
        def __init__(self, branch, dim, initial):
            super().__init__()
            self.branch = branch
            size = {"channels": (dim,), "one": (1,), "column": (dim, 1)}[shape]
            factor = torch.full(size, initial if first is None else first)
            self.factor = nn.Parameter(factor) if learned else factor
            for part in {"": (), "factor": (self.factor,), "branch": branch.parameters()}[frozen]:
                part.requires_grad_(False)

        def forward(self, x):
            return forward(x, self.branch, self.factor)

    return Wrong


class TwoFactors(nn.Module):
    def __init__(self, branch, dim, initial):
        super().__init__()
        self.branch = branch
        self.factor, self.other = nn.Parameter(torch.full((dim,), initial)), nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.other * x + self.factor * self.branch(x)


class Unregistered(nn.Module):
    def __init__(self, branch, dim, initial):
        super().__init__()
        self.parts = [branch]
        self.factor = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x):
        return x + self.factor * self.parts[0](x)


def into_the_stream(x, branch, factor):
    x += factor * branch(x)
    return x


RESIDUALS = [
    Unregistered,
    scaled(into_the_stream),
    scaled(lambda x, branch, factor: x + factor * branch(x).detach()),
    scaled(lambda x, branch, factor: factor * (x + branch(x))),
    scaled(lambda x, branch, factor: factor * x + branch(x)),
    scaled(lambda x, branch, factor: x + branch(factor * x)),
    scaled(lambda x, branch, factor: x + branch(x)),
    scaled(lambda x, branch, factor: factor * branch(x)),
    scaled(lambda x, branch, factor: x + branch(x) + factor),
    scaled(lambda x, branch, factor: x + factor[:, None] * branch(x)),
    scaled(lambda x, branch, factor: x + factor.detach() * branch(x)),
    scaled(lambda x, branch, factor: x - factor * branch(x)),
    scaled(lambda x, branch, factor: x + factor * branch(x), shape="one"),
    scaled(lambda x, branch, factor: x + factor * branch(x), shape="column"),
    scaled(lambda x, branch, factor: x + factor * branch(x), first=1.0),
    scaled(lambda x, branch, factor: x + factor * branch(x), first=0.0),
    scaled(lambda x, branch, factor: x + factor * branch(x), learned=False),
    scaled(lambda x, branch, factor: x + factor * branch(x), frozen="factor"),
    scaled(lambda x, branch, factor: x + factor * branch(x), frozen="branch"),
    TwoFactors,
]


def dropped(
    shape=lambda x: (len(x), 1, 1), scale=lambda keep: 1 / keep, keeps=lambda p: 1 - p, always=False, seed=None
):
    """Stochastic depth with one mistake."""

    def wrong(x, probability, training):
        if not training and not always:
            return x
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        keep = keeps(probability)
        kept = torch.rand(shape(x), generator=generator) < keep
        return x * kept * scale(keep)

    return wrong


def never_dropped(x, probability, training):
    return x


def detached(x, probability, training):
    return dropped()(x.detach(), probability, training) if training else x


def a_fixed_number(x, probability, training):
    if not training:
        return x
    keep = 1 - probability
    kept = torch.randperm(len(x)) < keep * len(x)
    return x * kept[:, None, None] / keep


def all_dropped(x, probability, training):
    return x * 0 if training else x


def fold(weight, bias=lambda linear, factor: linear.bias * factor):
    """A folded map with one mistake."""

    def wrong(linear, factor):
        folded = copy.deepcopy(linear)
        with torch.no_grad():
            folded.weight.copy_(weight(linear, factor))
            if linear.bias is not None:
                folded.bias.copy_(bias(linear, factor))
        return folded

    return wrong


def in_place(linear, factor):
    with torch.no_grad():
        linear.weight.mul_(factor[:, None])
        if linear.bias is not None:
            linear.bias.mul_(factor)
    return linear


def always_a_bias(linear, factor):
    folded = nn.Linear(linear.in_features, linear.out_features)
    with torch.no_grad():
        folded.weight.copy_(linear.weight * factor[:, None])
        folded.bias.zero_()
        if linear.bias is not None:
            folded.bias.copy_(linear.bias * factor)
    return folded


def features_exchanged(linear, factor):
    folded = nn.Linear(linear.out_features, linear.in_features, bias=linear.bias is not None)
    folded.weight = nn.Parameter((linear.weight * factor[:, None]).detach())
    if linear.bias is not None:
        folded.bias = nn.Parameter((linear.bias * factor).detach())
    return folded


def a_function(linear, factor):
    return lambda x: factor * linear(x)


def signs(branches=("scale1", "scale2"), weight=True, bias=True, columns=False, sizes=1.0, less=1):
    """Factors made positive, with one mistake."""

    def wrong(model):
        with torch.no_grad():
            for block in model.blocks:
                for name, last in (("scale1", block.attention.project), ("scale2", block.mlp.contract)):
                    if name not in branches:
                        continue
                    factor = getattr(block, name).factor
                    sign = factor.sign()
                    factor.copy_(less * factor.abs() * sizes)
                    if weight and not columns:
                        last.weight.mul_(sign[:, None])
                    if columns:
                        last.weight[:, : len(sign)].mul_(sign)
                    if bias:
                        last.bias.mul_(sign)
        return model

    return wrong


def a_copy(model):
    return signs()(copy.deepcopy(model))


def frozen_signs(model):
    signs()(model)
    for block in model.blocks:
        block.scale1.factor.requires_grad_(False)
    return model


def no_scale(model):
    for block in model.blocks:
        block.scale1 = block.scale2 = nn.Identity()
    return model


def run(count=2, rate=lambda p, b, d: p * b / max(1, d - 1), left=lambda rate: 1 - rate):
    return lambda depth, drop_path: count * sum(left(rate(drop_path, b, depth)) for b in range(depth))


def factor(rule):
    return lambda depth, length, branch, growth: rule(depth, length, branch, growth)


def shapes(depth=8, layer_scale=1e-5, gain=1.0, **changes):
    """The model of the last exercise, with one mistake."""

    def wrong():
        model = ViT.build("vit_shapes_patch8_32", TokenPlan.of(depth), layer_scale=layer_scale, **changes)
        for linear in (part for block in model.blocks for part in block.modules() if isinstance(part, nn.Linear)):
            nn.init.trunc_normal_(linear.weight, std=gain * linear.in_features**-0.5)
        return model

    return wrong


def one_wide():
    model = ViT.build("vit_shapes_patch8_32", TokenPlan.of(8), layer_scale=1e-5)
    for block in model.blocks:
        nn.init.trunc_normal_(block.mlp.expand.weight, std=block.mlp.expand.in_features**-0.5)
    return model


def factors_at_one():
    model = shapes()()
    for block in model.blocks:
        nn.init.ones_(block.scale1.factor)
    return model


def frozen_factors():
    model = shapes()()
    for block in model.blocks:
        block.scale1.factor.requires_grad_(False)
    return model


WRONG = {
    "check_scaled_residual": RESIDUALS,
    "check_my_drop_path": [
        dropped(always=True),
        dropped(shape=lambda x: x.shape),
        dropped(shape=lambda x: (*x.shape[:2], 1)),
        dropped(shape=lambda x: (1, 1, 1)),
        dropped(scale=lambda keep: 1),
        dropped(scale=lambda keep: keep),
        dropped(scale=lambda keep: 1 / (1 - keep) if keep < 1 else 1),
        dropped(keeps=lambda p: p),
        dropped(seed=3),
        never_dropped,
        a_fixed_number,
        all_dropped,
        detached,
    ],
    "check_my_fold": [
        fold(lambda linear, factor: linear.weight),
        fold(lambda linear, factor: linear.weight * factor),
        fold(lambda linear, factor: linear.weight * factor[:, None], lambda linear, factor: linear.bias),
        fold(lambda linear, factor: linear.weight * factor[:, None], lambda linear, factor: 0 * factor),
        fold(lambda linear, factor: linear.weight / factor[:, None], lambda linear, factor: linear.bias / factor),
        in_place,
        always_a_bias,
        features_exchanged,
        a_function,
    ],
    "check_positive": [
        signs(weight=False, bias=False),
        signs(bias=False),
        signs(weight=False),
        signs(columns=True),
        signs(branches=("scale1",)),
        signs(branches=("scale2",)),
        signs(sizes=2.0),
        signs(less=-1),
        signs(branches=()),
        no_scale,
        a_copy,
        frozen_signs,
    ],
    "check_branches_run": [
        run(count=1),
        run(left=lambda rate: rate),
        run(rate=lambda p, b, d: p),
        run(rate=lambda p, b, d: p * b / d),
        lambda depth, drop_path: (1 - torch.linspace(0, drop_path, depth, dtype=torch.double)).sum(),
        run(rate=lambda p, b, d: p * (b + 1) / d),
        lambda depth, drop_path: round(run()(depth, drop_path), 1),
        lambda depth, drop_path: 2 * depth,
    ],
    "check_largest_factor": [
        factor(lambda d, s, b, g: s * math.sqrt((g**2 - 1) / d) / b),
        factor(lambda d, s, b, g: s * (g - 1) / (2 * d) / b),
        factor(lambda d, s, b, g: s**2 * (g**2 - 1) / (2 * d) / b**2),
        factor(lambda d, s, b, g: s * g / math.sqrt(2 * d) / b),
        factor(lambda d, s, b, g: s * math.sqrt((g - 1) / (2 * d)) / b),
        factor(lambda d, s, b, g: s * math.sqrt((g**2 - 1) / (2 * d))),
        factor(lambda d, s, b, g: 1e-5),
    ],
    "check_mended": [
        shapes(depth=4),
        shapes(layer_scale=None),
        shapes(layer_scale=0.1),
        shapes(gain=0.2),
        shapes(gain=2**0.5),
        shapes(mlp_ratio=2.0),
        one_wide,
        factors_at_one,
        frozen_factors,
        lambda: nn.Linear(2, 2),
    ],
}
