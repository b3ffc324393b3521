"""Checkers of chapter 13, Filters, positions, distances, lens."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ViTConfig
from ..layers import Block
from ..models import ViT
from ..probes.distance import distances
from . import exercise, expect, expect_close, expect_fresh, expect_shape, refuse_mistakes


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise
def check_my_lens(my_lens) -> None:
    """A model whose norm, head and tokens are not at their special values."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(8, 4, dim=12, depth=2, heads=3, classes=5)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    tokens = 3 * _random(2, 7, 12)
    head, normed = model.classifiers["cls"], model.norm(tokens)
    with torch.no_grad():
        logits = my_lens(model, tokens)
        alone = isinstance(logits, Tensor) and tuple(logits.shape) == (2, 5)
        expect(not alone, "that is one token: the lens reads every token of every image")
        named = isinstance(logits, Tensor) and tuple(logits.shape) == (2, 7)
        expect(not named, "that is one number for each token: return the logits of all classes, without argmax")
        expect_shape(logits, (2, 7, 5), "a logit of each class for each token: (batch, tokens, classes)")
        block = cast(Block, model.blocks[0])
        mistakes = {
            "the norm is missing: the head has only ever seen tokens after model.norm": head(tokens),
            "the model's norm has a weight and a bias of its own: use model.norm": head(F.layer_norm(tokens, (12,))),
            "norm1 belongs to a block: the head reads what model.norm gives": head(block.norm1(tokens)),
            "norm2 belongs to a block: the head reads what model.norm gives": head(block.norm2(tokens)),
            "these are probabilities: return the logits, without softmax": head(normed).softmax(-1),
            "these are log-probabilities: return the logits, without log_softmax": head(normed).log_softmax(-1),
            "the blocks still run in yours: read the tokens as they are": head(model.norm(_through(model, tokens))),
            "the norm is applied twice: once is enough": head(model.norm(normed)),
            "this reads the mean of the tokens for all: each token is read alone": head(
                normed.mean(1, keepdim=True)
            ).expand(2, 7, 5),
            "the head's bias is missing: call the head": head(normed) - head.bias,
        }
        refuse_mistakes(logits, mistakes)
        expect_close(logits, head(normed), "not what head and norm say of each token")


def _through(model: ViT, tokens: Tensor) -> Tensor:
    for block in model.blocks:
        tokens = block(tokens)
    return tokens


def _attention(grid: tuple[int, int], in_front: int, seed: int = 0) -> Tensor:
    """Rows that sum to 1, and give the tokens in front shares that differ a lot from row to row."""
    count = in_front + grid[0] * grid[1]
    scores = 1.5 * _random(count, count, seed=seed)
    scores[:, :in_front] += 2 * _random(count, 1, seed=seed + 1)
    return scores.softmax(dim=-1)


@exercise
def check_my_distance(my_distance) -> None:
    """A grid that is not square, two tokens in front, a patch of 8 pixels."""
    grid, size, in_front = (2, 5), 8, 2
    attention = _attention(grid, in_front)
    value = my_distance(attention, grid, size, in_front)
    value = torch.as_tensor(value)
    expect(value.ndim == 0, f"expected one number, the mean over the patches that ask, not {tuple(value.shape)}")
    pixels = size * distances(grid)
    patches = attention[in_front:, in_front:]
    whole = patches / patches.sum(-1, keepdim=True)
    far = (whole * pixels).sum(-1)
    turned = size * distances(grid[::-1])
    first = attention[: grid[0] * grid[1], : grid[0] * grid[1]]
    columns = patches / patches.sum(0, keepdim=True)
    everyone = attention[:, in_front:] / attention[:, in_front:].sum(-1, keepdim=True)
    padded = F.pad(pixels, (0, 0, in_front, 0))
    mistakes = {
        "the rows are not renormalised: without the columns in front they sum to less than 1": (
            (patches * pixels).sum(-1).mean()
        ),
        "the distance is in patches: multiply by patch_size": far.mean() / size,
        "that is a squared distance: take its root": (whole * pixels.square()).sum(-1).mean(),
        "the root comes too late: take it of each squared distance, not of their mean": (
            (whole * pixels.square()).sum(-1).sqrt().mean()
        ),
        "rows and columns of the grid are swapped: the patches are numbered row by row": (whole * turned)
        .sum(-1)
        .mean(),
        "the columns are renormalised: a row holds what one patch gives": (columns * pixels).sum(0).mean(),
        "all rows are divided by one number: each has a sum of its own": (
            (patches * pixels).sum(-1).mean() / patches.sum(-1).mean()
        ),
        "the tokens in front ask, too, in yours: they have no place, so drop their rows": (
            (everyone * padded).sum(-1).mean()
        ),
        "the tokens in front come first: the patches begin at in_front": (
            (first / first.sum(-1, keepdim=True) * pixels).sum(-1).mean()
        ),
        "that is the sum over the patches that ask: take their mean": far.sum(),
        "that is a mean over the patches attended to as well: a row's products are added up": far.mean() / len(far),
        "that is the first patch alone: take the mean over the patches that ask": far[0],
        "what a patch gives itself is left out: it counts, at distance 0": (
            (patches * pixels).sum(-1) / (patches.sum(-1) - patches.diagonal())
        ).mean(),
        "steps along rows and columns are added up here: distances are straight lines": (
            (whole * size * _steps(grid)).sum(-1).mean()
        ),
        "this is as if every patch got the same: weigh the distances by attention": pixels.mean(),
    }
    refuse_mistakes(value, mistakes)
    expect_close(value, far.mean(), "not the expected distance: go through the example by hand")
    for other, front in (((3, 4), 1), ((4, 2), 0), ((3, 3), 5)):
        attention = _attention(other, front, seed=5)
        patches = attention[front:, front:]
        wanted = (patches / patches.sum(-1, keepdim=True) * 16 * distances(other)).sum(-1).mean()
        hint = f"right for a grid of 2 × 5 and two tokens in front, and not for {other[0]} × {other[1]} and {front}"
        expect_close(torch.as_tensor(my_distance(attention, other, 16, front)), wanted, hint)


def _steps(grid: tuple[int, int]) -> Tensor:
    number = torch.arange(grid[0] * grid[1])
    down, across = number // grid[1], number % grid[1]
    return ((down[:, None] - down).abs() + (across[:, None] - across).abs()).float()


@exercise
def check_farthest(farthest) -> None:
    """Grids that are not square, and a single row."""
    for grid, size in (((3, 5), 8), ((14, 14), 16), ((1, 4), 10)):
        value = torch.as_tensor(farthest(grid, size)).double()
        expect(value.ndim == 0, "one number, in pixels")
        pixels = size * distances(grid).double()
        most = pixels.max(dim=-1).values
        mistakes = {
            "that is the distance between two opposite corners: most patches are nearer to every other": pixels.max(),
            "that is an even share: let each patch attend to one patch alone": pixels.mean(),
            "the distance is in patches: multiply by patch_size": most.mean() / size,
            "the patch that is farthest need not be the same for all: choose for each patch that asks": (
                pixels.mean(dim=0).max()
            ),
            "distances are between the centres of patches, as in the probe": (most + size).mean(),
            "that is the sum over the patches that ask: take their mean": most.sum(),
        }
        if 1 not in grid:  # along one row, steps are straight
            hint = "steps along rows and columns are added up here: distances are straight lines"
            mistakes[hint] = size * _steps(grid).amax(dim=-1).double().mean()
        refuse_mistakes(value, mistakes)
        expect_close(value, most.mean(), f"not the largest mean for a grid of {grid[0]} × {grid[1]}")


@exercise
def check_settled(settled) -> None:
    """Answers that come, go, come back, and never change; made so that no class is the right one by its number."""
    said = torch.tensor(
        [[3, 3, 3, 3, 3], [1, 2, 3, 3, 3], [3, 1, 1, 3, 3], [0, 1, 2, 4, 3], [3, 3, 3, 3, 1], [2, 2, 3, 2, 2]]
    )
    logits = F.one_hot(said.T, 5).float() + 0.1 * _random(5, 6, 5)
    wanted = torch.tensor([0, 2, 3, 4, 4, 3])
    answer = settled(logits)
    expect_shape(answer, (6,), "one number for each image: (images,)")
    same, changes = said == said[:, -1:], (said[:, 1:] != said[:, :-1]).sum(1)
    mistakes = {
        "that is the first time that the answer is named: it may be lost again": same.int().argmax(1),
        "rows count from 0": wanted + 1,
        "that is the last block that says something else: the answer settles one later": wanted - 1,
        "that counts the blocks that agree with the last, wherever they stand": same.sum(1),
        "this counts how long the answer stands: which row does that begin at?": 5 - wanted,
        "that counts how often the answer changes: which row is the last change at?": changes,
        "that counts the rows that disagree: those after which it changes back count, too": (~same).sum(1),
    }
    refuse_mistakes(answer.double(), {hint: wrong.double() for hint, wrong in mistakes.items()})
    expect_close(answer.double(), wanted.double(), "an answer has settled from the row after which it never changes")


@exercise
def check_by_displacement(by_displacement) -> None:
    """Similarities that depend on the displacement alone, on the place alone, and on both; on a grid of 3 × 4."""
    grid = (3, 4)
    rows, columns = torch.meshgrid(*(torch.arange(length) for length in grid), indexing="ij")
    down = rows[None, None] - rows[:, :, None, None]
    across = columns[None, None] - columns[:, :, None, None]
    table, noise = _random(5, 7), 0.5 * _random(3, 4, 3, 4, seed=1)
    moved = table[down + 2, across + 3]
    for similarity in (moved + noise, moved):
        _check_displacement(by_displacement(similarity.clone()), similarity, down, across)


def _check_displacement(answer, similarity: Tensor, down: Tensor, across: Tensor) -> None:
    answer = torch.as_tensor(answer).double()
    expect(answer.ndim == 0, "one number: a share of the variance")

    def explained(kind: Tensor, kept: Tensor) -> Tensor:
        values, kind = similarity[kept].double(), kind[kept]
        means = values.clone()
        for one in kind.unique():
            means[kind == one] = values[kind == one].mean()
        return 1 - (values - means).square().sum() / (values - values.mean()).square().sum()

    each, elsewhere = down * 100 + across, (down != 0) | (across != 0)
    every = torch.ones_like(elsewhere)
    right = explained(each, elsewhere)
    if float(right) < 0.999:
        mistakes = {
            "pairs of a place with itself are counted: leave them out": explained(each, every),
            "up and down are not the same displacement: keep the signs": explained(
                down.abs() * 100 + across, elsewhere
            ),
            "two steps share a number: one row down and one column left is not three columns right": explained(
                down * down.shape[1] + across, elsewhere
            ),
            "right and left are not the same displacement: keep the signs": explained(
                down.abs() * 100 + across.abs(), elsewhere
            ),
            "a displacement has a direction, too: distance alone is less": explained(down**2 + across**2, elsewhere),
            "that is the share left over: take it from 1": 1 - right,
            "that is the share by place: a displacement is the difference of two places": explained(
                torch.arange(12).reshape(3, 4)[:, :, None, None].expand_as(down), elsewhere
            ),
        }
        refuse_mistakes(answer, mistakes)
    hint = "not the share of the variance that the means by displacement explain"
    expect_close(answer, right, hint, 1e-4)


@exercise
def check_local(local) -> None:
    """A patch hears of its neighbours, block by block, and of no one else; the class token hears of all."""
    torch.manual_seed(1)
    model = local()
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    plain = ViT.build("vit_shapes_patch8_32")
    expect(model.config == plain.config, "the configuration stays that of vit_shapes_patch8_32")
    expect_fresh(local)
    heard = _who_hears_of_whom(model.eval())
    reached = _within(1)
    patches = heard[1:, 1:]
    expect(bool(heard[0, 1:].any()), "the class token hears of no patch: its row is True throughout")
    expect(not bool(patches.all()), "every patch hears of every other: give each block's attention a Masked core")
    far = bool((patches & ~reached).any())
    expect(not far, "a patch hears of one that is not next to it: only the 3 × 3 patches around each are allowed")
    cross = distances((4, 4)) <= 1
    expect(not bool((patches == cross).all()), "neighbours at a corner are missing: 3 × 3 patches, the middle one too")
    expect(bool(patches.diagonal().all()), "a patch does not hear of itself: the middle of the 3 × 3 is allowed")
    expect(bool((patches == reached).all()), "not all of the 3 × 3 patches around a patch are heard of")
    expect(bool(heard[0, 1:].all()), "the class token does not hear of all patches: its row is True throughout")
    expect(bool(heard[0, 0]), "the class token does not hear of itself: its row is True throughout")
    expect(bool(heard[1:, 0].all()), "the patches do not hear of the class token: its column is True throughout")
    for number in range(1, model.plan.depth):
        same = bool((_who_hears_of_whom(model, number) == heard).all())
        expect(same, f"right in block 0, and not in block {number}: mask every block")


def _within(reach: int) -> Tensor:
    number = torch.arange(16)
    down, across = number // 4, number % 4
    near = ((down[:, None] - down).abs() <= reach) & ((across[:, None] - across).abs() <= reach)
    return near


def _who_hears_of_whom(model: ViT, number: int = 0) -> Tensor:
    """Whether what a token (row) gets in a block's core depends on the value of another (column): bool `(17, 17)`."""
    core = cast(Block, model.blocks[number]).attention.core
    q, k, v = (_random(1, model.config.heads, 17, 16, seed=seed) for seed in range(3))
    heard = torch.zeros(17, 17, dtype=torch.bool)
    with torch.no_grad():
        before = core(q, k, v)
        for key in range(17):
            other = v.clone()
            other[:, :, key] += 3
            heard[:, key] = (core(q, k, other) - before).abs().amax(dim=(0, 1, 3)) > 1e-5
    return heard
