"""Checkers of chapter 14, High-norm tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import ViT
from . import (
    exercise,
    expect,
    expect_close,
    expect_fresh,
    expect_learns,
    expect_number,
    expect_shape,
    refuse_mistakes,
)

HILLS = {
    "one hill": ([0, 1, 4, 9, 4, 1, 0, 0], -1),
    "a second hill": ([0, 3, 9, 5, 2, 1, 3, 2, 0], 5),
    "three hills": ([1, 9, 4, 3, 6, 2, 1, 5, 0], 3),
    "a hill before the main one": ([0, 4, 1, 9, 3, 0, 0, 0], -1),
    "one hill on each side": ([0, 4, 1, 9, 3, 2, 5, 0], 5),
    "a flat valley": ([0, 2, 9, 3, 1, 1, 1, 4, 2], 6),
    "a rise at the very end": ([0, 9, 4, 2, 3], 3),
}


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise
def check_my_valley(my_valley) -> None:
    """Hills whose valleys are known, on both sides of the main one."""
    hints = {
        "one hill": "of a single hill there is no valley to its right: return -1",
        "a second hill": "the valley is the place where density stops falling, to the right of the main hill",
        "three hills": "of two valleys to the right of the main hill, return the first",
        "a hill before the main one": "a hill to the left of the main one does not count: short tokens are no outliers",
        "one hill on each side": "look to the right of the main hill alone",
        "a flat valley": "where the valley is flat, the place is the last of its floor: from there density rises",
        "a rise at the very end": "density may rise in the last bin, too",
    }
    for name, (density, right) in HILLS.items():
        found = my_valley(torch.tensor(density, dtype=torch.float64))
        found = found.item() if isinstance(found, Tensor) and found.ndim == 0 else found
        expect(not isinstance(found, Tensor), "return one place, a whole number, or -1")
        is_value = right >= 0 and found == density[right] and found != right
        expect(not is_value, "that is the density there: return its place, counted from 0")
        expect_number(found, right, f"{hints[name]}: {right} for {density}")


@exercise
def check_my_direction(my_direction) -> None:
    """A branch with LayerScale and norm weights that are not 1, in random matrices."""
    expand, contract = _random(32, 8), _random(8, 32, seed=1)
    norm, scale = 1 + _random(8, seed=2).abs(), 0.2 + _random(8, seed=3).abs()

    def leading(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, values, right = torch.linalg.svd(matrix)
        return left[:, 0], values[0], right[0]

    whole = scale[:, None] * (contract @ (expand * norm))
    left, gain, right = leading(whole)
    found = my_direction(expand, contract, norm, scale)
    expect(isinstance(found, tuple | list) and len(found) == 2, "return two: the gain, and the direction, (dim,)")
    first, way = found
    expect_shape(way, (8,), "the direction is a vector of the stream, (dim,)")
    expect(abs(float(way.norm()) - 1) < 1e-4, "the direction is a unit vector")
    same = lambda other: abs(float(way @ other)) > 1 - 1e-4  # noqa: E731
    expect(not same(right), "that is what goes in, the right singular vector: what comes out is the left one")
    unscaled = leading(contract @ (expand * norm))[0]
    expect(not same(unscaled), "LayerScale is missing: it multiplies each channel of what the branch adds")
    expect(not same(leading(scale[:, None] * (contract @ expand))[0]), "the norm's weights are missing")
    wrong = leading(scale[:, None] * (contract @ (norm.repeat(4)[:, None] * expand)))[0]
    expect(not same(wrong), "the norm's weights multiply what goes in: the columns of expand, not its rows")
    expect(same(left), "not the leading direction of scale · contract · expand · norm")
    expect_close(torch.as_tensor(first), gain, "not the gain, the largest singular value", 1e-4)


@exercise
def check_massive(massive) -> None:
    """Energies whose order is not that of the channels."""
    energy = torch.tensor([0.1, 0.55, 0.05, 0.3])
    cases = {0.5: [1], 0.8: [1, 3], 0.9: [1, 3, 0], 0.99: [1, 3, 0, 2]}
    for share, right in cases.items():
        found = massive(energy, share)
        found = found.tolist() if isinstance(found, Tensor) else list(found)
        expect(found != sorted(right) or found == right, "the channel with the most energy comes first")
        expect(found != right[:-1], f"{found} hold less than {share} of the energy: one more is needed")
        expect(set(found) <= {0, 1, 2, 3}, "return the numbers of channels, not their energy")
        more = len(found) > len(right)
        expect(not more, f"{found} are too many: {right} hold {share} of the energy already")
        expect(found == right, f"the fewest channels that hold {share} of {energy.tolist()} are {right}, not {found}")
    exact = massive(torch.tensor([0.125, 0.5, 0.125, 0.25]), 0.75)
    exact = exact.tolist() if isinstance(exact, Tensor) else list(exact)
    expect(exact != [1, 3, 0] and exact != [1, 3, 2], "at least this share: channels that hold exactly as much do")
    scaled = massive(7 * energy, 0.8)
    hint = "lengths are not normalised: hold against a share of all the energy, not against a number"
    expect((scaled.tolist() if isinstance(scaled, Tensor) else list(scaled)) == [1, 3], hint)


@exercise
def check_told(told) -> None:
    """Images whose tokens have a common mean and lengths of their own."""
    for seed in range(6):
        before = _random(40, 6, seed=seed) * (0.2 + _random(40, 1, seed=50 + seed).abs())
        before = before + 3 * _random(6, seed=90 + seed)
        long = torch.zeros(40, dtype=torch.bool)
        long[:17] = True
        before[:5] = before[5] + 0.05 * _random(5, 6, seed=20 + seed)
        mistakes, found = _told_wrongly(before, long), float(told(before, long))
        right = mistakes.pop("")
        for hint, wrong in mistakes.items():
            expect(abs(found - wrong) > 1e-6 or abs(wrong - right) < 1e-6, hint)
        expect_number(found, right, f"of the 17 long tokens, {right:.2f} have a likeliest other token that is long")

    apart = torch.tensor([[1.0, 0.0], [-0.6, 0.5], [-0.4, -0.5]])  # every cosine is below 0
    found = float(told(apart, torch.tensor([True, False, False])))
    expect(found == 0, "each token is most like itself, also where all cosines are below 0: leave it out")


def _told_wrongly(before: Tensor, long: Tensor) -> dict[str, float]:
    """Hint → what that mistake gives; of no mistake under the empty hint."""
    centred = before - before.mean(dim=0)
    unit = F.normalize(centred, dim=-1)
    itself = 1e6 * torch.eye(len(before))

    def share(likeness: Tensor, of: Tensor = long) -> float:
        return float(long[likeness.argmax(dim=-1)][of].double().mean())

    plain, everyone = F.normalize(before, dim=-1), torch.ones_like(long)
    return {
        "likeness is a cosine and not a distance": share(-torch.cdist(before, before) - itself),
        "": share(unit @ unit.T - itself),
        "each token is most like itself: leave it out": share(unit @ unit.T),
        "ask the long tokens alone: most tokens are short, and so are those like them": share(
            unit @ unit.T - itself, everyone
        ),
        "ask the long tokens, not the others": share(unit @ unit.T - itself, ~long),
        "that is the share whose likeliest token is short": 1 - share(unit @ unit.T - itself),
        "subtract the mean of the tokens first: with it all are alike": share(plain @ plain.T - itself),
        "likeness is a cosine: normalise first": share(centred @ centred.T - itself),
    }


@exercise
def check_adds(adds) -> None:
    """Heads that get unequal attention, and a project with no structure."""
    values, received, project = _random(3, 7, 4), _random(3, 7, seed=1).abs() + 0.1, _random(12, 12, seed=2)
    found = adds(values, received, project)
    expect_shape(found, (7, 12), "one vector of the stream for each token: (tokens, dim)")

    def mapped(weights: Tensor) -> Tensor:
        return (values * weights[..., None]).permute(1, 0, 2).reshape(7, 12) @ project.T

    share = received / received.sum(dim=0)
    mistakes = {
        "that grows with the attention: divide by what the token gets from all heads together": mapped(received),
        "heads count by how much attention they give the token, not evenly": mapped(torch.full_like(share, 1 / 3)),
        "the shares of one token's heads sum to 1, not those of one head's tokens": mapped(
            received / received.sum(dim=1, keepdim=True)
        ),
        "project is applied as weight: out = x @ project.T": (values * share[..., None]).permute(1, 0, 2).reshape(7, 12)
        @ project,
        "heads are side by side in a token: (tokens, heads · head_dim)": (values * share[..., None])
        .permute(1, 2, 0)
        .reshape(7, 12)
        @ project.T,
        "project is missing: values become a vector of the stream by it": (values * share[..., None])
        .permute(1, 0, 2)
        .reshape(7, 12),
    }
    refuse_mistakes(found, mistakes)
    expect_close(found, mapped(share), "not what each token adds per unit of attention", 1e-4)


@exercise
def check_spare(spare) -> None:
    """A core that leaves room to attend to nothing: one more key and value of zeros."""
    torch.manual_seed(1)
    model = spare()
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    expect(model.config == ViT.build("vit_shapes_patch8_32").config, "the configuration is vit_shapes_patch8_32's")
    q, k, v = (_random(2, model.config.heads, 17, 16, seed=seed) for seed in range(3))
    scores = q @ k.transpose(-2, -1) / 4
    room = F.pad(scores, (1, 0)).softmax(dim=-1)[..., 1:]
    for number, block in enumerate(model.blocks):
        asked = {name: x.clone().requires_grad_() for name, x in (("q", q), ("k", k), ("v", v))}
        learning = block.attention.core(*asked.values())
        found = learning.detach()
        expect_shape(found, v.shape, "the core's output has as many tokens as there are queries")
        where = f"block {number}: "
        mistakes = {
            where + "nothing is different from plain attention: append a key and a value": scores.softmax(-1) @ v,
            where + "the added value is 1 and not 0": room @ v + (1 - room.sum(-1, keepdim=True)),
        }
        refuse_mistakes(found, mistakes)
        expect_close(found, room @ v, where + "not attention with one more key and value, both zero", 1e-4)
        expect_learns(learning, asked)
    expect_fresh(spare)
