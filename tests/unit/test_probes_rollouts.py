"""Rollout, gradient rollout and relevance against loops over rows, in float64, for every way tokens come and go."""

import doctest
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dtl_lib import load_pretrained, probes, record
from dtl_lib.tokens import Group, TokenNotThere, TokenPlan
from tests.unit.by_hand import Seen, forward
from tests.unit.fixed import noise
from tests.unit.small import SMALL, build, images

NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
WEIGHTS = Path(os.environ.get("DTL_DATA") or "nowhere") / "weights" / f"{NAME}.safetensors"
PLANS = {
    "plain": TokenPlan.of(3),
    "distilled": TokenPlan.of(3, reg_pos=0, num_reg=2, dist=True),
    "registers late": TokenPlan.of(3, reg_pos=1, num_reg=4),
    "class token late": TokenPlan.of(3, cls_pos=1, reg_pos=0, num_reg=2),
    "class token last": TokenPlan.of(3, cls_pos=2, reg_pos=1, num_reg=2),
    "registers leave": TokenPlan(3, (Group("cls", 1, 1), Group("reg", 2, 0, 2), Group("late", 1, 1))),
    "leave and enter": TokenPlan(3, (Group("cls", 1, 0), Group("a", 2, 0, 1), Group("b", 2, 1))),
    "class attention": TokenPlan(2, (Group("cls", 1, 2), Group("reg", 2, 1), Group("more", 1, 3)), class_blocks=2),
    "distilled class attention": TokenPlan.of(2, 1, 0, 2, dist=True, class_blocks=1),
}
MODELS = {name: replace(SMALL, depth=plan.depth, plan=plan) for name, plan in PLANS.items()}
MODELS |= {
    "talking heads": replace(SMALL, plan=TokenPlan.of(3, reg_pos=0, num_reg=2), talking_heads=True),
    "CaiT": replace(MODELS["class attention"], talking_heads=True, layer_scale=0.5),
    "no class token": replace(SMALL, plan=TokenPlan.of(3, None, 1, 2), pool="patches", norm_after_pool=True),
}
OPTIONS = [
    {},
    {"fuse": "max"},
    {"fuse": "min", "residual": 0.25},
    {"discard": 0.5, "residual": 0.8},
    {"discard": 0.9, "fuse": "max"},
    {"residual": 0.0},
    {"first": 0},
]


def rollout(seen: list[Seen], patches: int, of, matrices, first=None, residual=0.5, discard=0.0, scaled=True):
    """The map of a token by loops over rows; `matrices` are one a block, `(batch, query, key)`, heads fused.

    R begins as the identity over the tokens of the first block, and is multiplied block by block from the left.
    """
    name = "patches" if of == "patches" else of[0]
    there = [b for b, block in enumerate(seen) if (name, 0) in block.keys]
    first = there[0] if first is None else first
    result = []
    for image in range(len(matrices[0])):
        columns = seen[first].keys
        row_of = {label: np.eye(len(columns))[i] for i, label in enumerate(columns)}
        for block in range(first, there[-1] + 1):
            old = {label: row_of.get(label, np.zeros(len(columns))) for label in seen[block].keys}
            row_of = dict(old)
            for q, query in enumerate(seen[block].queries):
                given = np.array(matrices[block][image, q])
                here = [k for k, key in enumerate(seen[block].keys) if key[0] == "patches"]
                for k in sorted(here, key=lambda k: given[k])[: int(discard * len(here))]:
                    given[k] = 0
                if not given.any():
                    given[seen[block].keys.index(query)] = float(scaled)  # nothing to take: its own token alone
                if scaled:
                    given *= 1 - residual
                    given[seen[block].keys.index(query)] += residual
                    given /= given.sum()
                else:
                    given[seen[block].keys.index(query)] += 1
                row_of[query] = given @ np.array([old[key] for key in seen[block].keys])
        of_patches = [row_of["patches", i] for i in range(patches)]
        row = sum(of_patches) / patches if of == "patches" else row_of[of]
        result.append([row[columns.index(("patches", i))] for i in range(patches)])
    return np.array(result)


def fused(maps, how):
    return {"mean": np.mean, "max": np.max, "min": np.min}[how](maps.detach().numpy(), axis=1)


def read_by_head(config):
    return "cls" if config.pool == "cls" else "patches"


def label(of, columns=3):
    """Of the passes by hand: the same token, or "patches"."""
    return of if of == "patches" else (of, 0) if isinstance(of, str) else of if len(of) == 2 else _patch(*of, columns)


def _patch(_, row, column, columns):
    return "patches", row * columns + column


def looked_at(config):
    """A tape, and what the pass by hand saw, of the same images; the loss takes another class of each image."""
    model, x = build(config), images(config)
    chosen = torch.tensor([1, 3])[:, None]
    with record(model, grad=True) as tape:
        model(x).gather(1, chosen).sum().backward()
    logits, seen = forward(model, x)
    torch.testing.assert_close(logits, model(x))
    logits.gather(1, chosen).sum().backward()
    return tape, seen


@pytest.fixture(scope="module", params=MODELS)
def looked(request):
    return *looked_at(MODELS[request.param]), read_by_head(MODELS[request.param])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("of", [None, ("patch", 1, 0)], ids=str)
class TestAgainstLoops:
    def test_rollout(self, looked, of, options):
        tape, seen, read = looked
        fuse, rest = _split(options)
        by_loops = rollout(seen, 6, label(of or read), [fused(block.softmax, fuse) for block in seen], **rest)
        agree(probes.rollout(tape, of or read, **options), by_loops)

    def test_gradient_rollout(self, looked, of, options):
        tape, seen, read = looked
        fuse, rest = _split(options)
        by_loops = rollout(seen, 6, label(of or read), [fused(positive(block), fuse) for block in seen], **rest)
        agree(probes.gradient_rollout(tape, of or read, **options), by_loops)


@pytest.mark.parametrize("first", [None, 0])
@pytest.mark.parametrize("of", [None, ("patch", 1, 0)], ids=str)
def test_relevance_against_loops(looked, of, first):
    tape, seen, read = looked
    matrices = [fused(positive(block), "mean") for block in seen]
    by_loops = rollout(seen, 6, label(of or read), matrices, first, scaled=False)
    agree(probes.relevance(tape, of or read, first), by_loops)


def _split(options):
    return options.get("fuse", "mean"), {name: value for name, value in options.items() if name != "fuse"}


def agree(ours, theirs):
    assert ours.shape == (2, 2, 3) and ours.dtype == torch.float32
    np.testing.assert_allclose(ours.flatten(1), theirs, rtol=2e-5, atol=1e-7)


def positive(block):
    """Of attention times its gradient, by autograd."""
    return (block.attention.detach() * block.attention.grad).clamp(min=0)


@pytest.mark.parametrize(
    ("plan", "of"),
    [
        ("registers late", ("reg", 2)),
        ("registers leave", ("reg", 1)),
        ("registers leave", ("late", 0)),
        ("leave and enter", ("a", 1)),
        ("distilled", "dist"),
        ("distilled", "patches"),
        ("class attention", ("reg", 0)),
        ("distilled class attention", "dist"),
    ],
)
def test_every_token(plan, of):
    """A group that leaves is followed to the block it leaves before."""
    tape, seen = looked_at(MODELS[plan])
    agree(probes.rollout(tape, of), rollout(seen, 6, label(of), [fused(block.softmax, "mean") for block in seen]))
    matrices = [fused(positive(block), "mean") for block in seen]
    agree(probes.relevance(tape, of), rollout(seen, 6, label(of), matrices, scaled=False))


def test_a_group_by_name_is_its_tokens():
    tape, _ = looked_at(MODELS["registers late"])
    for probe in (probes.rollout, probes.gradient_rollout, probes.relevance):
        together = probe(tape, "reg")
        assert together.shape == (2, 4, 2, 3)
        torch.testing.assert_close(together, torch.stack([probe(tape, ("reg", i)) for i in range(4)], dim=1))


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs DTL_DATA with weights/{NAME}.safetensors")
def test_real_weights():
    """12 blocks, a grid of 10 × 14 patches."""
    model = load_pretrained(NAME).double().eval()
    x = noise(1, 3, 160, 224, seed=3)
    with record(model, grad=True) as tape:
        model(x)[:, 207].sum().backward()
    logits, seen = forward(model, x)
    logits[:, 207].sum().backward()
    for ours, matrices, options in [
        (probes.rollout(tape, discard=0.5), [fused(block.softmax, "mean") for block in seen], {"discard": 0.5}),
        (probes.gradient_rollout(tape, fuse="max"), [fused(positive(block), "max") for block in seen], {}),
        (probes.relevance(tape), [fused(positive(block), "mean") for block in seen], {"scaled": False}),
    ]:
        theirs = rollout(seen, 140, ("cls", 0), matrices, **options).reshape(1, 10, 14)
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-8)


@pytest.fixture(scope="module")
def tape():
    return looked_at(MODELS["class token late"])[0]


def test_by_numbers():
    """Keys that are all 0 spread attention evenly; from the tokens of block 1 on a row is 1/2 · I + 1/2 · 1/9."""
    model = build(MODELS["class token late"])
    with torch.no_grad(), record(model) as tape:
        for block in model.blocks:
            block.attention.qkv.weight.zero_()
            block.attention.qkv.bias.zero_()
        model(images(SMALL))
    once = 1 / 2 / 9
    assert probes.rollout(tape, first=2).unique().item() == pytest.approx(once)
    assert probes.rollout(tape).unique().item() == pytest.approx(
        once + once / 2
    )  # (I / 2 + 1/18)² = I / 4 + 1/18 + 1/36
    assert probes.rollout(tape, residual=1).count_nonzero() == 0
    assert probes.rollout(tape, discard=0.9).allclose(probes.rollout(tape))  # of equal ones all are kept


def test_images_of_a_batch_have_their_own_gradients():
    model, x = build(MODELS["class token late"]), images(SMALL, batch=3)
    with record(model, grad=True) as tape:
        model(x)[:, 2].sum().backward()
        together = [probe(tape) for probe in (probes.rollout, probes.gradient_rollout, probes.relevance)]
        model(x[1:2])[:, 2].sum().backward()
        alone = [probe(tape) for probe in (probes.rollout, probes.gradient_rollout, probes.relevance)]
    for batch, image in zip(together, alone):
        torch.testing.assert_close(batch[1:2], image, rtol=1e-5, atol=1e-8)


def test_the_head_alone_is_enough():
    model = build(MODELS["class token late"])
    with record(model, grad=True) as tape:
        model(images(SMALL))[:, 1].sum().backward()
    with record(model, grad=True, all_queries=False, stream=False) as short:
        model(images(SMALL))[:, 1].sum().backward()
    for probe in (probes.rollout, probes.gradient_rollout, probes.relevance):
        torch.testing.assert_close(probe(short), probe(tape))
        with pytest.raises(ValueError, match="all_queries=False"):
            probe(short, "patches")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    def relevant(dtype):
        model = build(MODELS["class token late"]).to(dtype)
        with record(model, grad=True) as tape:
            model(images(SMALL).to(dtype))[:, 1].sum().backward()
        return probes.rollout(tape), probes.relevance(tape)

    for half, exact in zip(relevant(dtype), relevant(torch.float64)):
        assert half.dtype == torch.float32 and 0 < (half - exact).norm() < 0.1 * exact.norm()


def test_under_autocast_products_are_exact(tape):
    exact = probes.rollout(tape), probes.relevance(tape)
    with torch.autocast("cpu", torch.bfloat16):
        assert probes.rollout(tape).equal(exact[0]) and probes.relevance(tape).equal(exact[1])


def test_each_block_from_the_entry_on_counts_and_no_other():
    """With other queries in one block the map is another, unless the class token was not there yet."""

    def after(changed):
        model = build(MODELS["class token late"])
        with torch.no_grad(), record(model) as tape:
            model(images(SMALL))
            if changed is not None:
                q, k = tape._qk[changed]
                tape._qk[changed] = 2 * q, k
        return probes.rollout(tape), probes.rollout(tape, first=0)

    (late, through), changed = after(None), [after(block) for block in range(3)]
    assert late.equal(changed[0][0]) and not torch.allclose(through, changed[0][1])
    for block in (1, 2):
        assert not torch.allclose(late, changed[block][0]) and not torch.allclose(through, changed[block][1])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda tape: probes.rollout(tape, fuse="median"), "fuse is one of mean, max, min, not 'median'"),
        (lambda tape: probes.rollout(tape, discard=1.0), "discard is a share of the patches, from 0 to below 1, not 1"),
        (lambda tape: probes.gradient_rollout(tape, discard=-0.1), "discard is a share"),
        (lambda tape: probes.rollout(tape, residual=1.5), "residual is the weight of the skip connection, 0 to 1"),
        (lambda tape: probes.rollout(tape, first=3), "there is no block 3: this plan has blocks 0 … 2"),
        (lambda tape: probes.rollout(tape, ("patch", 2, 0)), r"there is no patch \(2, 0\)"),
        (lambda tape: probes.relevance(tape, ("reg", 2)), "reg has tokens 0 … 1, not 2"),
        (lambda tape: probes.rollout(tape, "patch"), r"a patch is given as"),
        (lambda tape: probes.rollout(tape, "dist"), 'this plan has no dist .*: of="patches" is the mean'),
        (lambda tape: probes.rollout(tape, "extra"), "this plan has no extra"),
        *[(lambda tape, of=of: probes.rollout(tape, of), "of is a name, ") for of in [3, None, (), (1, 2), {}, []]],
    ],
)
def test_what_cannot_be_asked(tape, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(tape)


def test_without_a_gradient():
    model = build(SMALL)
    with torch.no_grad(), record(model) as tape:
        with pytest.raises(ValueError, match="inside the with block"):
            probes.rollout(tape)
        model(images(SMALL))
    for probe in (probes.gradient_rollout, probes.relevance):
        with pytest.raises(ValueError, match="grad=True"):
            probe(tape)


def test_a_token_that_never_asks():
    """Registers that enter in class attention are keys alone; a group that leaves has a last block of its own."""
    tape, _ = looked_at(MODELS["class attention"])
    with pytest.raises(TokenNotThere, match="class attention, only cls attends: more has no map there"):
        probes.rollout(tape, ("more", 0))
    tape, _ = looked_at(MODELS["no class token"])
    with pytest.raises(TokenNotThere, match='no cls .*: of="patches" is the mean over all patches'):
        probes.rollout(tape)
    tape, _ = looked_at(MODELS["registers leave"])
    with pytest.raises(ValueError, match=r"first is at most 1, the last block in which \('reg', 0\) asks, not 2"):
        probes.rollout(tape, ("reg", 0), first=2)


@pytest.mark.parametrize("probe", [probes.rollout, probes.gradient_rollout, probes.relevance])
def test_the_example(probe):
    found = doctest.DocTestFinder(recurse=False).find(probe, globs={})
    failed, tried = doctest.DocTestRunner().run(found[0])
    assert (failed, tried) == (0, 5)
