"""The mistakes of public code, each rebuilt in a few lines, and named by the kit; what is right passes."""

import doctest
from itertools import combinations

import pytest
import torch

from dtl_lib import probes, record
from dtl_lib.probes import trial
from dtl_lib.probes.bugs import Steps

HEADS, REGISTERS, GRID = 3, 2, (2, 3)


def stream(model, images, block):
    """What a block is given, `(batch, tokens, dim)`."""
    kept = []
    hook = model.blocks[block].register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        model(images)
    hook.remove()
    return kept[0]


def matrix(block, x, scale=10**-0.5, axis=-1, heads=HEADS):
    """Softmax of q kᵀ of a `ViT`'s block, from what its attention is given."""
    qkv = block.attention.qkv
    q, k, _ = (x @ qkv.weight.T + qkv.bias).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scores = q @ k.mT * scale
    return (scores.softmax(axis) if axis is not None else scores).detach()


def attention(model, images, block, **how):
    part = model.blocks[block]
    return matrix(part, part.norm1(stream(model, images, block)), **how)


def patches(attention, start=1 + REGISTERS):
    return attention[:, :, 0, start : start + 6]


def right(model, images, block):
    return patches(attention(model, images, block)).unflatten(-1, GRID)


def raw_embeddings(model, images, block):
    part = model.blocks[block]
    return patches(matrix(part, part.norm1(stream(model, images, 0)))).unflatten(-1, GRID)


def last_block(model, images, block):
    found = [lambda: right(model, images, index) for index in range(3)]  # noqa: B023
    return found[block]()


def reversed_blocks(model, images, block):
    backward = [right(model, images, index) for index in (2, 1, 0)]
    return backward[block]


def input_of_the_mlp(model, images, block):
    kept = []
    hook = model.blocks[block].mlp.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    stream(model, images, block)
    hook.remove()
    return patches(matrix(model.blocks[block], kept[0])).unflatten(-1, GRID)


def without_norm(model, images, block):
    return patches(matrix(model.blocks[block], stream(model, images, block))).unflatten(-1, GRID)


def full_width(model, images, block):
    return patches(attention(model, images, block, scale=30**-0.5)).unflatten(-1, GRID)


def not_scaled(model, images, block):
    return patches(attention(model, images, block, scale=1)).unflatten(-1, GRID)


def over_queries(model, images, block):
    return patches(attention(model, images, block, axis=2)).unflatten(-1, GRID)


def no_softmax(model, images, block):
    return patches(attention(model, images, block, axis=None)).unflatten(-1, GRID)


def rows_for_heads(model, images, block):
    first = attention(model, images, block)[:, 0]
    return torch.stack([first[:, head, 3:] for head in range(HEADS)], dim=1).unflatten(-1, GRID)


def registers_kept(model, images, block):
    return patches(attention(model, images, block), start=1).unflatten(-1, GRID)


def registers_off_the_end(model, images, block):
    return attention(model, images, block)[:, :, 0, 1:-REGISTERS].unflatten(-1, GRID)


def class_token_kept(model, images, block):
    return attention(model, images, block)[:, :, 0, REGISTERS:-1].unflatten(-1, GRID)


def height_for_width(model, images, block):
    height, width = images.shape[-1] // 4, images.shape[-2] // 4
    return patches(attention(model, images, block)).reshape(2, HEADS, height, width)


def height_for_width_turned(model, images, block):
    return height_for_width(model, images, block).mT.numpy()


def transposed(model, images, block):
    return right(model, images, block).transpose(2, 3)


def square(model, images, block):
    side = int(6**0.5)
    return patches(attention(model, images, block))[..., : side**2].unflatten(-1, (side, side))


def own_scale(model, images, block):
    maps = right(model, images, block).flatten(2)
    low, high = maps.min(-1).values[..., None], maps.max(-1).values[..., None]
    return ((maps - low) / (high - low)).unflatten(-1, GRID)


def square_at_the_end(model, images, block):
    return attention(model, images, block)[:, :, 0, -4:].unflatten(-1, (2, 2))


def own_maximum(model, images, block):
    maps = right(model, images, block)
    return maps / maps.amax(dim=(2, 3), keepdim=True)


def softmax_over_patches(model, images, block):
    """What the class token and the registers got is given to the patches."""
    return patches(attention(model, images, block, axis=None)).softmax(-1).unflatten(-1, GRID)


def twice_the_heads(model, images, block):
    return patches(attention(model, images, block, heads=2 * HEADS, scale=5**-0.5)).unflatten(-1, GRID)


def first_for_all(model, images, block):
    return torch.stack([right(model, images, block)[0] for _ in images])


def first_alone(model, images, block):
    return right(model, images, block)[0][None]


class FirstCall:
    """Hooks append to a list that nobody empties, and the list is read from its beginning."""

    def __init__(self):
        self.found = []

    def __call__(self, model, images, block):
        self.found += [right(model, images, index) for index in range(3)]
        return self.found[block]


def nothing(model, images, block):
    hooks = [part.register_forward_hook(lambda *_: None) for part in model.modules() if hasattr(part, "attn_drop")]
    stream(model, images, block)
    return hooks


REBUILT = [
    (raw_embeddings, "raw embeddings"),
    (last_block, "last block"),
    (reversed_blocks, "reversed blocks"),
    (input_of_the_mlp, "another input"),
    (without_norm, "another input"),
    (full_width, "scale"),
    (not_scaled, "scale"),
    (over_queries, "softmax"),
    (no_softmax, "softmax"),
    (rows_for_heads, "rows for heads"),
    (registers_kept, "registers as patches"),
    (registers_off_the_end, "registers as patches"),
    (class_token_kept, "patches begin a token early"),
    (height_for_width, "rows and columns"),
    (height_for_width_turned, "rows and columns"),
    (transposed, "rows and columns"),
    (square, "square grid"),
    (square_at_the_end, "square grid"),
    (own_scale, "own scale"),
    (own_maximum, "own scale"),
    (softmax_over_patches, "own scale"),
    (twice_the_heads, "number of heads"),
    (first_for_all, "first image"),
    (first_alone, "first image"),
    (FirstCall(), "first call"),
    (nothing, "fused attention"),
    (lambda *_: None, "fused attention"),
]


@pytest.mark.parametrize(("function", "name"), REBUILT, ids=[getattr(f, "__name__", "class") for f, _ in REBUILT])
def test_each_bug_is_named(function, name):
    report = trial.examine(function)
    assert report.bugs == ((name,),) and not report.right
    assert trial.BUGS[name].what in str(report) and trial.BUGS[name].thread in str(report)


def test_every_bug_of_a_map_is_rebuilt():
    assert {name for _, name in REBUILT} == {bug.name for bug in trial.BUGS.values() if bug.of != "rollout"}


def test_a_function_that_public_code_resembles():
    """Hooks on fused attention, the sum's axis lost, and a map over its own maximum."""
    rollout = each(axis=None, fused=True)
    report = trial.examine_rollout(lambda *given: torch.stack([m / m.max() for m in rollout(*given)]), "timm")
    assert report.bugs == (("fused attention", "own scale", "columns scaled"),)


def test_what_is_right_passes():
    assert trial.examine(right).right and trial.examine(right).bugs == ()
    assert str(trial.examine(right)).startswith("right")

    def by_tape(model, images, block):
        with torch.no_grad(), record(model) as tape:
            model(images)
        return tape.maps(block).half()

    assert trial.examine(by_tape).right


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (
            lambda *given: patches(attention(*given), start=1).reshape(2, HEADS, 3, 2),
            ("registers as patches", "rows and columns"),
        ),
        (
            lambda *given: patches(attention(*given, axis=2), start=0).unflatten(-1, GRID),
            ("softmax", "registers as patches", "patches begin a token early"),
        ),
        (
            lambda *given: patches(attention(*given), start=0).unflatten(-1, GRID),
            ("registers as patches", "patches begin a token early"),
        ),
        (lambda *given: full_width(*given)[:1], ("scale", "first image")),
        (lambda *given: right(*given) * 2, None),
        (lambda *given: own_scale(*given).flip(-1), None),
        (lambda *given: right(*given)[:, :1], None),
        (lambda *given: right(*given).mean(dim=1), None),
        (lambda *given: torch.full((2, HEADS, *GRID), torch.nan), None),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_several_at_once_are_never_right(function, names):
    report = trial.examine(function)
    assert not report.right and report.bugs == (() if names is None else (names,))
    assert "wrong" in str(report) and (names or "shape (2" in str(report) or "shape (1" in str(report))


def _bugs(of):
    return [(bug.name, steps) for bug in trial.BUGS.values() if bug.of in (of, "both") for steps in bug.steps]


@pytest.mark.parametrize("of", ["map", "rollout"])
def test_no_bug_and_no_two_return_what_is_right(of):
    """Each shows and is told from every other, and two never pass for right, nor for one of the two."""
    planted = trial.plant()
    blocks = range(3) if of == "map" else [None]

    def returns(*steps):
        together = Steps(**{name: value for each in steps for name, value in each.items()})
        return [trial._answer(planted, call, block, together) for call in range(2) for block in blocks]

    def same(one, other):
        return all(trial._same(a, b) for a, b in zip(one, other))

    single = {(name, str(steps)): returns(steps) for name, steps in _bugs(of)}
    correct = returns({})
    assert not any(same(answers, correct) for answers in single.values())
    for ((a, _), one), ((b, _), other) in combinations(single.items(), 2):
        assert not same(one, other), (a, b)
    for (a, first), (b, second) in combinations(_bugs(of), 2):
        if not first.keys() & second.keys():
            both = returns(first, second)
            assert not any(same(both, other) for other in (correct, returns(first), returns(second))), (a, b)


class Hooked:
    """Matrices by hooks on attn_drop, as public code has them: nothing comes of fused attention."""

    def __init__(self, fused=True):
        self.fused = fused

    def __call__(self, model, images):
        found = []
        for block in model.blocks:
            block.attn.fused_attn = block.attn.fused_attn and self.fused
        hooks = [
            block.attn.attn_drop.register_forward_hook(lambda _, a, out: found.append(out)) for block in model.blocks
        ]
        with torch.no_grad():
            model(images)
        for hook in hooks:
            hook.remove()
        return found


class TestTimm:
    def test_maps(self):
        hooked = Hooked(fused=False)
        assert trial.examine(lambda m, x, block: patches(hooked(m, x)[block]).unflatten(-1, GRID), "timm").right

    def test_fused_attention_hides_what_else_is_wrong(self):
        hooked = Hooked()
        report = trial.examine(lambda m, x, block: patches(hooked(m, x)[block], 1).unflatten(-1, GRID), "timm")
        assert report.bugs == (("fused attention", "registers as patches"),)
        report = trial.examine(lambda m, x, block: patches(hooked(m, x)[block]).unflatten(-1, GRID), "timm")
        assert report.bugs == (("fused attention",),) and not report.right and "nothing" in str(report)

    def test_the_models_are_the_same(self):
        ours, theirs = trial.plant(), trial.plant("timm")
        assert ours.images.equal(theirs.images)
        for block in range(3):
            x = stream(theirs.model, theirs.images[1], block)
            torch.testing.assert_close(x, stream(ours.model, ours.images[1], block))


def rolled(matrices, axis=-1, residual=True, reverse=False):
    result = torch.eye(9)
    for attention in reversed(matrices) if reverse else matrices:
        fused = attention.amax(dim=0)
        fused = (fused + torch.eye(9)) / 2 if residual else fused
        result = fused / fused.sum(dim=-1, keepdim=axis is not None) @ result
    return result[0, 3:].unflatten(0, GRID)


def each(fused=False, **how):
    """A rollout image by image, as where a batch is one image."""
    hooked = Hooked(fused)
    return lambda model, images: torch.stack([rolled([m[0] for m in hooked(model, x[None])], **how) for x in images])


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (each(axis=None), "columns scaled"),
        (each(residual=False), "no skip connection"),
        (each(reverse=True), "reversed product"),
        (lambda model, images: each()(model, images).mT, "rows and columns"),
        (lambda model, images: Hooked()(model, images)[0], "fused attention"),
    ],
)
def test_each_bug_of_a_rollout_is_named(function, names):
    report = trial.examine_rollout(function, "timm")
    if names != "fused attention":
        assert report.bugs == ((names,),)
    else:
        assert not report.right


def test_a_right_rollout():
    def ours(model, images):
        with torch.no_grad(), record(model) as tape:
            model(images)
        return probes.rollout(tape, fuse="max")

    assert trial.examine_rollout(ours).right
    assert trial.examine_rollout(each(), "timm").right
    assert trial.examine_rollout(lambda *given: ours(*given)[:1]).bugs == (("first image",),)


def test_the_planted_map_is_the_table():
    """Not by the softmax of anything: a weight over the sum of a row's weights."""
    planted = trial.plant()
    table = planted.scores.exp().round()
    for call, block in [(0, 0), (1, 2)]:
        for image, kinds in enumerate(planted.kinds[call]):
            row = table[block, :, 0][:, kinds]
            expected = (row / row.sum(-1, keepdim=True))[:, 3:].unflatten(-1, GRID)
            torch.testing.assert_close(planted.maps(call, block)[image], expected)
            torch.testing.assert_close(right(planted.model, planted.images[call], block)[image], expected)


def test_a_stranger_that_raises():
    def broken(model, images, block):
        return [][block]

    report = trial.examine(broken)
    assert not report.right and report.bugs == () and "it raised IndexError" in str(report)
    with pytest.raises(ValueError, match='library is "dtl" or "timm", not \'jax\''):
        trial.examine(right, "jax")


def test_the_example():
    found = doctest.DocTestFinder(recurse=False).find(trial.examine, globs={})
    failed, tried = doctest.DocTestRunner().run(found[0])
    assert (failed, tried) == (0, 5)
