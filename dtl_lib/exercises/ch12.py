"""Checkers of chapter 12, Rollout and relevance."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..config import named
from ..layers import Block
from ..models import ViT
from . import exercise, expect, expect_close, expect_fresh, expect_number, expect_shape, is_near, refuse_mistakes


def _attention(*tokens: int, heads: int = 3) -> list[Tensor]:
    """Rows that sum to 1, with so few large weights that no two blocks are alike."""
    drawn = torch.Generator().manual_seed(12)
    return [(3 * torch.randn(heads, count, count, generator=drawn)).softmax(dim=-1) for count in tokens]


def _product(matrices: Sequence[Tensor]) -> Tensor:
    """The first block stands to the right."""
    result = torch.eye(matrices[0].shape[-1])
    for matrix in matrices:
        result = matrix @ result
    return result


def _rows(matrix: Tensor) -> Tensor:
    return matrix / matrix.sum(dim=-1, keepdim=True)


@exercise
def check_my_rollout(my_rollout) -> None:
    """Three blocks of three heads, seven tokens."""
    attention = _attention(7, 7, 7)
    one = torch.eye(7)
    answer = my_rollout([block.clone() for block in attention])
    most = [block.amax(dim=0) for block in attention]
    right = [_rows((block + one) / 2) for block in most]
    shape = "one row for each token, one column for each token: (tokens, tokens)"
    patches = isinstance(answer, Tensor) and tuple(answer.shape) == (6, 6)
    expect(not patches, "the class token is missing: it holds most of what is asked for, and stays")
    heads = isinstance(answer, Tensor) and tuple(answer.shape) == (3, 7, 7)
    expect(not heads, "there is still one matrix for each head: take the maximum over the heads first")
    row = isinstance(answer, Tensor) and tuple(answer.shape) == (7,)
    expect(not row, "that is one row: return the whole product")
    expect_shape(answer, (7, 7), shape)
    columns = [(block + one) / 2 / ((block + one) / 2).sum(dim=-1) for block in most]
    kept = [(block + one) / 2 / ((block + one) / 2).sum(dim=0) for block in most]
    late = _product([(block + one) / 2 for block in most])
    elements = right[0] * right[1] * right[2]
    mistakes = {
        "the skip connection is missing: half of every token is what it was, the identity": _product(
            [_rows(block) for block in most]
        ),
        "columns are scaled, not rows: the sum over a row has lost its axis, keepdim=True keeps it": _product(columns),
        "columns are scaled, not rows: what a row holds sums to 1, and dim=0 runs down a column": _product(kept),
        "the rows do not sum to 1: the maximum over heads has made them larger, so scale them": late,
        "only the product is scaled: scale the rows of each block, before the next one": _rows(late),
        "the rows do not sum to 1: after the identity is added each sums to more": _product(
            [block + one for block in most]
        ),
        "each row is scaled before the identity is added: add first, then scale": _product(
            [(_rows(block) + one) / 2 for block in most]
        ),
        "the blocks are in the wrong order: a later block is multiplied from the left": _product(right[::-1]),
        "that is the last block alone": right[-1],
        "the first block is missing": _product(right[1:]),
        "the last block is missing": _product(right[:-1]),
        "the product is 0 throughout: it begins with the identity": torch.zeros(7, 7),
        "the matrices are multiplied element by element: use @": elements,
        "that is the mean over heads: the maximum is asked for": _product(
            [(block.mean(dim=0) + one) / 2 for block in attention]
        ),
        "that is the minimum over heads: the maximum is asked for": _product(
            [_rows(block.amin(dim=0) + one) for block in attention]
        ),
        "the product has rows and columns exchanged": _product(right).T,
    }
    refuse_mistakes(answer, mistakes)
    expect_close(answer, _product(right), "rows of (max over heads + identity) / 2, scaled to sum to 1, multiplied")


def _positive(attention: Tensor, gradient: Tensor) -> Tensor:
    return (attention * gradient).clamp(min=0).mean(dim=0)


def _element_by_element(parts: Sequence[Tensor]) -> Tensor:
    result = torch.eye(len(parts[0]))
    for part in parts:
        result = result + part * result
    return result


@exercise
def check_my_relevance(my_relevance) -> None:
    """Three blocks of three heads, five tokens, gradients of either sign."""
    attention = _attention(5, 5, 5)
    drawn = torch.Generator().manual_seed(1)
    gradients = [torch.randn(3, 5, 5, generator=drawn) for _ in attention]
    one, pairs = torch.eye(5), list(zip(attention, gradients))
    answer = my_relevance([block.clone() for block in attention], [block.clone() for block in gradients])
    expect_shape(answer, (5, 5), "one row and one column for each token: (tokens, tokens)")
    parts = [_positive(*pair) for pair in pairs]

    def added(parts: Sequence[Tensor]) -> Tensor:
        return _product([one + part for part in parts])

    mistakes = {
        "the positive part is taken after the mean: a head that speaks against the class then takes from the others": (
            added([(a * g).mean(dim=0).clamp(min=0) for a, g in pairs])
        ),
        "negative values are left: only the positive part is kept": added([(a * g).mean(dim=0) for a, g in pairs]),
        "absolute values count what speaks against the class as if it spoke for it: keep the positive part": added(
            [(a * g).abs().mean(dim=0) for a, g in pairs]
        ),
        "the gradient alone: multiply it by the attention": added([g.clamp(min=0).mean(dim=0) for _, g in pairs]),
        "attention alone: multiply it by the gradient": added([a.mean(dim=0) for a, _ in pairs]),
        "the gradient's positive part is taken before the product of means: multiply head by head": added(
            [a.mean(dim=0) * g.clamp(min=0).mean(dim=0) for a, g in pairs]
        ),
        "each block replaces R: its part is added to R": _product(parts),
        "each block adds its part, not its part times R: what tokens held before is lost": one + sum(parts),
        "the blocks are in the wrong order: the first one comes first, and a later part stands to the left, part @ R": (
            added(parts[::-1])
        ),
        "the parts are multiplied with R element by element: use @": _element_by_element(parts),
        "R is 0 throughout: it begins with the identity": torch.zeros(5, 5),
        "the first block is missing": added(parts[1:]),
        "that is the last block alone": added(parts[-1:]),
        "R has rows and columns exchanged: a row is the token at the end": added(parts).T,
        "the heads are fused by their maximum: take their mean": added(
            [(a * g).clamp(min=0).amax(dim=0) for a, g in pairs]
        ),
        "R starts as the identity, which is still in what you return: it is part of R": added(parts) - one,
        "rows are scaled: in relevance nothing is": _product([_rows(one + part) for part in parts]),
        "half of the identity is rollout's: here R is kept whole": _product([(one + part) / 2 for part in parts]),
        "the heads are summed: take their mean": added([(a * g).clamp(min=0).sum(dim=0) for a, g in pairs]),
    }
    refuse_mistakes(answer, mistakes)
    expect_close(answer, added(parts), "R = R + mean over heads of (gradient × attention)⁺ @ R, block after block")


@exercise
def check_even(even) -> None:
    """Three sizes, against the product of matrices."""
    for tokens, blocks, residual in ((5, 1, 0.5), (65, 6, 0.5), (4, 12, 0.9), (3, 2, 0.0)):
        answer = even(tokens, blocks, residual)
        block = residual * torch.eye(tokens, dtype=torch.float64) + (1 - residual) / tokens
        right = float(torch.linalg.matrix_power(block, blocks)[0, 1])
        where = f"even({tokens}, {blocks}, {residual})"
        kept = residual**blocks
        wrong = {
            "that is what the class token keeps of itself": kept + right,
            "that is what never mixes: the skip connections' share alone": kept,
            "that is all patches together: one is asked for": (tokens - 1) * right,
            "that is what all tokens share: one patch gets its part of it": tokens * right,
            "that adds up the routes that mix in one block alone: a route may mix in several": (
                blocks * residual ** (blocks - 1) * (1 - residual) / tokens
            ),
            "the class token itself is one of the tokens that share": (1 - kept) / (tokens - 1),
            "that is one block: what came in an earlier one came from every token, too": (1 - residual) / tokens,
            "of what is not the token's own, more comes with every block: 1 − residual is not raised to a power": (
                (1 - residual) ** blocks / tokens
            ),
        }
        for hint, value in wrong.items():
            expect(not is_near(answer, value) or is_near(right, value), f"{where}: {hint}")
        expect_number(answer, right, f"{where} is {right:.6g}")


def _followed(blocks: Sequence[Tensor], late: int) -> Tensor:
    """The class token's row back to its entry before block `late`, and its patches on to the image."""
    return _product(blocks[late:])[0, 1:] @ _product(blocks[:late])


def _short(blocks: Sequence[Tensor]) -> Tensor:
    row = torch.eye(len(blocks[-1]))[0]
    for block in reversed(blocks):
        row = row[: len(block)] @ block
    return row


@exercise
def check_to_image(to_image) -> None:
    """Two blocks without the class token, two with it."""
    for late in (2, 1):
        sizes = [6] * late + [7, 7]
        attention = _attention(*sizes)
        answer = to_image([block.clone() for block in attention])
        expect_shape(answer, (6,), "the class token's share of each patch: (patches,)")
        halves = [(block.mean(dim=0) + torch.eye(block.shape[-1])) / 2 for block in attention]
        row = _product(halves[late:])[0, 1:]
        early = _product(halves[:late])
        right = _followed(halves, late)
        back = row @ _product(halves[:late][::-1]) if late > 1 else None
        mistakes = {
            "that stops where the class token enters: go on through the blocks before": row,
            "the share that the class token has of itself is gone, and the rest was scaled up: leave it as it is": (
                right / right.sum()
            ),
            "that is what its last block alone takes, followed to the image": halves[-1][0, 1:] @ early,
            "rows and columns of the early blocks are exchanged: row @ matrix": early @ row,
            "the skip connection is missing: half of each block is the identity": _followed(
                [block.mean(dim=0) for block in attention], late
            ),
            "that is the maximum over heads: the mean is asked for": _followed(
                [_rows(block.amax(dim=0) + torch.eye(block.shape[-1])) for block in attention], late
            ),
            "the last patch is dropped on the way, not the class token, which stands in front": _short(halves),
        }
        if back is not None:
            mistakes["the early blocks are in the wrong order: the latest of them comes first on the way back"] = back
        refuse_mistakes(answer, mistakes)
        expect_close(
            answer, right, "its row of the late blocks' product, patches alone, times the early blocks' product"
        )


def _patches(masks: Tensor) -> Tensor:
    """(image, row, pixel, column, pixel)"""
    return masks.double().unflatten(1, (6, 4)).unflatten(-1, (8, 4))


@exercise
def check_blind(blind) -> None:
    """Discs of several sizes, up and to the right, on a grid that is not square."""
    drawn = torch.Generator().manual_seed(5)
    down, across, radius = (
        torch.rand(3, 40, 1, 1, generator=drawn) * torch.tensor([6, 8, 4]).view(3, 1, 1, 1)
    ).unbind()
    rows, columns = torch.arange(24.0)[:, None], torch.arange(32.0)
    masks = (rows - 5 - down) ** 2 + (columns - 18 - across) ** 2 < (4 + radius) ** 2
    answer = blind(masks.clone(), 4)
    expect_shape(answer, (6, 8), "one value a patch, 24 × 32 pixels in patches of 4: (rows, columns)")
    mean = _patches(masks).mean(dim=0)  # row, pixel, column, pixel
    right = mean.mean(dim=(1, 3))
    mistakes = {
        "that is the first image's object: take the mean over the images": _patches(masks)[0].mean(dim=(1, 3)),
        "that is one pixel of each patch: take the mean over the patch": mean[:, 0, :, 0],
        "that is the largest value in each patch: take the mean over the patch": mean.amax(dim=(1, 3)),
        "rows and columns of patches are mixed up: a patch is 4 pixels down by 4 across": (
            masks.double().mean(dim=0).flatten().view(6, 8, 16).mean(dim=-1)
        ),
        "that is where objects are not": 1 - right,
        "a patch is cut into rows and columns the wrong way round: its pixels stand next to each other": (
            masks.double().mean(dim=0).unflatten(0, (4, 6)).unflatten(-1, (4, 8)).mean(dim=(0, 2))
        ),
        "each image counts a patch that holds one pixel of the object: take the mean over its pixels": (
            _patches(masks).amax(dim=(2, 4)).mean(dim=0)
        ),
    }
    for times, what in ((len(masks), "images"), (16, "pixels of a patch"), (16 * len(masks), "images and pixels")):
        mistakes[f"that is a sum over the {what}: take the mean"] = times * right
    mistakes["that is scaled to its maximum: how often is a share of the images"] = right / right.max()
    mistakes["that is scaled to sum to 1: how often is a share of the images"] = right / right.sum()
    refuse_mistakes(answer, mistakes)
    expect_close(answer, right, "how often, over the images, a pixel of the patch is an object's")


@exercise
def check_without_skip(without_skip) -> None:
    """What every block computes, with random weights."""
    model = without_skip()
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    name = "vit_shapes_patch8_32"
    expect(model.config == named(name), f"the configuration stays that of {name}: its blocks alone change")
    torch.manual_seed(0)
    x = torch.randn(2, 9, model.config.dim)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for number, block in enumerate(model.eval().blocks):
            _check_block(number, block, x)
    expect_fresh(without_skip)


def _check_block(number: int, block: Block, x: Tensor) -> None:
    attended = block.attention(block.norm1(x))

    def then(x: Tensor, skip: bool = True) -> Tensor:
        return x + block.mlp(block.norm2(x)) if skip else block.mlp(block.norm2(x))

    wrong: dict[str, Callable[[], Tensor]] = {
        "still adds x to what attention gives": lambda: then(x + attended),
        "has lost the MLP's skip connection, too: keep that one": lambda: then(attended, skip=False),
        "has lost the MLP's skip connection instead of attention's": lambda: then(x + attended, skip=False),
        "has lost attention altogether: only its skip connection goes": lambda: then(x),
        "has lost its first norm": lambda: then(block.attention(x)),
        "has lost its second norm": lambda: attended + block.mlp(attended),
        "adds norm1(x), where nothing is to be added": lambda: then(block.norm1(x) + attended),
    }
    for queries in (slice(None), slice(0, 1)):
        answer = block(x, queries)
        expect_shape(answer, x[:, queries].shape, f"block {number}: the tokens that are asked for, forward(x, queries)")
        refuse_mistakes(answer, {f"block {number} {hint}": make()[:, queries] for hint, make in wrong.items()})
        expect_close(
            answer, then(attended)[:, queries], f"block {number}: x = attention(norm1(x)); x + mlp(norm2(x))", 1e-4
        )
