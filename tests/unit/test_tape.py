"""The tape tells the truth: what it returns is what the model computed, for every token, at every block."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tape import record
from dtl_lib.tokens import Group, TokenNotThere, TokenPlan

MOVING = TokenPlan(
    4, (Group("cls", 1, 2), Group("dist", 1, 2), Group("reg", 3, 1), Group("late", 1, 2, 3), Group("soon", 2, 0, 1))
)
CAIT = TokenPlan(2, (Group("cls", 1, 2), Group("reg", 2, 1), Group("last", 1, 2, 3)), class_blocks=2)


def build(plan=MOVING, **options):
    torch.manual_seed(0)
    config = ViTConfig(image_size=32, patch_size=8, dim=32, depth=plan.depth, heads=4, classes=5, plan=plan, **options)
    model = ViT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


MODELS = {
    "moving": lambda: build(),
    "plain": lambda: build(TokenPlan.of(3)),
    "average": lambda: build(TokenPlan.of(3, cls_pos=None, reg_pos=1, num_reg=2), pool="patches"),
    "cait": lambda: build(CAIT, talking_heads=True, layer_scale=0.3),
    "axial": lambda: build(rotary="axial", rotary_reference=(3, 3), qk_norm=True, mlp="swiglu", attention_norm=True),
    "mixed": lambda: build(rotary="mixed", norm="rms", norm_before=True),
    "pooled": lambda: build(rotary="centred", rotary_halves=True, pool="attention", pool_prefix=True),
}
SIZES = [(32, 32), (24, 40)]


def images(height=32, width=32, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind, size", itertools.product(MODELS, SIZES))
def test_attention_times_v_is_the_fused_output(kind, size):
    model = MODELS[kind]()
    outputs = {}
    hooks = [
        block.attention.core.register_forward_hook(lambda _, args, out, i=i: outputs.update({i: (args[2], out)}))
        for i, block in enumerate(model.blocks)
    ]
    with record(model) as tape, torch.no_grad():
        model(images(*size))
    assert set(outputs) == set(range(model.plan.blocks))
    for block, (v, output) in outputs.items():
        torch.testing.assert_close(tape.attention(block) @ v, output, atol=2e-6, rtol=1e-5)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind, size", itertools.product(MODELS, SIZES))
def test_every_group_at_every_block(kind, size):
    model = MODELS[kind]()
    rows, columns = size[0] // 8, size[1] // 8
    with record(model) as tape, torch.no_grad():
        model(images(*size))
    for block in range(model.plan.blocks):
        attention, layout = tape.attention(block), model.plan.layout(block)
        patches = layout["patches"]
        queries = [name for name in layout if block < model.plan.depth or name in ("cls", "dist")]
        assert tape.tokens(block).shape == (2, patches.start + rows * columns, 32)
        assert set(tape.norms(block)) == set(layout)
        assert tape.norms(block)["patches"].shape == (2, rows, columns)
        for name in queries:
            if name == "patches":
                here = tape.maps(block, of=("patch", rows - 1, 1))
                expected = attention[:, :, patches.start + (rows - 1) * columns + 1, patches]
                torch.testing.assert_close(here, expected.unflatten(-1, (rows, columns)))
                continue
            expected = attention[:, :, layout[name], patches].unflatten(-1, (rows, columns))
            here = tape.maps(block, of=name)
            torch.testing.assert_close(here, expected if name not in ("cls", "dist") else expected.squeeze(2))
            last = layout[name].stop - layout[name].start - 1
            torch.testing.assert_close(tape.maps(block, of=(name, last)), expected[:, :, last])
    assert tape.tokens("input").shape[1] == model.plan.tokens(0) + rows * columns


def test_tokens_are_the_residual_stream():
    model = build()
    with record(model) as tape, torch.no_grad():
        f = model.features(images())
    stream = tape.tokens(3)
    torch.testing.assert_close(model.norm(stream)[:, model.plan.final["patches"]], f.patches)
    torch.testing.assert_close(tape.norms(3)["cls"], stream[:, 0].norm(dim=-1))
    torch.testing.assert_close(tape.tokens("input")[:, :2], repeat(model.tokens["soon"], "n d -> b n d", b=2))


@pytest.mark.parametrize("kind", MODELS)
def test_an_earlier_block_changes_the_map_and_a_later_one_does_not(kind):
    model = MODELS[kind]()
    block = model.plan.blocks - 2
    of = "cls" if "cls" in model.plan.layout(block) else ("patch", 1, 1)

    def look():
        with record(model) as tape, torch.no_grad():
            model(images())
        return tape.maps(block, of=of)

    before = look()
    _randomise(model.blocks[block + 1])
    assert torch.equal(look(), before)
    _randomise(model.blocks[block - 1])
    assert not torch.allclose(look(), before, atol=1e-3)


def _randomise(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()


def test_permuting_patches_with_their_positions_permutes_the_map():
    model, x = build(), images()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    maps = {}
    with record(model) as tape, torch.no_grad():
        model(x)
    maps["before"] = tape.maps(2).flatten(-2)
    patches = rearrange(x, "b c (r p) (s q) -> b (r s) c p q", p=8, q=8)[:, order]
    moved = rearrange(patches, "b (r s) c p q -> b c (r p) (s q)", r=4)
    with torch.no_grad():
        model.positions.copy_(model.positions.flatten(0, 1)[order].unflatten(0, (4, 4)))
    with record(model) as tape, torch.no_grad():
        model(moved)
    torch.testing.assert_close(tape.maps(2).flatten(-2), maps["before"][..., order])


def test_scaling_the_queries_of_one_head_moves_that_head_alone():
    model = build()

    def look():
        with record(model) as tape, torch.no_grad():
            model(images())
        return tape.maps(2)

    before = look()
    with torch.no_grad():
        model.blocks[2].attention.qkv.weight[8:16] *= 3  # head 1 of 4, head_dim 8: its rows of the query part
        model.blocks[2].attention.qkv.bias[8:16] *= 3
    moved = (look() - before).abs().amax(dim=(0, 2, 3))
    assert moved[1] > 1e-3 and moved[[0, 2, 3]].max() == 0


def test_talking_heads_by_hand():
    model = MODELS["cait"]()
    with record(model) as tape, torch.no_grad():
        model(images())
    q, k, core = tape.queries(1), tape.keys(1), model.blocks[1].attention.core
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / 8**0.5
    before = torch.einsum("gh,bhqk->bgqk", core.before.weight, scores) + core.before.bias[:, None, None]
    softmax = before.softmax(-1)
    after = torch.einsum("gh,bhqk->bgqk", core.after.weight, softmax) + core.after.bias[:, None, None]
    torch.testing.assert_close(tape.attention(1, stage="softmax"), softmax)
    torch.testing.assert_close(tape.attention(1), after)
    torch.testing.assert_close(tape.attention(1, stage="softmax").sum(-1), torch.ones(2, 4, 18))
    with torch.no_grad():
        core.after.weight.mul_(2)
    with pytest.raises(ValueError, match="before a step"):
        tape.attention(1)


@pytest.mark.parametrize("kind", MODELS)
def test_under_autocast(kind):
    model = MODELS[kind]()
    with record(model) as tape, torch.no_grad():
        model(images())
        exact = tape.attention(1)
        with torch.autocast("cpu", torch.bfloat16):
            model(images())
            rough = tape.attention(1)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.2
    q, k = tape.queries(1).float(), tape.keys(1).float()
    if kind != "cait":
        torch.testing.assert_close(rough, (q @ k.mT / 8**0.5).softmax(-1))


def test_a_batch_is_its_images_one_by_one():
    model = build()
    with record(model) as tape, torch.no_grad():
        model(images(batch=3))
        together = tape.maps(3)
        model(images(batch=3)[1:2])
        torch.testing.assert_close(tape.maps(3), together[1:2])


def test_a_second_forward_replaces_the_first():
    model = build()
    with record(model) as tape, torch.no_grad():
        model(images())
        model(images(24, 40) + 1)
    assert tape.grid == (3, 5) and tape.maps(3).shape == (2, 4, 3, 5)


@pytest.mark.parametrize("kind", MODELS)
def test_attention_gradient(kind):
    """dL/dO · vᵀ is what autograd gives when the map is a tensor of its own."""
    model = MODELS[kind]()
    with record(model, grad=True) as tape:
        model(images()).square().sum().backward()
    for block in range(model.plan.blocks):
        assert torch.allclose(tape.attention_gradient(block), _by_autograd(model, block), atol=1e-5, rtol=1e-4), block


def test_attention_gradient_under_autocast_is_float32():
    model = build()
    with torch.autocast("cpu", torch.bfloat16), record(model, grad=True) as tape:
        model(images()).float().square().sum().backward()
        inside = tape.attention_gradient(3)
    assert inside.dtype == torch.float32 and torch.equal(inside, tape.attention_gradient(3))


def _by_autograd(model, block):
    """The gradient of the map itself: replace the fused product of one block by map @ v."""
    kept = {}
    core = model.blocks[block].attention.core

    def unfused(module, args, output):
        q, k, v = args
        if hasattr(core, "attention"):
            attention = core.attention(q, k)
        else:
            attention = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        attention.retain_grad()
        kept["map"] = attention
        return attention @ v

    hook = core.register_forward_hook(unfused)
    model.all_queries = True
    model(images()).square().sum().backward()
    model.all_queries = False
    hook.remove()
    return kept["map"].grad


def test_gradients_need_to_be_asked_for():
    model = build()
    with record(model) as tape:
        model(images())
    with pytest.raises(ValueError, match="grad=True"):
        tape.attention_gradient(0)
    with record(model, grad=True) as tape:
        model(images())
    with pytest.raises(ValueError, match="call backward"):
        tape.attention_gradient(0)


@pytest.mark.parametrize(
    "block, of, message",
    [
        (0, "reg", "reg enters at block 1; in block 0 the sequence holds soon, patches"),
        (1, "cls", "cls enters at block 2; in block 1 the sequence holds reg, patches"),
        (3, "late", "late enters at block 2 and leaves at 3; in block 3"),
        (3, "register", "this plan has no register"),
    ],
)
def test_a_token_that_is_not_there_says_where_it_is(block, of, message):
    model = build()
    with record(model) as tape, torch.no_grad():
        model(images())
    with pytest.raises(TokenNotThere, match=message):
        tape.maps(block, of=of)


def test_only_patches():
    model = MODELS["average"]()
    with record(model) as tape, torch.no_grad():
        model(images())
    with pytest.raises(TokenNotThere, match="reg enters at block 1; in block 0 the sequence holds only patches"):
        tape.maps(0, of="reg")


@pytest.mark.parametrize("of", ["reg", ("reg", 0), ("patch", 0, 0)])
def test_in_class_attention_only_the_class_token_attends(of):
    model = MODELS["cait"]()
    with record(model) as tape, torch.no_grad():
        model(images())
    assert tape.maps(2).shape == (2, 4, 4, 4) and tape.attention(2).shape == (2, 4, 1, 20)
    with pytest.raises(TokenNotThere, match="in block 2, class attention, only cls attends"):
        tape.maps(2, of=of)


NO_TOKENS = [3, None, (), b"cls", (1, 2), ("reg", 2.0), ("patch", "a", 1)]


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda tape: tape.maps(4), "there is no block 4: this plan has blocks 0 … 3"),
        (lambda tape: tape.tokens(-1), "there is no block -1"),
        (lambda tape: tape.maps(2, of=("reg", 3)), "reg has tokens 0 … 2, not 3"),
        (lambda tape: tape.maps(2, of=("patch", 4, 0)), r"there is no patch \(4, 0\): the grid has 4 rows"),
        (lambda tape: tape.maps(2, of=("reg", 0, 1)), "reg has tokens 0 … 2, not 0, 1"),
        (lambda tape: tape.maps(2, of="patches"), r'\("patch", row, column\)'),
        *[(lambda tape, of=of: tape.maps(2, of=of), "of is a name, ") for of in NO_TOKENS],
        (lambda tape: tape.attention(2, stage="logits"), "stage is"),
    ],
)
def test_what_cannot_be_asked(ask, message):
    model = build()
    with record(model) as tape, torch.no_grad():
        model(images())
    with pytest.raises(ValueError, match=message):
        ask(tape)


def test_nothing_recorded():
    with record(build()) as tape:
        pass
    with pytest.raises(ValueError, match="inside the with block"):
        tape.maps(2)


def test_hooks_are_gone_also_when_the_body_raises():
    model = build()
    with pytest.raises(RuntimeError, match="on purpose"), record(model, grad=True):
        model(images())
        raise RuntimeError("on purpose")
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert model.all_queries is False


def test_the_logits_are_the_same():
    model = build()
    with torch.no_grad():
        plain = model(images())
        with record(model):
            torch.testing.assert_close(model(images()), plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["moving", "plain", "cait"])
def test_the_last_blocks_shortcut_can_stay(kind):
    model = MODELS[kind]()
    last = model.plan.blocks - 1
    with record(model) as whole, torch.no_grad():
        model(images())
    with record(model, all_queries=False) as tape, torch.no_grad():
        model(images())
    for block in range(model.plan.depth if kind == "cait" else 0, last + 1):
        if "cls" in model.plan.layout(block):
            torch.testing.assert_close(tape.maps(block), whole.maps(block))
    torch.testing.assert_close(tape.attention(last - 1), whole.attention(last - 1))
    for ask in (tape.tokens, tape.norms, tape.queries, tape.attention):
        with pytest.raises(ValueError, match="was recorded for the classifier alone"):
            ask(last)
    with pytest.raises(ValueError, match="for the classifier alone|only cls attends"):
        tape.maps(last, of=("patch", 0, 0))


def test_the_stream_need_not_be_kept():
    model = build()
    with record(model) as whole, torch.no_grad():
        model(images())
    with record(model, stream=False) as tape, torch.no_grad():
        model(images())
    torch.testing.assert_close(tape.attention(3), whole.attention(3))
    for ask in (lambda: tape.tokens(2), lambda: tape.tokens("input"), lambda: tape.norms(2)):
        with pytest.raises(ValueError, match="was not kept"):
            ask()


def test_where_patches_are_read_there_is_no_shortcut():
    model = MODELS["average"]()
    with record(model, all_queries=False) as tape, torch.no_grad():
        model(images())
    assert tape.attention(2).shape == (2, 4, 18, 18)


def test_a_compiled_model_is_refused():
    for compiled in (torch.compile(build()), build()):
        compiled.compile() if not hasattr(compiled, "_orig_mod") else None
        with pytest.raises(ValueError, match="compiled"), record(compiled):
            pass
    inside = build()
    inside.blocks[1] = torch.compile(inside.blocks[1])
    with pytest.raises(ValueError, match="compiled"), record(inside):
        pass
    with pytest.raises(ValueError, match="not a Linear"), record(torch.nn.Linear(1, 1)):
        pass


def test_in_inference_mode():
    with torch.inference_mode():
        model = MODELS["cait"]()
        with record(model) as tape:
            model(images())
        assert tape.attention(1).shape == (2, 4, 18, 18)


def test_ddp_is_seen_through(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(build())
        with record(model, grad=True) as tape:
            F.cross_entropy(model(images()), torch.tensor([0, 1])).backward()
        assert tape.attention_gradient(3).shape == tape.attention(3).shape
    finally:
        torch.distributed.destroy_process_group()


class TestTheLastBlocksOtherRows:
    """Without gradients they are computed when they are asked for, and are what the forward pass would have."""

    KINDS = ("moving", "plain", "cait", "talking", "axial", "mixed")

    @staticmethod
    def build(kind):
        return build(TokenPlan.of(3), talking_heads=True, layer_scale=0.3) if kind == "talking" else MODELS[kind]()

    @staticmethod
    def widths(model):
        """The rows that the core of the last block is called with, one number a call."""
        rows = []
        hook = model.blocks[-1].attention.core.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[2]))
        return rows, hook

    @pytest.mark.parametrize("kind, size", itertools.product(KINDS, SIZES))
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
    def test_they_are_those_of_a_forward_pass_that_computes_every_row(self, kind, size, order):
        model, last = self.build(kind), self.build(kind).plan.blocks - 1
        with record(model) as at_once:  # gradients are on
            model(images(*size))
        with record(model) as tape, torch.no_grad():
            model(images(*size))
        asks = [lambda t: t.tokens(last), lambda t: t.queries(last), lambda t: t.attention(last)]
        for ask in [asks[number] for number in order]:
            torch.testing.assert_close(ask(tape), ask(at_once), atol=2e-6, rtol=1e-5)
        assert torch.equal(tape.tokens(last), tape.tokens(last))
        with record(model) as inside, torch.inference_mode():
            model(images(*size))
            torch.testing.assert_close(inside.tokens(last), at_once.tokens(last), atol=2e-6, rtol=1e-5)
            torch.testing.assert_close(inside.maps(last), at_once.maps(last), atol=2e-6, rtol=1e-5)
            torch.testing.assert_close(inside.attention(last), at_once.attention(last), atol=2e-6, rtol=1e-5)

    def test_they_cost_nothing_where_nobody_asks(self, monkeypatch):
        model, rows = build(), []
        forward = type(model.blocks[-1].attention.core).forward
        monkeypatch.setattr(
            type(model.blocks[-1].attention.core),
            "forward",
            lambda self, q, k, v: rows.append((q.shape[2], k.shape[2])) or forward(self, q, k, v),
        )
        with record(model) as tape, torch.no_grad():
            model(images())
        every = tape.keys(3).shape[2]
        tape.maps(3), tape.maps(3, of="dist"), tape.norms(2), tape.attention(2)
        assert rows[-1] == (2, every) and len(rows) == 4
        tape.norms(3), tape.tokens(3)
        assert rows[4:] == [(every - 2, every)]

    def test_the_logits_are_the_same_to_the_bit(self):
        model = build()
        with torch.no_grad():
            plain = model(images())
            with record(model):
                assert torch.equal(model(images()), plain)

    def test_under_autocast(self):
        model = build()
        tapes = []
        for gradients in (True, False):
            with record(model) as tape, torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(gradients):
                model(images())
            tapes.append(tape)
        at_once, tape = tapes
        assert tape.queries(3).dtype == at_once.queries(3).dtype == torch.bfloat16
        torch.testing.assert_close(tape.queries(3), at_once.queries(3), atol=0.02, rtol=0.02)
        torch.testing.assert_close(tape.tokens(3), at_once.tokens(3), atol=0.05, rtol=0.05)

    @pytest.mark.parametrize("change", ["step", "swap", "data", "mode", "hook"])
    def test_a_block_that_changed_since_is_refused(self, change):
        model = build()
        with record(model) as tape, torch.no_grad():
            model(images())
        before, part = tape.maps(3), model.blocks[-1].mlp.expand
        with torch.no_grad():
            if change == "step":
                part.weight.add_(0.1)
            elif change == "swap":
                part.weight = torch.nn.Parameter(part.weight.clone())
            elif change == "data":
                part.weight.data = part.weight.clone()
        if change == "mode":
            model.train()
        if change == "hook":
            part.register_forward_hook(lambda *_: None)
        for ask in (tape.tokens, tape.norms, tape.queries, tape.attention):
            with pytest.raises(ValueError, match="the last block has changed since"):
                ask(3)
        assert torch.equal(tape.maps(3), before)  # what the classifier reads is kept

    def test_a_change_elsewhere_does_not_matter(self):
        model = build()
        with record(model) as tape, torch.no_grad():
            model(images())
            twin = copy.deepcopy(model)
            with record(twin) as unchanged:
                twin(images())
            expected = unchanged.tokens(3)
            for module in (*model.blocks[:-1], model.patch_embed, model.norm):
                _randomise(module)
        torch.testing.assert_close(tape.tokens(3), expected)

    @pytest.mark.parametrize(
        "reason", ["gradients", "grad=True", "training", "a hook of their own", "inference weights"]
    )
    def test_every_row_is_computed_at_once_where_later_would_be_wrong(self, reason):
        with torch.inference_mode(reason == "inference weights"):
            model = build(drop_path=0.5)
        model.train(reason == "training")
        rows, hook = self.widths(model)
        if reason != "a hook of their own":
            hook.remove()
        with record(model, grad=reason == "grad=True") as tape, torch.set_grad_enabled(reason == "gradients"):
            model(images())
        hook.remove()
        every = tape.keys(3).shape[2]
        assert tape._qk[3][0].shape[2] == every and tape._tokens[3].shape[1] == every
        assert rows == ([every] if reason == "a hook of their own" else [])
        _randomise(model.blocks[-1]) if reason != "inference weights" else None
        assert tape.attention(3).shape == (2, 4, every, every) and tape.tokens(3).shape[1] == every
