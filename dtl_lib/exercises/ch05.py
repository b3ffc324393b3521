"""Checkers of chapter 05, The class token."""

from typing import cast

import torch

from ..config import ViTConfig
from ..layers import Block
from ..models import ViT
from ..tape import record
from ..tokens import Group, TokenPlan
from . import exercise, expect, expect_close, expect_shape


@exercise
def check_layout(layout) -> None:
    """Groups that come and go, in every block."""
    groups = [("cls", 1, 2, None), ("reg", 4, 0, None), ("guest", 2, 1, 3)]
    plan = TokenPlan(4, tuple(Group(*group) for group in groups))
    for block in range(4):
        answer, expected = layout(groups, block), plan.layout(block)
        expect(isinstance(answer, dict), "a dictionary: name → slice")
        expect("patches" in answer, "patches are in every block, after all groups")
        extra, lacking = set(answer) - set(expected), set(expected) - set(answer)
        expect("guest" not in extra or block < 3, "leave is the first block without the group: guest is not in block 3")
        expect("guest" not in lacking, f"enter is the first block with the group: guest is in block {block}")
        expect(not extra, f"in block {block} there is no {', '.join(sorted(extra))}: an absent group is an absent key")
        expect(not lacking, f"in block {block} {', '.join(sorted(lacking))} is missing")
        starts = {name: where.start for name, where in expected.items()}
        answer_starts = {name: where.start for name, where in answer.items()}
        expect(starts == answer_starts, f"in block {block} the groups begin at {starts}; yours at {answer_starts}")
        expect(answer == expected, f"in block {block}: {expected}, not {answer}; the patches' slice is open at the end")


@exercise
def check_leave(leave) -> None:
    """A group in the middle of the sequence leaves, then one at its beginning."""
    now = {"cls": slice(0, 1), "guest": slice(1, 3), "reg": slice(3, 4), "patches": slice(4, None)}
    x = torch.arange(2 * 7 * 3, dtype=torch.float32).reshape(2, 7, 3)
    answer = leave(x, now, "guest")
    expect(not isinstance(answer, torch.Tensor) or answer.shape[1] != 7, "nothing has left: there are still 7 tokens")
    expect_shape(answer, (2, 5, 3), "two tokens of seven have left")
    expect_close(answer, x[:, [0, 3, 4, 5, 6]], "the others stay, in their order")
    expect_close(leave(x, now, "cls"), x[:, 1:], "right for a group in the middle, wrong for the first one")


@exercise
def check_first_query(first_query) -> None:
    """Against the tape, in a model whose norm and biases are not at their special values."""
    torch.manual_seed(3)
    model = ViT(ViTConfig(8, 4, dim=12, depth=4, heads=3, classes=2, plan=TokenPlan.of(4, cls_pos=2))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        with record(model) as tape:
            model(torch.randn(1, 3, 8, 8))
        answer, block, early = first_query(model), cast(Block, model.blocks[2]), cast(Block, model.blocks[0])
        expect_shape(answer, (3, 4), "(heads, head_dim)")
        token = model.tokens["cls"]
        unnormed = block.attention.project_qkv(token[None], slice(0, 1))[0].reshape(3, 4)
        expect(not torch.allclose(answer, unnormed, atol=1e-5), "a block normalises what it reads: norm1 comes first")
        _, key, _ = (part.reshape(3, 4) for part in block.attention.project_qkv(block.norm1(token)[None], slice(0, 1)))
        expect(not torch.allclose(answer, key, atol=1e-5), "that is the key: queries are the first third of qkv")
        early = early.attention.project_qkv(early.norm1(token)[None], slice(0, 1))[0].reshape(3, 4)
        expect(not torch.allclose(answer, early, atol=1e-5), "the token enters before block 2 here: use that block")
        transposed = tape.queries(2)[0, :, 0].flatten().reshape(4, 3).T
        expect(not torch.allclose(answer, transposed, atol=1e-5), "a head is a run of channels: (heads head_dim)")
        expect_close(answer, tape.queries(2)[0, :, 0], "the query is q's weight and bias on the normalised token")


@exercise
def check_saved(saved) -> None:
    """ViT-Tiny's numbers and a small model's, against the cost model."""
    for dim, depth, side, cls_pos in ((192, 12, 14, 6), (8, 4, 3, 3), (64, 6, 8, 0)):
        config = ViTConfig(side * 2, 2, dim=dim, depth=depth, heads=1, classes=2)
        later = config.with_plan(TokenPlan.of(depth, cls_pos=cls_pos)).cost().total
        expected, answer = config.cost().total - later, saved(dim, side**2, cls_pos)
        linear = cls_pos * 12 * dim**2
        if cls_pos:
            expect(answer != linear, "nearly: the token is also a key and a query in the two products of attention")
            one_way = linear + cls_pos * 2 * (side**2) * dim
            expect(answer != one_way, "nearly: as a query it meets every key, as a key every other query, and itself")
        expect(answer == expected, f"dim {dim}, {side**2} patches, entering at {cls_pos}: {expected:,}, not {answer:,}")
