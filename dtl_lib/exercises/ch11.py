"""Checkers of chapter 11, Attention maps you can trust."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..config import ViTConfig, named
from ..models import ViT
from ..probes import trial
from ..tape import record
from ..tokens import TokenPlan
from . import exercise, expect, expect_close, expect_fresh, expect_learns, expect_shape, refuse_mistakes

GRID = 2, 3
LAYOUT = {"cls": slice(0, 1), "reg": slice(1, 3), "patches": slice(3, 9)}


def _on_grid(row: Tensor) -> Tensor:
    return rearrange(row, "b h (rows columns) -> b h rows columns", rows=GRID[0])


@exercise
def check_my_maps(my_maps) -> None:
    """Two registers, patches of 2 rows and 3 columns, two images, three heads."""
    drawn = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 3, 9, 8, generator=drawn)
    maps = my_maps(q.clone(), k.clone(), dict(LAYOUT), GRID)
    expect_shape(maps, (2, 3, *GRID), "a map for each image and head: (batch, heads, rows, columns)")
    products = q @ k.mT
    scores = products / 8**0.5
    attention, patches = scores.softmax(dim=-1), slice(3, 9)
    row = attention[:, :, 0]
    alone = (q[:, :, :1] @ k[:, :, patches].mT / 8**0.5).softmax(dim=-1)[:, :, 0]
    mistakes = {
        "the softmax runs over the patches alone: the class token also attends to itself and to the registers": alone,
        "the softmax runs over the queries: over the keys, the last axis, a token's attention sums to 1": (
            scores.softmax(dim=-2)[:, :, 0, patches]
        ),
        "there is no softmax: scores are no shares": scores[:, :, 0, patches],
        "the scores are not divided by the root of the head dimension": products.softmax(-1)[:, :, 0, patches],
        "the scores are divided by the head dimension itself: take its root": (
            (products / 8).softmax(dim=-1)[:, :, 0, patches]
        ),
        "the scores are divided by the root of the model's width: each head has only its own dimensions": (
            (products / 24**0.5).softmax(-1)[:, :, 0, patches]
        ),
        "the key of the class token meets all queries: its query is to meet all keys": (
            scores.mT.softmax(dim=-1)[:, :, 0, patches]
        ),
        "these are the first rows of head 0, labelled as heads: take the class token's row of each head": (
            attention[:, 0, :3, patches]
        ),
        "the softmax runs over the heads: over the keys, a token's attention sums to 1": (
            scores.softmax(dim=1)[:, :, 0, patches]
        ),
        "each map is scaled to its own maximum: its size is lost": (
            row[..., patches] / row[..., patches].amax(dim=-1, keepdim=True)
        ),
        "the registers are counted as patches: layout says where the patches are": row[..., 1:7],
        "the class token is counted as a patch: layout says where the patches are": row[..., :6],
        "these are the shares that patches give to the class token: its row is wanted, not its column": (
            attention[:, :, patches, 0]
        ),
        "each map is scaled to sum to 1: what is on other tokens is then no longer missing": (
            row[..., patches] / row[..., patches].sum(dim=-1, keepdim=True)
        ),
    }
    right = _on_grid(row[..., patches])
    turned = rearrange(row[..., patches], "b h (columns rows) -> b h rows columns", rows=GRID[0])
    refuse_mistakes(
        maps,
        {hint: _on_grid(wrong) for hint, wrong in mistakes.items()}
        | {"the patches are in reading order, row by row: the grid is filled column by column": turned},
    )
    expect_close(maps, right, "softmax(q kᵀ / √d) of the class token's query, its patches as rows and columns")
    elsewhere = {"cls": slice(0, 1), "patches": slice(1, 7), "reg": slice(7, 9)}
    hint = "right where the registers stand before the patches, and not behind: layout says where the patches are"
    expect_close(my_maps(q.clone(), k.clone(), elsewhere, GRID), _on_grid(row[..., 1:7]), hint)


@exercise
def check_mended(mended) -> None:
    """The kit's verdict, in its own words."""
    report = trial.examine(mended)
    expect(report.right, " ".join(str(report).split()))


def _model() -> ViT:
    """Fresh weights large enough for maps that are not even, with registers and a grid of 3 × 4."""
    plan = TokenPlan.of(2, reg_pos=0, num_reg=2)
    config = ViTConfig((12, 16), 4, dim=32, depth=2, heads=2, plan=plan, classes=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = ViT(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _row(model: ViT, images: Tensor) -> Tensor:
    with torch.no_grad(), record(model) as tape:
        model(images)
    return tape.row(0)


def _as_grid(row: Tensor, start: int, rows: int = 3) -> Tensor:
    return rearrange(row[..., start : start + 12], "b h (rows columns) -> b h rows columns", rows=rows)


def _exchanged(model: ViT, images: Tensor, head: int) -> Tensor:
    maps = _as_grid(_row(model, images), 3).clone()
    maps[:, head:, 2, 2:] = maps[:, head:, 2, 2:].flip(dims=(-1,))
    return maps


FUNCTIONS = {
    "the right maps": (True, lambda model, images: _as_grid(_row(model, images), 3)),
    "maps in which the registers are counted as patches": (
        False,
        lambda model, images: _as_grid(_row(model, images), 1),
    ),
    "maps with one patch too early": (False, lambda model, images: _as_grid(_row(model, images), 2)),
    "maps whose grid is filled column by column": (
        False,
        lambda model, images: rearrange(_row(model, images)[..., 3:], "b h (columns rows) -> b h rows columns", rows=3),
    ),
    "maps whose rows stand upside down": (
        False,
        lambda model, images: _as_grid(_row(model, images), 3).flip(dims=(2,)),
    ),
    "maps that mix neighbours": (
        False,
        lambda model, images: F.avg_pool2d(_as_grid(_row(model, images), 3), 3, stride=1, padding=1),
    ),
    "maps that mix in a tenth of the neighbours": (
        False,
        lambda model, images: (
            0.9 * (maps := _as_grid(_row(model, images), 3)) + 0.1 * F.avg_pool2d(maps, 3, stride=1, padding=1)
        ),
    ),
    "maps of rows and columns exchanged": (False, lambda model, images: _as_grid(_row(model, images), 3).mT),
    "maps in which the last two patches are exchanged": (False, lambda model, images: _exchanged(model, images, 0)),
    "maps in which two patches of head 1 are exchanged": (False, lambda model, images: _exchanged(model, images, 1)),
    "the maps of an image that never changes": (
        False,
        lambda model, images: _as_grid(_row(model, torch.ones_like(images)), 3),
    ),
}


@exercise
def check_follows(follows) -> None:
    """The right function, and ten that put a patch elsewhere, mix patches, or do not look at the image."""
    model = _model()
    image = torch.randn(1, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    for name, (right, maps_of) in FUNCTIONS.items():
        answer = follows(maps_of, model, image.clone())
        expect(isinstance(answer, bool | torch.Tensor) or answer in (0, 1), f"return True or False, not {answer!r}")
        expect(bool(answer) == right, f"it says {bool(answer)} about {name}")


@exercise
def check_heaviest_part(heaviest_part) -> None:
    """A map with known order, one spike, and shares of all and of almost nothing."""
    values = torch.tensor([[0.02, 0.3, 0.08], [0.25, 0.05, 0.3]])
    mask = heaviest_part(values.clone(), 0.6)
    expect_shape(mask, (2, 3), "a mask as large as the map")
    expect(mask.dtype == torch.bool, f"a mask is True and False, not {mask.dtype}")
    expect(
        not torch.equal(mask, values >= 0.6), "that compares each value with the share: the patches hold it together"
    )
    right = torch.tensor([[False, True, False], [True, False, True]])
    less, rest = torch.tensor([[False, True, False], [False, False, True]]), ~right
    of_maximum = lambda share: values >= share * values.max()  # noqa: E731
    same = all(torch.equal(heaviest_part(values.clone(), share), of_maximum(share)) for share in (0.3, 0.6, 0.9))
    expect(not same, "that is a share of the maximum, not of the sum")
    counts = [int(heaviest_part(values.clone(), share).sum()) for share in (0.35, 0.5, 0.85)]
    expect(counts != [2, 3, 5], "that is a share of the number of patches, not of what they hold")
    for share, wanted in ((0.6, (less, right)), (0.7, (right,)), (0.9, None), (1.0, None)):
        kept = heaviest_part(10 * values, share)  # need not sum to 1
        held = float(values[kept].sum() / values.sum())
        expect(not torch.equal(kept, rest), "these are the smallest: the largest are wanted")
        expect(held > share - 1e-6, f"a share of {share} was asked for, and the patches hold {held:.2f}")
        if wanted is not None:
            expect(any(torch.equal(kept, one) for one in wanted), f"for {share} fewer patches are enough")
    expect(int(heaviest_part(values, 0.9).sum()) == 4, "for 0.9 four patches are enough, and three are not")
    even = int(heaviest_part(torch.full((8, 8), 1 / 64), 0.6).sum())
    expect(even == 39, f"of 64 equal patches 39 are enough for 0.6, and it keeps {even}: ties are no reason for more")
    half = int(heaviest_part(torch.full((8, 8), 1 / 64), 0.5).sum())
    expect(half == 32, f"of 64 equal patches 32 hold just 0.5, and it keeps {half}: none is to be added then")
    spike = torch.zeros(4, 4)
    spike[2, 1] = 1.0
    expect(
        int(heaviest_part(spike, 0.6).sum()) == 1, "one patch has all of it: the patch that crosses the line belongs"
    )


@exercise
def check_wrong_axis(wrong_axis) -> None:
    """What every block's core computes."""
    model = wrong_axis()
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    name = "vit_shapes_patch8_32"
    expect(model.config == named(name), f"the configuration stays that of {name}: attention's cores alone change")
    expect_fresh(wrong_axis)
    drawn = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 16, generator=drawn)
    products = q @ k.mT
    scores = products / 16**0.5
    for number, block in enumerate(model.blocks):
        output = block.attention.core(q, k, v)
        expect_shape(output, (2, 4, 9, 16), f"block {number}: the core returns an output for each query")
        mistakes = {
            f"block {number} still takes the softmax over the keys": scores.softmax(dim=-1) @ v,
            f"block {number} does not divide the scores: change the axis alone": products.softmax(dim=-2) @ v,
            f"block {number} takes the softmax over the heads": scores.softmax(dim=1) @ v,
            f"block {number} has no softmax": scores @ v,
            f"block {number} takes the softmax over the images": scores.softmax(dim=0) @ v,
            f"block {number} has its weights transposed: queries are the rows, keys the columns": scores.mT.softmax(
                dim=-2
            )
            @ v,
        }
        refuse_mistakes(output, mistakes)
        expect_close(
            output, scores.softmax(dim=-2) @ v, f"block {number}: softmax over the queries of q kᵀ / √d, times v"
        )
        asked = {name: part.clone().requires_grad_() for name, part in (("q", q), ("k", k), ("v", v))}
        expect_learns(block.attention.core(*asked.values()), asked)
