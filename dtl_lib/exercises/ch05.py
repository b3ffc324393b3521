"""Checkers of chapter 05, The class token."""

from typing import cast

import torch

from ..config import ViTConfig, named
from ..layers import Block
from ..models import ViT
from ..tape import record
from ..tokens import Group, TokenPlan
from . import exercise, expect, expect_close, expect_shape

NO_BATCH = "learned[name] has no batch axis: repeat it for each image"


@exercise
def check_enter_and_leave(enter_and_leave) -> None:
    """Groups with names of their own enter in front, in the middle, leave, and do both at once."""
    torch.manual_seed(0)
    x, tokens = torch.randn(2, 9, 4), {name: torch.randn(n, 4) for name, n in (("cls", 1), ("guest", 2), ("aside", 3))}
    alone = {"patches": slice(0, None)}
    with_own = {"aside": slice(0, 3), "patches": slice(3, None)}
    both = {"cls": slice(0, 1), "aside": slice(1, 4), "patches": slice(4, None)}
    exchanged = {"cls": slice(0, 1), "guest": slice(1, 3), "patches": slice(3, None)}
    for now, then in ((alone, with_own), (with_own, both), (both, exchanged), (both, alone), (both, both)):
        try:
            answer = enter_and_leave(x.clone(), now, then, tokens)
        except RuntimeError as error:
            expect("same number of dimensions" not in str(error), NO_BATCH)
            raise
        _check_entered(answer, x, now, then, tokens)
    learned = {name: value.requires_grad_() for name, value in tokens.items()}
    moved = enter_and_leave(x, alone, both, learned)
    grads = moved.requires_grad and all(
        torch.autograd.grad(moved.sum(), learned[name], retain_graph=True, allow_unused=True)[0] is not None
        for name in ("cls", "aside")
    )
    expect(grads, "no gradient reaches the learned tokens: do not detach them")
    earlier = x.clone().requires_grad_()
    moved = enter_and_leave(earlier, with_own, both, learned)
    (grad,) = torch.autograd.grad(moved.sum(), [earlier], allow_unused=True)
    expect(grad is not None, "no gradient reaches the blocks before: do not detach x")
    kept = x.clone()
    enter_and_leave(x, both, exchanged, tokens)
    expect(torch.equal(x, kept), "x itself has changed: build a new sequence")


def _check_entered(answer, x, now, then, tokens) -> None:
    pieces = {name: x[:, now[name]] if name in now else tokens[name].expand(2, -1, -1) for name in then}
    expected, case = torch.cat(list(pieces.values()), dim=1), f"from {', '.join(now)} to {', '.join(then)}: "
    entering = [name for name in then if name not in now]
    expect_shape(answer, expected.shape, case + _miscounted(answer, x, now, then, tokens))
    behind = torch.cat([pieces[name] for name in [*now, *entering] if name in then], dim=1)
    first = torch.cat([pieces[name] for name in [*entering, *now] if name in then], dim=1)
    right = torch.equal(answer, expected)
    for order, where in ((behind, "behind those that were there"), (first, "in front of all others")):
        expect(
            right or not torch.equal(answer, order),
            case + f"the order is that of next_layout; yours puts groups {where}",
        )
    for name, where in then.items():
        hint = "is copied from x[:, layout[name]]" if name in now else "gets its learned tokens, unchanged"
        expect_close(answer[:, where], pieces[name], f"{case}{name} {hint}")


def _miscounted(answer, x, now, then, tokens) -> str:
    """Why an answer has a wrong number of tokens."""
    entering = sum(len(tokens[name]) for name in then if name not in now)
    lengths = {name: len(range(x.shape[1])[where]) for name, where in then.items() if name in now}
    leaving = ", ".join(name for name in now if name not in then)
    count = answer.shape[1] if isinstance(answer, torch.Tensor) and answer.ndim == 3 else None
    if isinstance(answer, torch.Tensor) and torch.equal(answer, x):
        return "nothing has entered or left"
    if leaving and count == x.shape[1] + entering:
        return f"{leaving} is not in next_layout, so it is left behind"
    if count == entering + sum(lengths.values()):
        return "in x a group stands at layout[name]; next_layout[name] is where it will stand"
    return "(batch, tokens, dim), with every group of next_layout and no other"


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
        expect(all(isinstance(where, slice) for where in answer.values()), "the values are slices: slice(start, stop)")
        starts = {name: where.start for name, where in expected.items()}
        answer_starts = {name: where.start for name, where in answer.items()}
        expect(starts == answer_starts, f"in block {block} the groups begin at {starts}; yours at {answer_starts}")
        expect(answer["patches"].stop is None, "the patches' slice is open at the end: slice(start, None)")
        stops = {name: where.stop for name, where in expected.items()}
        answer_stops = {name: where.stop for name, where in answer.items()}
        expect(stops == answer_stops, f"in block {block} the slices stop at {stops}; yours at {answer_stops}")
        expect(list(answer) == list(expected), f"in block {block} the order is {list(expected)}, not {list(answer)}")


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
        right = tape.queries(2)[0, :, 0]
        expect(not torch.allclose(answer, right / 2, atol=1e-5), "that is already divided by √d, here by 2")
        bias = block.attention.qkv.bias[:12].reshape(3, 4)
        expect(
            not torch.allclose(answer, right - bias, atol=1e-5), "the bias is missing: its first third is the query's"
        )
        expect_close(answer, right, "the query is q's weight and bias on the normalised token")


@exercise
def check_saved(saved) -> None:
    """ViT-Tiny's numbers and a small model's, against the cost model."""
    for dim, depth, side, cls_pos in ((192, 12, 14, 4), (8, 4, 3, 3), (64, 6, 8, 0)):
        config = ViTConfig(side * 2, 2, dim=dim, depth=depth, heads=1, classes=2)
        later = config.with_plan(TokenPlan.of(depth, cls_pos=cls_pos)).cost().total
        expected, answer = config.cost().total - later, saved(dim, side**2, cls_pos)
        linear = cls_pos * 12 * dim**2
        if cls_pos:
            expect(answer != linear, "nearly: the token is also a key and a query in the two products of attention")
            one_way = linear + cls_pos * 2 * (side**2) * dim
            expect(answer != one_way, "nearly: as a query it meets every key, and as a key every query")
            once = linear + cls_pos * 4 * (side**2) * dim
            expect(answer != once, "nearly: the class token also attends to itself")
            expect(answer != 2 * expected, "a multiply–add is one operation here, not two")
            expect(
                answer * cls_pos != expected * depth, "it is absent from the blocks before cls_pos, and from no other"
            )
        expect(answer == expected, f"dim {dim}, {side**2} patches, entering at {cls_pos}: {expected:,}, not {answer:,}")


@exercise
def check_late(late) -> None:
    """The plan's one group, and that nothing else has changed."""
    model, config = late(), named("vit_shapes_patch8_32")
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}: ViT.build makes one")
    group = model.plan.group("cls")
    expect(group is not None, "there is no class token: give cls_pos")
    last = config.depth - 1
    expect(group.enter == last, f"the last of {config.depth} blocks is block {last}; yours enters before {group.enter}")
    plan = TokenPlan.of(config.depth, cls_pos=last)
    expect(model.plan == plan, "the class token is the only group, and there are four blocks and no class attention")
    expect(model.config == config.with_plan(plan), "everything but the plan stays as it is in vit_shapes_patch8_32")
    expect(late() is not model, "build a new model at each call")
