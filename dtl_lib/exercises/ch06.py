"""Checkers of chapter 06, Registers."""

import torch
from einops import rearrange

from ..config import ViTConfig, named
from ..models import ViT
from ..tokens import TokenPlan
from . import exercise, expect, expect_close, expect_shape

NO_BATCH = "the registers have no batch axis: repeat them for each image"


@exercise
def check_with_registers(with_registers) -> None:
    """Blocks in which every token sees the mean of all, its own place, and how many blocks there were before."""
    blocks = [lambda x, n=n: x + x.mean(dim=1, keepdim=True) + n * torch.arange(x.shape[1])[:, None] for n in (1, 2, 3)]
    torch.manual_seed(0)
    patches, registers = torch.randn(2, 6, 4), torch.randn(3, 4)
    try:
        out = with_registers(blocks, patches.clone(), registers)
    except RuntimeError as error:
        expect("same number of dimensions" not in str(error), NO_BATCH)
        raise
    expect(not isinstance(out, tuple | list), "return the patches alone, one tensor")
    x = torch.cat([registers.expand(2, 3, 4), patches], dim=1)
    behind = torch.cat([patches, registers.expand(2, 3, 4)], dim=1)
    alone = patches
    for block in blocks:
        x, behind, alone = block(x), block(behind), block(alone)
    whole = isinstance(out, torch.Tensor) and tuple(out.shape) == tuple(x.shape)
    expect(not whole, "the registers are still among the patches: drop them at the end")
    reg = isinstance(out, torch.Tensor) and tuple(out.shape) == (2, 3, 4)
    expect(not reg, "those are the registers; the patches are behind them")
    expect_shape(out, (2, 6, 4), "as many patches come out as went in")
    expect(
        not torch.allclose(out, alone), "the patches have not met the registers: they go through the blocks together"
    )
    expect(not torch.allclose(out, behind[:, :6]), "the registers stand in front of the patches, not behind")
    expect(not torch.allclose(out, x[:, :6]), "the first tokens are the registers: the patches begin after them")
    expect_close(out, x[:, 3:], "join registers and patches once, run every block in order, drop the registers")
    learned = registers.clone().requires_grad_()
    out = with_registers(blocks, patches, learned)
    expect(out.requires_grad, "no gradient reaches the registers: do not detach them")


@exercise
def check_add_register(add_register) -> None:
    """Against attention over all keys, with scores of every size."""
    torch.manual_seed(0)
    scores, values = torch.randn(5, 7), torch.randn(7, 3)
    score, value = torch.randn(5), torch.randn(3)
    for scale, shift in ((1.0, 0.0), (2.0, 200.0), (2.0, -200.0)):
        old, new = scale * scores + shift, scale * score + shift
        out, lse = old.softmax(dim=-1) @ values, old.logsumexp(dim=-1)
        answer = add_register(out.clone(), lse, new, value)
        expect_shape(answer, (5, 3), "(queries, dim): one result for each query")
        share = (new - lse).sigmoid()[:, None]
        expect(bool(answer.isfinite().all()), f"exp({new[0]:.0f}) is no good in float32: use score − lse")
        expect(not torch.allclose(answer, out + share * value), "the old shares shrink, so that all still sum to 1")
        expect(not torch.allclose(answer, value + share * (out - value)), "the shares of old and new are exchanged")
        expect(not torch.allclose(answer, out, atol=1e-5), "the register has changed nothing")
        odds = (new - lse).exp()[:, None]
        expect(not torch.allclose(answer, out + odds * (value - out)), "exp(score − lse) is not yet a share: divide")
        right = torch.cat([old, new[:, None]], dim=1).softmax(dim=-1) @ torch.cat([values, value[None]])
        expect_close(answer, right, "the register's share is exp(score) / (exp(lse) + exp(score))")


@exercise
def check_register_maps(register_maps) -> None:
    """Shares that can be told apart, a grid that is not square, layouts with and without a class token."""
    torch.manual_seed(0)
    layout = {"cls": slice(0, 1), "reg": slice(1, 3), "patches": slice(3, None)}
    attention = torch.rand(2, 3, 9, 9)
    answer = register_maps(attention, layout, (2, 3))
    expect_shape(answer, (2, 3, 2, 2, 3), "(batch, heads, tokens, rows, columns)")
    rows, columns = attention[:, :, 1:3, 3:], attention[:, :, 3:, 1:3].transpose(-2, -1)
    cut = "b h t (rows columns) -> b h t rows columns"
    by_column = rearrange(columns, cut, rows=2)
    expect(
        not torch.allclose(answer, by_column),
        "that is what the patches give to the registers: queries are the third axis, keys the last",
    )
    flipped = rearrange(rows, "b h t (columns rows) -> b h t rows columns", rows=2)
    expect(not torch.allclose(answer, flipped), "patches go row by row: (rows columns)")
    expect_close(answer, rearrange(rows, cut, rows=2), "the registers as queries, and of their keys the patches")
    late = {"reg": slice(0, 3), "patches": slice(3, None)}
    there = rearrange(attention[:, :, :3, 3:], cut, rows=2)
    answer = register_maps(attention, late, (2, 3))
    expect_shape(answer, (2, 3, 3, 2, 3), "before the class token enters: ask the layout where they are")
    expect_close(answer, there, "before the class token enters the registers come first: ask the layout")


@exercise
def check_extra_work(extra_work) -> None:
    """ViT-Tiny's numbers and small ones, against the cost model."""
    for dim, depth, side, num_reg, reg_pos in ((192, 12, 14, 4, 0), (192, 12, 14, 16, 6), (8, 4, 3, 2, 3)):
        plain = ViTConfig(side * 2, 2, dim=dim, depth=depth, heads=1, classes=2)
        more = plain.with_plan(TokenPlan.of(depth, reg_pos=reg_pos, num_reg=num_reg)).cost().total
        expected, patches = more - plain.cost().total, side**2
        answer = extra_work(dim, depth, patches, num_reg, reg_pos)
        squares = 2 * ((1 + patches + num_reg) ** 2 - (1 + patches) ** 2) * dim
        whole = 12 * num_reg * dim**2 + squares
        last = 2 * num_reg * dim**2 + 2 * num_reg * dim
        expect(answer != (depth - reg_pos) * whole, "nearly: in the last block a register is a key and a value alone")
        no_last = (depth - 1 - reg_pos) * whole
        expect(answer != no_last, "nearly: in the last block a register still needs a key and a value")
        if no_last:
            expect(answer != no_last - (depth - 1 - reg_pos) * squares + last, "registers are queries and keys too")
        expect(reg_pos == 0 or answer != (depth - 1) * whole + last, "in the blocks before reg_pos they cost nothing")
        where = f"dim {dim}, depth {depth}, {patches} patches, {num_reg} registers at {reg_pos}"
        expect(answer == expected, f"{where}: {expected:,}, not {answer:,}")


@exercise
def check_mean_of_all(mean_of_all) -> None:
    """The plan, and what the classifier reads."""
    model, config = mean_of_all(), named("vit_shapes_patch8_32")
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    plan = TokenPlan.of(config.depth, cls_pos=None, reg_pos=0, num_reg=4)
    expect(model.plan == plan, "keep the plan of pooled(): no class token, four registers from block 0")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        x = 3 * torch.randn(2, 20, config.dim)
        answer, patches = model.pool_patches(x), model.norm(x)[:, 4:].mean(dim=1)
        expect_shape(answer, (2, config.dim), "(batch, dim): a mean over tokens")
        expect(not torch.allclose(answer, patches, atol=1e-5), "that is still the mean of the patches")
        expect(not torch.allclose(answer, x.mean(dim=1), atol=1e-5), "the tokens are normalised first, by model.norm")
        after = model.norm(x.mean(dim=1))
        expect(not torch.allclose(answer, after, atol=1e-5), "norm first, then the mean; yours is the other way round")
        registers = model.norm(x)[:, :4].mean(dim=1)
        expect(not torch.allclose(answer, registers, atol=1e-5), "that is the mean of the registers alone")
        expect_close(answer, model.norm(x).mean(dim=1), "the mean of all tokens, registers and patches")
    expect(mean_of_all() is not model, "build a new model at each call")
