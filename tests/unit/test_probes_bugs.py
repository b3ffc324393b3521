"""Every bug of the hall in every probe that reads a tape: the probe's tests against loops would see it, or why not.

A tape is spoiled where all probes read it, one bug at a time. What a probe then returns is another shape, or is a
hundred tolerances of its test against loops away: so that test fails on the bug. `CANNOT` lists what cannot happen.
"""

from dataclasses import replace

import pytest
import torch

from dtl_lib import probes, record
from dtl_lib.probes.bugs import BUGS
from dtl_lib.tape import Tape
from dtl_lib.tokens import PATCHES, TokenPlan
from tests.unit.small import SMALL, build, images
from tests.unit.test_probes_rollouts import fused, looked_at, rollout

CONFIG = replace(SMALL, plan=TokenPlan.of(3, reg_pos=0, num_reg=2))  # 9 tokens throughout, a grid of 2 × 3
BLOCKS, HEADS, TOLERANCE = range(3), CONFIG.heads, 2e-5


def maps(model, tape):
    return torch.stack([tape.maps(block) for block in BLOCKS])


def class_maps(model, tape):
    return torch.stack([probes.class_map(model, tape, block, 2) for block in BLOCKS])


def distances(model, tape):
    return torch.stack([probes.mean_attention_distance(tape, block) for block in BLOCKS])


def flows(model, tape):
    return torch.stack([given for block in probes.flow(tape) for given in block.given.values()])


def norms(model, tape):
    return torch.stack([tape.norms(block)[PATCHES] for block in BLOCKS])


PROBES = {
    "maps": maps,
    "rollout": lambda model, tape: probes.rollout(tape),
    "gradient rollout": lambda model, tape: probes.gradient_rollout(tape),
    "relevance": lambda model, tape: probes.relevance(tape),
    "lens": class_maps,
    "distance": distances,
    "flow": flows,
    "norms": norms,
}
STREAM = "reads the stream, and no attention"
CANNOT = {
    **{
        (probe, bug): STREAM
        for probe in ("lens", "norms")
        for bug in ("another input", "scale", "softmax", "number of heads", "rows for heads", "own scale")
    },
    **{
        (probe, "rows for heads"): "reads whole matrices"
        for probe in ("rollout", "gradient rollout", "relevance", "distance", "flow")
    },
    ("flow", "rows and columns"): "has no grid",
    ("distance", "own scale"): "scales its rows to sum to 1 itself",
}


def recorded(model, seed):
    with record(model, grad=True) as tape:
        model(images(CONFIG, seed=seed)).gather(1, torch.tensor([[1], [3]])).sum().backward()
    return tape


def qk_of(part, x, heads=HEADS):
    """Queries and keys that a block's weights make of what its attention is given."""
    q, k, _ = part.attention.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).detach()
    return q, k


def spoil(bug, model, tape, monkeypatch):
    """The tape with one bug of `BUGS`."""
    own, tokens, layout, attention = dict(tape._qk), dict(tape._tokens), TokenPlan.layout, Tape._attention
    before = {0: tokens["input"], 1: tokens[0], 2: tokens[1]}
    last = max(BLOCKS)

    def patches(move):
        monkeypatch.setattr(
            TokenPlan, "layout", lambda plan, block: layout(plan, block) | {PATCHES: move(layout(plan, block)[PATCHES])}
        )

    def matrices(change):
        def changed(self, block, queries, stage):
            return change(attention(self, block, slice(0, 9), stage))[:, :, queries]

        monkeypatch.setattr(Tape, "_attention", changed)

    def blocks(source):
        for block in BLOCKS:
            tape._qk[block], tape._tokens[block] = own[source(block)], tokens[source(block)]

    def queries_and_keys(change):
        for block in BLOCKS:
            tape._qk[block] = change(model.blocks[block], before[block], *own[block])

    if bug == "raw embeddings":
        for block, part in enumerate(model.blocks):
            tape._qk[block] = qk_of(part, part.norm1(tokens["input"]))
            tape._tokens[block] = part(tokens["input"]).detach()
    elif bug == "last block":
        blocks(lambda block: last)
    elif bug == "reversed blocks":
        blocks(lambda block: last - block)
    elif bug == "another input":
        queries_and_keys(lambda part, x, q, k: qk_of(part, x))
    elif bug == "scale":
        queries_and_keys(lambda part, x, q, k: (q * HEADS**-0.5, k))
    elif bug == "softmax":
        matrices(lambda a: a / a.sum(dim=-2, keepdim=True))
    elif bug == "number of heads":
        queries_and_keys(lambda part, x, q, k: qk_of(part, part.norm1(x), 2 * HEADS))
    elif bug == "rows for heads":
        monkeypatch.setattr(Tape, "row", lambda tape, block, *_: tape.attention(block)[:, 0, :HEADS])
    elif bug == "registers as patches":
        patches(lambda where: slice(1, 7))
    elif bug == "patches begin a token early":
        patches(lambda where: slice(where.start - 1, -1))
    elif bug == "rows and columns":
        tape.grid = tape.grid[::-1]
    elif bug == "square grid":
        tape.grid = (2, 2)
        patches(lambda where: slice(where.start, where.start + 4))
    elif bug == "own scale":
        matrices(lambda a: a / a.amax(dim=(-1, -2), keepdim=True))
    elif bug == "first image":
        for block in BLOCKS:
            tape._qk[block] = tuple(part[:1].expand_as(part) for part in own[block])
            tape._tokens[block] = tokens[block][:1].expand_as(tokens[block])
    elif bug == "first call":
        earlier = recorded(model, seed=6)
        tape._qk, tape._tokens = earlier._qk, earlier._tokens
    elif bug == "fused attention":
        tape._qk = {}


def seen(right, wrong):
    """Whether the comparison with loops would fail, by far."""
    return right.shape != wrong.shape or not torch.allclose(right, wrong, rtol=100 * TOLERANCE, atol=1e-6)


@pytest.mark.parametrize("bug", [name for name, bug in BUGS.items() if bug.of != "rollout"])
@pytest.mark.parametrize("probe", PROBES)
def test_a_bug_is_seen(probe, bug, monkeypatch):
    model = build(CONFIG)
    right, tape = PROBES[probe](model, recorded(model, seed=5)), recorded(model, seed=5)
    assert not seen(right, PROBES[probe](model, tape))
    spoil(bug, model, tape, monkeypatch)
    if bug == "fused attention":
        with pytest.raises(ValueError, match="nothing is recorded"):
            PROBES[probe](model, tape)
        return
    try:
        wrong = PROBES[probe](model, tape)
    except (ValueError, RuntimeError):  # shapes that do not fit: seen as well
        assert (probe, bug) not in CANNOT
        return
    assert seen(right, wrong) == ((probe, bug) not in CANNOT), CANNOT.get((probe, bug))


ROLLOUT_BUGS = {
    "no skip connection": lambda loops, matrices: loops(matrices, residual=0.0),
    "columns scaled": lambda loops, matrices: loops([m / m.sum(axis=1, keepdims=True) for m in matrices]),
    "reversed product": lambda loops, matrices: loops(matrices[::-1]),
}


@pytest.mark.parametrize("bug", [name for name, bug in BUGS.items() if bug.of == "rollout"])
def test_a_bug_of_the_product_is_seen(bug):
    """Here the loops have the bug: what they give then is not what the library gives."""
    tape, passes = looked_at(CONFIG)
    ours = probes.rollout(tape)

    def loops(matrices, **how):
        found = rollout(passes, 6, ("cls", 0), matrices, **how)
        return torch.from_numpy(found).float().unflatten(1, (2, 3))

    matrices = [fused(block.softmax, "mean") for block in passes]
    assert not seen(loops(matrices), ours)
    assert seen(ROLLOUT_BUGS[bug](loops, matrices), ours)
