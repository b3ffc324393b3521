"""Checkers of chapter 03, The block and the model."""

import torch

from . import exercise, expect, expect_close, expect_shape


@exercise
def check_block_forward(block_forward) -> None:
    """Parts that can be told apart: what each of them does to 1 leaves its own trace."""
    parts = (lambda x: x / 10, lambda x: x + 3, lambda x: 2 * x, lambda x: x - 1, lambda x: x**2, lambda x: 5 * x)
    norm1, attention, scale1, norm2, mlp, scale2 = parts
    x = torch.tensor([[1.0, 20.0]])
    middle = x + scale1(attention(norm1(x)))
    expected = middle + scale2(mlp(norm2(middle)))
    out = block_forward(x, *parts)
    expect_shape(out, (1, 2), "a block keeps the shape")
    on_residual = scale1(x) + attention(norm1(x))
    on_residual = scale2(on_residual) + mlp(norm2(on_residual))
    expect(not torch.allclose(out, on_residual), "the scale belongs to the branch, not to the residual")
    side_by_side = x + scale1(attention(norm1(x))) + scale2(mlp(norm2(x)))
    expect(not torch.allclose(out, side_by_side), "the MLP reads what attention has added, not the block's input")
    no_residual = scale1(attention(norm1(x)))
    no_residual = scale2(mlp(norm2(no_residual)))
    expect(not torch.allclose(out, no_residual), "add to the stream: without the residual the road is cut")
    expect_close(out, expected, "x + scale(f(norm(x))), first with attention, then with the MLP")


@exercise
def check_with_class_token(with_class_token) -> None:
    """A batch of two that differ."""
    patches = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4)
    token = torch.full((1, 4), -1.0)
    out = with_class_token(patches, token)
    expect_shape(out, (2, 4, 4), "(batch, 1 + patches, dim): one more token in every sequence of the batch")
    expect(not torch.equal(out[:, -1], token.expand(2, 4)), "the class token comes first, not last")
    expect_close(out[:, 0], token.expand(2, 4), "the first token of every sequence is the class token")
    expect_close(out[:, 1:], patches, "the patches follow, as they were")


@exercise
def check_parameters(parameters) -> None:
    """ViT-Tiny, ViT-Base, and a small one whose every number differs."""
    tiny = parameters(192, 12, 16, 224, 1000)
    expect(tiny != 5_717_224 - 192, "nearly: the class token is a parameter too")
    expect(tiny != 5_717_224 - 12 * 4 * 192, "nearly: each block has two norms, with a scale and a shift each")
    expect(tiny != 5_717_224 - 2 * 192, "nearly: there is one more norm after the last block")
    expect(tiny == 5_717_224, f"ViT-Tiny has 5,717,224 parameters; yours gives {tiny:,}")
    expect(parameters(768, 12, 16, 224, 1000) == 86_566_888, "right for ViT-Tiny, wrong for ViT-Base (86,566,888)")
    expect(parameters(8, 2, 4, 16, 5) == 2_333, "the grid comes from image_size and patch_size, the head from classes")


@exercise
def check_needed_rows(needed_rows) -> None:
    """Both kinds of head, and a model of one block."""
    cls = needed_rows(3, False)
    expect(isinstance(cls, list) and len(cls) == 3, "a list with one entry a block")
    expect(cls[-1] == "cls", "the head reads the class token alone: the last block can answer for it alone")
    expect(cls[:-1] == ["all", "all"], "a block before the last feeds keys and values of every token to the next")
    expect(needed_rows(3, True) == ["all"] * 3, "a head that reads the mean of the patches needs them all")
    expect(needed_rows(1, False) == ["cls"], "a model of one block: its only block is the last")
