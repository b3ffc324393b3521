"""Checkers of chapter 8, LayerScale and stochastic depth."""

import copy
import math

import torch
from torch import Tensor, nn

from ..config import ViTConfig
from ..layers import LayerScale
from ..models import ViT
from ..tokens import TokenPlan
from . import (
    exercise,
    expect,
    expect_close,
    expect_fresh,
    expect_learns,
    expect_number,
    expect_shape,
    is_near,
    refuse_mistakes,
)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class _Branch(nn.Module):
    """Neither linear nor zero at zero, so that it matters where a factor stands; and it learns."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x) + self.shift


@exercise
def check_scaled_residual(ScaledResidual) -> None:
    """Its one parameter, its first value, and what is multiplied by it."""
    branch = _Branch()
    module = ScaledResidual(branch, 6, 0.25)
    expect(isinstance(module, nn.Module), f"expected an nn.Module, not {type(module).__name__}")
    parts = dict(module.named_parameters())
    own = {name: part for name, part in parts.items() if part is not branch.shift}
    expect(len(own) < len(parts), "the branch's parameters are none of the module's: keep it as self.branch = branch")
    expect(len(own) > 0, "nothing is learned: make the factors an nn.Parameter")
    expect(len(own) == 1, f"one parameter, the factors, not {len(own)}: {', '.join(own)}")
    (factor,) = own.values()
    expect(factor.numel() != 1, "that is one factor for all channels, as in ReZero: LayerScale has one a channel")
    expect_shape(factor, (6,), "one factor for each channel: (dim,)")
    expect(not torch.equal(factor, torch.ones(6)), "the factors begin at 1: fill them with initial")
    expect(bool((factor == 0.25).all()), f"each factor begins at initial, 0.25 here, not at {factor[0].item():g}")
    factor.data.copy_(torch.tensor([1.5, -0.5, 2.0, 0.3, -1.2, 0.8]))
    x, scale = _random(2, 6, 6), factor.detach()
    before = x._version
    answer = module(x)
    expect(x._version == before, "x itself has changed: build a new one")
    expect_shape(answer, (2, 6, 6), "the stream keeps its shape: (batch, tokens, dim)")
    added = branch(x).detach()
    mistakes = {
        "the factors are on the stream as well: x itself has to stay as it is": scale * (x + added),
        "the factors are on the stream, and the branch has none: it is the branch that they multiply": scale * x
        + added,
        "the factors stand before the branch: multiply what it computes": x + branch(scale * x).detach(),
        "the factors are not used": x + added,
        "the stream is missing: add the branch to x": scale * added,
        "the factors are added: multiply by them": x + added + scale,
        "each token has its factor in yours: a channel has one, so multiply along the last axis": x
        + scale[:, None] * added,
    }
    refuse_mistakes(answer.detach(), mistakes)
    expect_close(answer.detach(), x + scale * added, "not x + factor · branch(x)")
    expect_learns(answer, {"the factors": factor, "the branch": branch.shift})


@exercise
def check_my_drop_path(my_drop_path) -> None:
    """Samples that are dropped whole, others that are scaled; and nothing at all in evaluation."""
    x = 1 + _random(4000, 3, 2).abs()
    still = my_drop_path(x, 0.75, False)
    expect_shape(still, x.shape, "the branch keeps its shape: (batch, tokens, dim)")
    expect(torch.equal(still, x), "outside of training the branch stays as it is: look at `training`")
    torch.manual_seed(0)
    answer = my_drop_path(x, 0.75, True)
    expect_shape(answer, x.shape, "the branch keeps its shape: (batch, tokens, dim)")
    ratio = (answer / x).flatten(1)
    expect(bool(ratio.any()), "everything is dropped in one draw: each sample draws for itself")
    expect(not bool((ratio != 0).all()), "nothing is dropped in training: each sample draws for itself")
    whole = (ratio == 0).all(1) | (ratio != 0).all(1)
    tokens = (answer == 0).all(2) | (answer != 0).all(2)
    expect(bool(tokens.all()), "single numbers are dropped, as dropout does: drop the branch of a whole sample")
    expect(bool(whole.all()), "tokens are dropped one by one: all tokens of a sample share its fate")
    kept = (ratio != 0).all(1)
    share = kept.float().mean().item()
    expect(abs(share - 0.75) > 0.05, "0.75 is the probability to drop a branch, and yours keeps so many")
    expect(abs(share - 0.25) < 0.05, f"a quarter of the samples has to be kept at 0.75, and yours keeps {share:.0%}")
    values = ratio[kept]
    expect(not torch.allclose(values, torch.tensor(1.0)), "what is kept has to be scaled, or evaluation adds more")
    for wrong in (0.25, 0.75, 1 / 0.75):
        hint = f"what is kept is multiplied by {wrong:.2f}: its mean over draws has to be the branch itself"
        expect(not torch.allclose(values, torch.tensor(wrong)), hint)
    expect_close(values, torch.full_like(values, 4.0), "divide what is kept by the probability to keep it", 1e-4)
    more = [my_drop_path(x, 0.75, True) for _ in range(3)]
    expect(not torch.equal(more[0] == 0, answer == 0), "each call has to draw anew")
    counts = {int((one != 0).sum()) for one in more}
    expect(len(counts) > 1, "always the same number is dropped: each sample draws for itself")
    expect(torch.equal(my_drop_path(x, 0.0, True), x), "at a probability of 0 everything stays")
    branch = x.clone().requires_grad_()
    expect_learns(my_drop_path(branch, 0.75, True), {"the branch": branch})


@exercise
def check_my_fold(my_fold) -> None:
    """A map that is not square, factors of both signs, with a bias and without."""
    for bias in (True, False):
        linear = nn.Linear(4, 4, bias=bias)
        with torch.no_grad():
            for seed, value in enumerate(linear.parameters()):
                value.copy_(_random(*value.shape, seed=seed))
        before, factor, x = copy.deepcopy(linear.state_dict()), _random(4, seed=7), _random(3, 4, seed=8)
        folded = my_fold(linear, factor)
        expect(isinstance(folded, nn.Linear), f"return an nn.Linear, not {type(folded).__name__}")
        same = all(torch.equal(value, before[name]) for name, value in linear.state_dict().items())
        expect(same and folded is not linear, "linear itself has changed: build a new one")
        expect((folded.bias is not None) == bias, "the folded map has a bias where the given one has, and only there")
        with torch.no_grad():
            answer, plain = folded(x), linear(x)
            shift = linear.bias if bias else torch.zeros(4)
            mistakes = {
                "nothing is folded in": plain,
                "the columns are multiplied: a factor belongs to an output, which is a row of weight": x
                @ (linear.weight * factor).T
                + factor * shift,
                "it divides by the factors: multiply": (plain - shift) / factor + shift / factor,
            }
            if bias:
                mistakes |= {
                    "the bias is multiplied, too, by the factor of its channel: it is not yet": factor * (plain - shift)
                    + shift,
                    "the bias is lost": factor * (plain - shift),
                }
            refuse_mistakes(answer, mistakes)
            expect_close(answer, factor * plain, "not the factors times what the map gives")
    wide = my_fold(nn.Linear(5, 3), _random(3))
    expect_shape(wide.weight, (3, 5), "of an MLP's last map, which is not square: (outputs, inputs)")
    said = wide.in_features, wide.out_features
    expect(said == (5, 3), f"a map of 5 inputs and 3 outputs says in_features, out_features = {said}")


@exercise
def check_positive(positive) -> None:
    """A model with factors of both signs, before and after."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(16, 4, dim=12, depth=2, heads=3, classes=5, layer_scale=0.1)).eval()
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(0.5 * torch.randn_like(part))
    images = _random(3, 3, 16, 16)
    with torch.no_grad():
        wanted, sizes = model(images), _factors(model).abs()
        returned = positive(model)
        answer, factors = model(images), _factors(model)
    expect(returned is model, "change the model that is given, and return that one")
    expect(not bool((factors < 0).all()), "all factors are negative now")
    attention, mlp = factors.chunk(2)
    one = (attention < 0).any().item() != (mlp < 0).any().item()
    expect(not one, "one of the two branches still has negative factors: a block has scale1 and scale2")
    expect(bool((factors >= 0).all()), "some factors are still negative")
    expect(torch.allclose(factors, sizes), "the factors have other sizes than before: only their signs may change")
    hint = "the factors are positive, and the model computes something else: what else has to change its sign?"
    expect((answer - wanted).norm() <= 1e-4 * wanted.norm(), hint)
    frozen = [name for name, part in model.named_parameters() if not part.requires_grad]
    expect(not frozen, f"{', '.join(frozen[:3])} can learn nothing any more: change the numbers alone")


def _factors(model: ViT) -> Tensor:
    """Of attention's branches, then of the MLPs'."""
    scales = [getattr(block, name) for name in ("scale1", "scale2") for block in model.blocks]
    expect(all(isinstance(scale, LayerScale) for scale in scales), "each branch keeps its LayerScale")
    return torch.cat([scale.factor.detach().clone() for scale in scales])


@exercise
def check_branches_run(branches_run) -> None:
    """A few depths and probabilities, a single block among them."""
    for depth, drop_path in ((12, 0.2), (12, 0.0), (48, 0.5), (1, 0.3), (5, 0.1), (9, 0.13)):
        config = ViTConfig(depth=depth, drop_path=drop_path)
        rates = config.drop_path_rates()
        right = 2 * sum(1 - rate for rate in rates)
        answer = branches_run(depth, drop_path)
        case = f"depth {depth}, drop_path {drop_path}"
        if drop_path and depth > 1:
            for hint, wrong in {
                "a block has two branches, and each is drawn for itself": right / 2,
                "those are the branches that are dropped": 2 * depth - right,
                "the probability rises from 0 in the first block: it is not the same in all": 2
                * depth
                * (1 - drop_path),
                "the first block's probability is 0 and the last one's is drop_path: divide by depth − 1": 2
                * sum(1 - drop_path * block / depth for block in range(depth)),
                "the last block's probability is drop_path itself: count blocks from 0": 2
                * sum(1 - drop_path * (block + 1) / depth for block in range(depth)),
            }.items():
                expect(not is_near(answer, wrong) or is_near(wrong, right), f"{hint} ({case})")
        expect_number(answer, right, f"{right:g} branches on average for {case}")


@exercise
def check_largest_factor(largest_factor) -> None:
    """Several depths, lengths and growths; growths that are not 2, where two mistakes would agree."""
    for depth, length, branch, growth in (
        (12, 8.0, 2.0, 1.5),
        (48, 8.0, 2.0, 1.5),
        (6, 3.0, 5.0, 1.1),
        (1, 1.0, 1.0, 3),
    ):
        right = length * math.sqrt((growth**2 - 1) / (2 * depth)) / branch
        answer = largest_factor(depth, length, branch, growth)
        for hint, wrong in {
            "a block has two branches": right * math.sqrt(2),
            "the lengths are added up: at right angles their squares are": length * (growth - 1) / (2 * depth) / branch,
            "that is the square of it": right**2,
            "the first length counts, too: what is added is the difference of the squares": length
            * growth
            / math.sqrt(2 * depth)
            / branch,
            "growth is a ratio of lengths: square it": length * math.sqrt((growth - 1) / (2 * depth)) / branch,
            "that is the length of what is added: divide by the branch's": right * branch,
        }.items():
            expect(not is_near(answer, wrong) or is_near(wrong, right), hint)
        expect_number(
            answer, right, f"{right:.4g} for depth {depth}, lengths {length:g} and {branch:g}, {growth} times"
        )


@exercise
def check_mended(mended) -> None:
    """The wide model with LayerScale, and nothing else changed."""
    torch.manual_seed(1)
    model = mended()
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    config = model.config
    plain = ViT.build("vit_shapes_patch8_32", TokenPlan.of(8)).config
    expect(config.layer_scale is not None, "there is no LayerScale: eight_wide() passes layer_scale on")
    expect(config.depth == 8, f"the plain model has 8 blocks, and yours has {config.depth}")
    expect(config.layer_scale == 1e-5, f"the factors begin at 1e-5, not at {config.layer_scale:g}")
    other = [
        name for name, value in plain.to_dict().items() if config.to_dict()[name] != value and name != "layer_scale"
    ]
    expect(not other, f"{', '.join(other)} differs from the plain model's: change layer_scale alone")
    for name, part in model.blocks.named_modules():
        if isinstance(part, nn.Linear):
            spread = part.weight.std().item() * part.in_features**0.5
            expect(spread > 0.7, f"the matrix {name} is not wide: build on eight_wide()")
            expect(spread < 1.3, f"the matrix {name} is wider than the plain model's: build on eight_wide()")
    factors = _factors(model)
    expect(bool((factors == config.layer_scale).all()), "every factor begins at 1e-5")
    frozen = [name for name, part in model.named_parameters() if not part.requires_grad]
    expect(not frozen, f"{', '.join(frozen[:3])} does not learn: leave requires_grad as it is")
    expect_fresh(mended)
