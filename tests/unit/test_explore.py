"""`explore`: the numbers of every view against the tape, the probes and plain PyTorch, for every kind of model."""

import numpy as np
import pytest
import torch
from torch import nn

from dtl_lib import Group, TokenPlan, ViT, ViTConfig, data, explore, load_pretrained, probes, record
from dtl_lib.explore import SHOWS, State, forget, paint, queries
from dtl_lib.explore import explore as seen

DEPTH = 4
PLANS = {
    "plain": TokenPlan.of(DEPTH),
    "late": TokenPlan.of(DEPTH, cls_pos=2),
    "registers": TokenPlan.of(DEPTH, cls_pos=1, reg_pos=0, num_reg=2),
    "leaving": TokenPlan(DEPTH, (Group("cls", 1, 1), Group("work", 2, 0, 3))),
    "distilled": TokenPlan.of(DEPTH, dist=True),
    "pooled": TokenPlan.of(DEPTH, cls_pos=None, reg_pos=1, num_reg=1),
    "cait": TokenPlan.of(DEPTH, cls_pos=DEPTH, reg_pos=1, num_reg=1, class_blocks=2),
}


def model_of(kind, size=(32, 48), **options):
    torch.manual_seed(19)
    plan = PLANS[kind]
    pool = {"pool": "patches"} if kind == "pooled" else {}
    talking = {"talking_heads": True, "layer_scale": 1.0} if kind == "cait" else {}
    config = ViTConfig(size, 8, dim=24, depth=DEPTH, heads=3, plan=plan, classes=7, **pool, **talking, **options)
    model = ViT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(params=PLANS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return model_of(kind)


@pytest.fixture
def image():
    torch.manual_seed(91)
    return torch.randn(1, 3, 32, 48)


@pytest.fixture
def calls(monkeypatch):
    """How often a model has been called."""
    counted, forward = [], ViT.forward

    def counting(self, *args, **options):
        counted.append(self)
        return forward(self, *args, **options)

    monkeypatch.setattr(ViT, "forward", counting)
    forget()
    return counted


def taped(model, image, grad=False):
    with torch.set_grad_enabled(grad), record(model, grad=grad) as tape:
        logits = model(image)
        if grad:
            logits.amax(dim=-1).sum().backward()
    return tape


def test_attention_is_the_tapes_for_every_token_head_and_block(kind, model, image):
    tape, plan = taped(model, image), PLANS[kind]
    for block in range(plan.blocks):
        stage = "softmax" if kind == "cait" and block < DEPTH else "attention"
        for query in [*queries(plan), "patch:1,2"]:
            state = State(block, 1, query)
            name = state.token[0] if isinstance(state.token, tuple) else state.token
            name = "patches" if name == "patch" else name
            there = name in plan.layout(block) and (block < DEPTH or name in ("cls", "dist"))
            view = seen(model, image, state)
            if not there:
                assert view.map is None and view.others == {} and view.off is None
                assert view.sentence.endswith(".") and f"block {block}" in view.sentence
                continue
            if query == "patches":
                row = tape.attention(block, stage)[0, 1, plan.layout(block)["patches"]].mean(dim=0)
            else:
                row = tape.row(block, state.token, stage)[0, 1]
            patches = plan.layout(block)["patches"].start
            np.testing.assert_allclose(view.map.ravel(), row[patches:], atol=1e-6)
            np.testing.assert_allclose(list(view.others.values()), row[:patches], atol=1e-6)
            assert view.map.shape == view.grid == (4, 6)
            assert view.off == pytest.approx(float(row[:patches].sum()), abs=1e-6)
            mean = seen(model, image, State(block, None, query))
            heads = [seen(model, image, State(block, head, query)).map for head in range(3)]
            np.testing.assert_allclose(mean.map, np.mean(heads, axis=0), atol=1e-6)


def test_rollout_and_relevance_end_as_the_probes_do_and_grow_from_block_to_block(kind, model, image):
    plan, last = PLANS[kind], PLANS[kind].depth - 1 + PLANS[kind].class_blocks
    query = queries(plan)[0]
    last = plan.depth - 1 if query == "patches" else last
    plain, graded = taped(model, image), taped(model, image, grad=True)
    for show, right in (("rollout", probes.rollout(plain, query)), ("relevance", probes.relevance(graded, query))):
        view = seen(model, image, State(last, query=query, show=show))
        np.testing.assert_allclose(view.map, right[0], rtol=1e-4, atol=1e-7)
        enter = plan.group(query).enter if plan.group(query) else 0
        if enter < last:
            assert not np.allclose(seen(model, image, State(last - 1, query=query, show=show)).map, view.map)


def test_rollout_up_to_a_block_is_that_of_a_model_that_ends_there(image):
    model, short = model_of("registers"), ViT(model_of("registers").config.with_plan(PLANS["registers"]))
    short.load_state_dict(model.state_dict())
    short.eval()
    for block in range(1, DEPTH):
        tape = taped(short, image)
        matrices = [tape.attention(at)[0].mean(dim=0) for at in range(1, block + 1)]  # cls enters before block 1
        row = torch.eye(len(matrices[0]))[0]
        for matrix in reversed(matrices):
            row = row @ (matrix + torch.eye(len(matrix))) / 2
        view = seen(model, image, State(block, show="rollout"))
        np.testing.assert_allclose(view.map.ravel(), row[3:], atol=1e-6)
        np.testing.assert_allclose(list(view.others.values()), row[:3], atol=1e-6)
        assert view.off == pytest.approx(float(row[:3].sum()), abs=1e-6)


def test_norms_and_the_lens_are_the_tapes(kind, model, image):
    tape = taped(model, image)
    with torch.no_grad():
        answer = int(model(image).argmax())
    for block in range(PLANS[kind].blocks):
        norms, lens = (seen(model, image, State(block, show=show)) for show in ("norms", "lens"))
        right = tape.norms(block)
        np.testing.assert_allclose(norms.map, right["patches"][0], rtol=1e-5)
        if "cls" in right:
            assert norms.others["cls"] == pytest.approx(float(right["cls"][0]), rel=1e-5)
        np.testing.assert_allclose(lens.map, probes.class_map(model, tape, block, answer)[0], rtol=1e-4, atol=1e-7)
        assert lens.off is None and norms.off is None


def test_a_shared_scale_is_one_for_all_blocks_heads_and_models(image):
    few, many = model_of("plain"), model_of("registers")
    one = {seen(few, image, State(block, head)).range for block in range(DEPTH) for head in (None, 0, 2)}
    assert len(one) == 1
    values = np.concatenate([seen(few, image, State(b, h)).map.ravel() for b in range(DEPTH) for h in range(3)])
    assert one.pop() == (0.0, pytest.approx(np.quantile(values, 0.995), rel=1e-5))
    both = seen([few, many], image, State(2))
    alone = [seen(model, image, State(2)).range[1] for model in (few, many)]
    assert {view.range[1] for view in both} == {max(alone)} and "all models shown" in both[0].sentence
    own = seen([few, many], image, State(2, scale="own"))
    assert [view.range[1] for view in own] == [pytest.approx(float(view.map.max())) for view in own]
    assert "own maximum" in own[0].sentence


def test_moving_a_control_calls_the_model_once_or_with_gradients_twice(calls, image):
    model = model_of("registers")
    states = [
        State(block, head, query, show, scale)
        for show in ("attention", "rollout", "norms", "lens")
        for block in range(DEPTH)
        for head in (None, 1)
        for query in ("cls", "reg:1", "patch:3,5")
        for scale in ("shared", "own")
    ]
    for state in states:
        seen(model, image, state)
    assert len(calls) == 1
    for block in range(1, DEPTH):
        seen(model, image, State(block, show="relevance"))
    assert len(calls) == 2


def test_what_was_recorded_is_forgotten_when_weights_or_pixels_change(calls, image):
    model, state = model_of("plain"), State(3)
    before = seen(model, image, state)
    with torch.no_grad():
        model.blocks[1].attention.qkv.weight += 0.3
    after = seen(model, image, state)
    assert len(calls) == 2 and not np.allclose(before.map, after.map)
    image[0, :, :8] = 0
    assert not np.allclose(seen(model, image, state).map, after.map) and len(calls) == 3
    np.testing.assert_allclose(seen(model, image.clone(), state).map, seen(model, image, state).map)
    assert len(calls) == 3


def test_it_leaves_the_model_as_it_was(image):
    model = model_of("registers", drop_path=0.5).train()
    model.blocks[0].eval()
    mode = [module.training for module in model.modules()]
    for show in SHOWS:
        once = seen(model, image, State(3, show=show)).map
        forget()
        np.testing.assert_allclose(seen(model, image, State(3, show=show)).map, once)
    assert [module.training for module in model.modules()] == mode
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_models_and_inference_mode_have_relevance_too(image):
    model = model_of("plain")
    right = seen(model, image, State(3, show="relevance")).map
    forget()
    model.requires_grad_(False)
    with torch.inference_mode():
        np.testing.assert_allclose(seen(model, image, State(3, show="relevance")).map, right)


def test_the_sentence_says_the_numbers(image):
    model = model_of("registers")
    view = seen(model, image, State(2, 1))
    row, column = np.unravel_index(view.map.argmax(), view.map.shape)
    assert view.sentence.startswith("Class token, block 2, head 1: ") and view.sentence.endswith(".")
    registers = view.others["reg:0"] + view.others["reg:1"]
    parts = (
        f"{view.off:.1%} of its attention lies off the patches",
        f"cls {view.others['cls']:.1%}, reg {registers:.1%}",
    )
    assert all(part in view.sentence for part in (*parts, f"({row}, {column}), has {view.map.max():.1%}"))
    assert f"from 0 to {view.range[1]:.1%} or more, one scale for all blocks and heads" in view.sentence
    late = seen(model_of("late"), image, State(1))
    assert late.sentence == "Cls enters at block 2; in block 1 the sequence holds only patches."
    assert "class 0" not in seen(model, image, State(2, show="norms")).sentence
    lens = seen(model, image, State(2, show="lens"))
    assert f"“{lens.answers[0][0]}” {lens.map.max():.1%}" in lens.sentence


def test_models_without_classes_say_so():
    model = ViT(ViTConfig(32, 8, dim=24, depth=2, heads=3, classes=0)).eval()
    for show in ("lens", "relevance"):
        view = seen(model, torch.zeros(1, 3, 32, 32), State(1, show=show))
        assert view.map is None and view.answers == () and "has no classes" in view.sentence


def test_models_side_by_side_may_differ_in_depth_and_tokens(image):
    deep, other = model_of("late"), model_of("pooled")
    first, second = seen([deep, other], image, State(3))
    assert first.map is not None and second.map is None and "has no cls" in second.sentence
    shallow = ViT(ViTConfig((32, 48), 8, dim=24, depth=2, heads=3, classes=7)).eval()
    first, second = seen([deep, shallow], image, State(3))
    assert first.map is not None and "There is no block 3" in second.sentence


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"block": 9}, "no block 9"),
        ({"head": 7}, "no head 7"),
        ({"query": "patch:9,0"}, "no patch (9, 0)"),
        ({"query": "reg:5"}, "reg has tokens 0 … 1"),
        ({"query": "reg"}, "such as reg:0"),
        ({"query": "left eye"}, "a query is cls"),
        ({"show": "heat"}, "show is one of attention"),
        ({"scale": "log"}, "scale is one of shared, own"),
        ({"overlay": 1.5}, "0 to 1, not 1.5"),
        ({"block": -1}, "block"),
        ({"block": 1.5}, "block"),
        ({"overlay": "strong"}, "overlay"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(given, says, image):
    with pytest.raises(ValueError, match=".") as caught:
        seen(model_of("registers"), image, State(**{"block": 2} | given))
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("models", [[], nn.Linear(2, 2)])
def test_what_is_no_model_is_refused(models, image):
    with pytest.raises(ValueError, match="model|ViT"):
        seen(models, image, State())


def test_damaged_weights_are_refused(image):
    model = model_of("plain")
    with torch.no_grad():
        model.blocks[0].mlp.contract.bias[0] = float("nan")
    with pytest.raises(ValueError, match="non-finite"):
        seen(model, image, State())


def test_a_photo_is_prepared_for_each_model():
    models = [load_pretrained("zoo/shapes_depth6"), load_pretrained("zoo/cifar10_depth6")]
    named_later = load_pretrained("zoo/cifar10_depth6_reg4").card["classes"]
    for view, model in zip(seen(models, data.photo("coffee"), State(4)), models):
        right = data.prepare(data.photo("coffee"), config=model.config)
        tape = taped(model, right)
        np.testing.assert_allclose(view.map, tape.maps(4)[0].mean(dim=0), atol=1e-6)
        assert view.photo.shape == (*right.shape[-2:], 3)
        known = data.Shapes.classes if "shapes" in model.card["data"]["name"] else named_later
        with torch.no_grad():
            assert view.answers[0] == (
                known[int(model(right).argmax())],
                pytest.approx(float(model(right).softmax(-1).max())),
            )


def test_timm_models_are_explored_as_they_are(image):
    timm = pytest.importorskip("timm")
    from dtl_lib import from_timm

    theirs = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5, depth=3).eval()
    x = torch.randn(1, 3, 64, 64)
    theirs.blocks[1].attn.fused_attn = False
    kept = []
    theirs.blocks[1].attn.attn_drop.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.no_grad():
        theirs(x)
    view = seen(from_timm(theirs), x, State(1, 2))
    np.testing.assert_allclose(view.map.ravel(), kept[0][0, 2, 0, 1:], atol=1e-6)


def test_paint_lays_the_map_over_the_photo(image):
    model = model_of("late")
    view = seen(model, image, State(3, scale="own"))
    faint, strong = (paint(view, State(3, overlay=overlay)) for overlay in (0.0, 1.0))
    assert np.ptp(faint.astype(int), axis=-1).max() <= 1  # the photo in grey
    assert not np.array_equal(faint, strong) and strong.shape[:2] == (160, 240)
    nothing = seen(model, image, State(0))
    assert nothing.map is None
    painted = paint(nothing, State(0))
    assert painted.shape == strong.shape and np.array_equal(painted[::5, ::5], nothing.photo)


def test_queries_are_every_token_that_asks():
    assert queries(PLANS["registers"]) == ["cls", "reg:0", "reg:1", "patches"]
    assert queries(PLANS["distilled"]) == ["cls", "dist", "patches"]
    assert queries(PLANS["pooled"]) == ["patches", "reg:0"]
    keys_only = TokenPlan.of(3, cls_pos=3, reg_pos=3, num_reg=2, class_blocks=1)
    assert queries(keys_only) == ["cls", "patches"]
    assert explore.queries is queries
