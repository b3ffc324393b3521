"""Checkers of chapter 05, The class token."""

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange

from ..config import ViTConfig, named
from ..layers import Block
from ..models import ViT
from ..tape import record
from ..tokens import Group, TokenPlan
from . import exercise, expect, expect_close, expect_shape, refuse_mistakes

NO_BATCH = "learned[name] has no batch axis: repeat it for each image"


@exercise
def check_enter_and_leave(enter_and_leave) -> None:
    """Groups with names of their own enter in front, in the middle, leave, and do both at once."""
    torch.manual_seed(0)
    x, tokens = torch.randn(3, 9, 4), {name: torch.randn(n, 4) for name, n in (("cls", 1), ("guest", 2), ("aside", 3))}
    alone = {"patches": slice(0, None)}
    with_own = {"aside": slice(0, 3), "patches": slice(3, None)}
    both = {"cls": slice(0, 1), "aside": slice(1, 4), "patches": slice(4, None)}
    exchanged = {"cls": slice(0, 1), "guest": slice(1, 3), "patches": slice(3, None)}
    cases = [(alone, with_own), (with_own, both), (both, exchanged), (both, alone), (both, both)]
    for batch, now, then in [*((2, *case) for case in cases), (3, *cases[0])]:
        try:
            answer = enter_and_leave(x[:batch], now, then, tokens)
        except RuntimeError as error:
            expect("same number of dimensions" not in str(error), NO_BATCH)
            expect(batch == 2, "right for 2 images, and not for 3: repeat the learned tokens for len(x) images")
            raise
        _check_entered(answer, x[:batch], now, then, tokens)
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


def _check_entered(answer, x, now, then, tokens) -> None:
    pieces = {name: x[:, now[name]] if name in now else tokens[name].expand(len(x), -1, -1) for name in then}
    expected, case = torch.cat(list(pieces.values()), dim=1), f"from {', '.join(now)} to {', '.join(then)}: "
    entering = [name for name in then if name not in now]
    expect_shape(answer, expected.shape, case + _miscounted(answer, x, now, then, tokens))
    behind = torch.cat([pieces[name] for name in [*now, *entering] if name in then], dim=1)
    first = torch.cat([pieces[name] for name in [*entering, *now] if name in then], dim=1)
    ordered = case + "the order is that of next_layout"
    if not torch.equal(answer, expected):
        expect(not torch.equal(answer, behind), f"{ordered}; yours puts groups behind those that were there")
        expect(not torch.equal(answer, first), f"{ordered}; yours puts groups in front of all others")
        expect(not torch.equal(_sorted(answer), _sorted(expected)), ordered)
    for name, where in then.items():
        hint = "is copied from x[:, layout[name]]" if name in now else "gets its learned tokens, unchanged"
        expect_close(answer[:, where], pieces[name], f"{case}{name} {hint}")


def _sorted(sequence):
    """The tokens in an order of their own, so that two sequences of the same tokens are equal."""
    return sequence[:, sequence[0, :, 0].argsort()]


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
    """Groups that come and go, in every block; in block 0 there are patches alone."""
    groups = [("cls", 1, 2, None), ("reg", 4, 1, None), ("guest", 2, 1, 3)]
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
        answer_starts = {name: where.start or 0 for name, where in answer.items()}
        expect(starts == answer_starts, f"in block {block} the groups begin at {starts}; yours at {answer_starts}")
        expect(answer["patches"].stop is None, "the patches' slice is open at the end: slice(start, None)")
        stops = {name: where.stop for name, where in expected.items()}
        answer_stops = {name: where.stop for name, where in answer.items()}
        expect(stops == answer_stops, f"in block {block} the slices stop at {stops}; yours at {answer_stops}")
        expect(list(answer) == list(expected), f"in block {block} the order is {list(expected)}, not {list(answer)}")


def _query(block: Block, token, part: int = 0):
    """A token's query, key or value (part 0, 1, 2) in every head of a block: (3, 4)."""
    return block.attention.qkv(token).chunk(3, -1)[part].reshape(3, 4)


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
        token, last = model.tokens["cls"], cast(Block, model.blocks[-1])
        right = tape.queries(2)[0, :, 0]
        elsewhere = "the token enters before block 2 here: use that block"
        head_by_head = rearrange(
            block.attention.qkv(block.norm1(token))[0], "(heads part dim) -> part heads dim", heads=3, part=3
        )
        for hint, wrong in (
            ("a block normalises what it reads: norm1 comes first", _query(block, token)),
            ("norm1 has a weight and a bias of its own", _query(block, F.layer_norm(token, token.shape[-1:]))),
            ("norm2 belongs to the MLP: attention reads what norm1 gives", _query(block, block.norm2(token))),
            ("model.norm comes after the last block: the block's own is norm1", _query(block, model.norm(token))),
            ("that is the key: queries are the first third of qkv", _query(block, block.norm1(token), 1)),
            ("that is the value: queries are the first third of qkv", _query(block, block.norm1(token), 2)),
            (elsewhere, _query(early, early.norm1(token))),
            (elsewhere, _query(last, last.norm1(token))),
            ("a head is a run of channels: (heads head_dim)", right.flatten().reshape(4, 3).T),
            ("qkv gives the queries of all heads first: cut it in three, then into heads", head_by_head[0]),
            ("that is already divided by √d, here by 2", right / 2),
            (
                "the bias is missing: its first third is the query's",
                right - block.attention.qkv.bias[:12].reshape(3, 4),
            ),
        ):
            refuse_mistakes(answer, {hint: wrong})
        expect_close(answer, right, "the query is q's weight and bias on the normalised token")


@exercise
def check_saved(saved) -> None:
    """ViT-Tiny's numbers and a small model's, against the cost model."""
    for dim, depth, side, cls_pos in ((192, 12, 14, 5), (8, 4, 3, 3), (64, 6, 8, 0)):
        config = ViTConfig(side * 2, 2, dim=dim, depth=depth, heads=1, classes=2)
        later = config.with_plan(TokenPlan.of(depth, cls_pos=cls_pos)).cost().total
        expected, answer = config.cost().total - later, saved(dim, side**2, cls_pos)
        linear = cls_pos * 12 * dim**2
        if cls_pos:
            expect(answer != linear, "nearly: the token is also a key and a query in the two products of attention")
            one_way = [linear + cls_pos * 2 * (side**2 + itself) * dim for itself in (0, 1)]
            expect(answer not in one_way, "nearly: as a query it meets every key, and as a key every query")
            once = linear + cls_pos * 4 * (side**2) * dim
            expect(answer != once, "nearly: the class token also attends to itself")
            expect(answer != 2 * expected, "a multiply–add is one operation here, not two")
            absent = "it is absent from the blocks before cls_pos, and from no other"
            others = (depth, depth - cls_pos, depth - 1 - cls_pos, cls_pos - 1, cls_pos + 1)
            expect(all(answer * cls_pos != expected * blocks for blocks in others), absent)
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
