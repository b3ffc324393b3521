"""What a live timm model is converted to: the same function, or a sentence about the part that differs."""

import copy
import logging
import re
import types

import pytest
import timm
import torch
from torch import nn

from dtl_lib.pretrained import from_timm
from dtl_lib.timm_layers import activation_of

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 7}
DISTILLED = timm.models.deit.VisionTransformerDistilled
VIT, CAIT = timm.models.VisionTransformer, timm.models.cait.Cait


def made(kind=VIT, seed=0, **options):
    """A small timm model away from its initial values."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = kind(**{**SMALL, **options}).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def images(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def same(ours, theirs):
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images()), theirs.eval()(images()), rtol=1e-4, atol=1e-5)


class TestHeads:
    """Most tutorials replace the head of a timm model before they train it."""

    @pytest.mark.parametrize("kind", [VIT, CAIT])
    @pytest.mark.parametrize(
        "head, classes",
        [
            (lambda: nn.Linear(24, 5), 5),
            (lambda: nn.Linear(24, 5, bias=False), 5),
            (lambda: nn.Linear(24, 1), 1),
            (lambda: nn.Identity(), 0),
            (lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(24, 5)), 5),
            (lambda: nn.Sequential(nn.Linear(24, 4, bias=False), nn.Identity()), 4),
            (lambda: nn.Sequential(nn.Dropout(0.1)), 0),
        ],
    )
    def test_a_new_head_converts(self, kind, head, classes):
        model = made(kind)
        model.head = head()
        ours = from_timm(model)
        assert ours.config.classes == classes
        same(ours, model)

    @pytest.mark.parametrize("bias", [True, False])
    def test_both_heads_of_a_distilled_model(self, bias):
        model = made(DISTILLED)
        model.head, model.head_dist = nn.Linear(24, 5, bias=bias), nn.Linear(24, 5)
        ours = from_timm(model)
        same(ours, model)
        assert not torch.allclose(*ours.heads(images()))
        model.head = model.head_dist = nn.Identity()
        same(from_timm(model), model)

    def test_average_pooling(self):
        model = made(global_pool="avg")
        model.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(24, 5))
        same(from_timm(model), model)

    @pytest.mark.parametrize(
        "head, said",
        [
            (lambda: nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 5)), "made of LayerNorm, Linear"),
            (lambda: nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5)), "made of Linear, ReLU, Linear"),
            (lambda: nn.Sequential(nn.Linear(24, 9), nn.Linear(9, 5)), "made of Linear, Linear"),
            (lambda: nn.Linear(48, 5), "do not fit a width of 24"),
            (lambda: nn.Conv1d(24, 5, 1), "made of Conv1d"),
        ],
    )
    def test_a_head_that_is_no_linear_is_named(self, head, said):
        model = made()
        model.head = head()
        with pytest.raises(ValueError, match=said):
            from_timm(model)

    @pytest.mark.parametrize("other", [nn.Linear(24, 4), nn.Identity()])
    def test_heads_that_do_not_fit_each_other(self, other):
        model = made(DISTILLED)
        model.head_dist = other
        with pytest.raises(ValueError, match="or each other: cls Linear"):
            from_timm(model)


def swapped(part, value):
    """A change to one block: the last, as the first was looked at before."""

    def change(model):
        owner, _, name = f"blocks.2.{part}".rpartition(".")
        setattr(model.get_submodule(owner), name, value() if callable(value) and not isinstance(value, type) else value)

    return change


@pytest.mark.parametrize(
    "change, said",
    [
        (swapped("mlp.act", lambda: nn.ReLU()), "an activation that is not GELU, QuickGELU or SwiGLU in block 2"),
        (swapped("mlp.act", lambda: nn.GELU("tanh")), "gelu_tanh in the MLP, where block 0 has gelu in the MLP, in bl"),
        (swapped("attn.num_heads", 2), "2 heads, where block 0 has 3 heads, in block 2"),
        (swapped("norm1.eps", 1e-3), "a norm with eps 0.001, where the others have 1e-06, in block 2"),
        (swapped("norm2", lambda: nn.LayerNorm(24)), "a norm with eps 1e-05"),
        (
            swapped("ls1", lambda: timm.layers.LayerScale(24)),
            "LayerScale.*, where block 0 has 0 LayerScales",
        ),
        (swapped("attn.q_norm", lambda: nn.LayerNorm(8)), "a norm of queries or of keys alone"),
        (swapped("attn.k_norm", lambda: nn.LayerNorm(8, eps=1e-6)), "a norm of queries or of keys alone in block 2"),
        (swapped("norm1", lambda: timm.layers.RmsNorm(24)), "a norm of another kind .RmsNorm. than the others"),
        (swapped("norm1", lambda: nn.BatchNorm1d(24)), "a norm that is neither LayerNorm nor RMSNorm .BatchNorm1d."),
        (swapped("attn.gate", lambda: nn.Linear(24, 24)), "a gate in attention in block 2"),
        (
            swapped("mlp", lambda: timm.layers.Mlp(24, 48)),
            "48 hidden units in the MLP, where block 0 has 96 hidden units in the MLP, in block 2",
        ),
        (
            swapped("mlp", lambda: timm.layers.Mlp(24, 96, norm_layer=timm.layers.LayerNorm)),
            "a norm inside the MLP, where block 0 has no norm inside the MLP, in block 2",
        ),
        (swapped("mlp", lambda: timm.layers.GluMlp(24, 96)), "an activation that is not GELU, QuickGELU or SwiGLU"),
        (swapped("mlp", lambda: timm.layers.GatedMlp(24, 96)), "is made with GatedMlp"),
        (
            swapped("attn.qkv", lambda: nn.Linear(24, 72, bias=False)),
            "no bias of queries and keys, where block 0 has a",
        ),
        (swapped("attn.proj", lambda: nn.Linear(24, 24, bias=False)), "a bias in some of its projections in block 2"),
        (
            swapped("norm1", lambda: nn.LayerNorm(24, eps=1e-6, bias=False)),
            "a LayerNorm without weight or bias in block 2",
        ),
        (
            swapped("norm1", lambda: nn.LayerNorm(24, eps=1e-6, elementwise_affine=False)),
            "a LayerNorm without weight or bias in block 2",
        ),
        (swapped("norm1", lambda: nn.Identity()), "no norm before a branch in block 2"),
        (swapped("attn.fused_attn", False), None),
    ],
)
def test_one_block_unlike_the_others_is_named(change, said):
    model = made()
    change(model)
    if said is None:
        return same(from_timm(model), model)
    for check in (True, False):
        with pytest.raises(ValueError, match=said):
            from_timm(model, check=check)


@pytest.mark.parametrize("block", [0, 1])
def test_class_attention_is_looked_at_block_by_block(block):
    model = made(CAIT)
    same(from_timm(model), model)
    model.blocks_token_only[block].mlp.act = nn.ReLU()
    with pytest.raises(ValueError, match=f"not GELU, QuickGELU or SwiGLU in block {3 + block}"):
        from_timm(model)


class OwnHead(VIT):
    def forward_head(self, x, pre_logits=False):
        return 30 * super().forward_head(x, pre_logits)


class OwnPool(VIT):
    def pool(self, x, pool_type=None):
        return x[:, 1:].amax(dim=1)


class OwnForward(VIT):
    def forward(self, x):
        return super().forward(x).softmax(dim=-1)


class OwnPositions(VIT):
    def _pos_embed(self, x):
        return super()._pos_embed(x).flip(1)


class OwnOutput(VIT):
    def forward(self, x):
        return {"logits": super().forward(x)}


class ZeroHead(VIT):
    """Its own features, which a head of zeros hides."""

    def forward_features(self, x, **more):
        return super().forward_features(x, **more).roll(1, dims=-1)


@pytest.mark.parametrize("kind", [OwnHead, OwnPool, OwnForward, OwnPositions, OwnOutput, ZeroHead])
def test_a_class_that_computes_something_else_is_refused(kind):
    model = made(kind)
    if kind is ZeroHead:
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
    with pytest.raises(ValueError, match=f"this {kind.__name__} computes something else than its parts say"):
        from_timm(model)
    assert from_timm(model, check=False).config.classes == 7


def test_layer_scale_does_not_hide_what_differs():
    class Odd(timm.models.vision_transformer.Block):
        def forward(self, x, **more):
            return x + 2 * self.ls1(self.attn(self.norm1(x))) + self.ls2(self.mlp(self.norm2(x)))

    model = VIT(**SMALL, block_fn=Odd, init_values=1e-9)
    with pytest.raises(ValueError, match="computes something else"):
        from_timm(model)


def test_a_method_put_on_the_model_itself_is_seen():
    model = made()
    model.forward_head = types.MethodType(lambda self, x, pre_logits=False: self.head(x[:, 1]), model)
    with pytest.raises(ValueError, match="computes something else"):
        from_timm(model)


def test_a_class_that_adds_nothing_converts():
    class Same(VIT):
        def forward(self, x):
            return self.forward_head(self.forward_features(x))

    model = made(Same)
    same(from_timm(model), model)


class MAE(VIT):
    """As MAE's fine-tuning code has it: pooling inside of forward_features, and one norm of two."""

    def __init__(self, global_pool, **options):
        super().__init__(**options)
        self.global_pool = global_pool
        if global_pool:
            self.fc_norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
            del self.norm

    def forward_features(self, x, **more):
        x = self.blocks(self._pos_embed(self.patch_embed(x)))
        return self.fc_norm(x[:, 1:].mean(dim=1)) if self.global_pool else self.norm(x)[:, 0]

    def forward_head(self, x, pre_logits=False):
        return self.head(x)


@pytest.mark.parametrize("pool", [True, False])
def test_mae_s_own_class_converts(pool):
    model = made(MAE, global_pool=pool)
    ours = from_timm(model)
    same(ours, model)
    assert ours.config.pool == ("patches" if pool else "cls") and ours.config.norm_after_pool is pool


@pytest.mark.parametrize("name", ["gelu", nn.GELU, timm.layers.get_act_layer("gelu")])
def test_gelu_by_any_name_is_gelu(name):
    model = made(act_layer=name)
    same(from_timm(model), model)


def test_what_gelu_is():
    class Own(nn.Module):
        def forward(self, x):
            return x * (1 + torch.erf(x / 2**0.5)) / 2

    assert activation_of(Own()) == activation_of(nn.GELU()) == "gelu"
    others = nn.GELU("tanh"), timm.layers.QuickGELU(), nn.SiLU(), nn.ReLU(), nn.Identity(), None
    assert [activation_of(other) for other in others] == ["gelu_tanh", "quick_gelu", "silu", None, None, None]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"patch_size": (8, 4)}, "patches of 8×4 pixels, which are not square"),
        ({"patch_size": (4, 8)}, "patches of 4×8 pixels, which are not square"),
        ({"norm_layer": lambda *size, **how: nn.LayerNorm(*size, bias=False)}, "a LayerNorm without weight or bias"),
        (
            {"norm_layer": lambda *size, **how: nn.LayerNorm(*size, elementwise_affine=False)},
            "a LayerNorm without weight or bias",
        ),
    ],
)
def test_what_a_vit_here_does_not_have_is_named(options, said):
    with pytest.raises(ValueError, match=said):
        from_timm(VIT(**{**SMALL, **options}))


def overlapping(model):
    model.patch_embed.proj = nn.Conv2d(3, 24, 9, stride=8, padding=1)


def weight_norm(model):
    nn.utils.parametrizations.weight_norm(model.blocks[1].attn.qkv)


def old_weight_norm(model):
    model.blocks[1].mlp.fc1.register_parameter("weight_g", nn.Parameter(torch.ones(96, 1)))


def own_lora(model):
    class Lora(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.down, self.up = base, nn.Linear(24, 2, bias=False), nn.Linear(2, 72, bias=False)

        def forward(self, x):
            return self.base(x) + self.up(self.down(x))

    model.blocks[1].attn.qkv = Lora(model.blocks[1].attn.qkv)


def loralib(model):
    model.blocks[1].attn.proj.lora_A = nn.Parameter(torch.zeros(2, 24))


def lora_on_the_head(model):
    model.head.lora_A = nn.Parameter(torch.zeros(2, 24))


def a_parameter(model):
    model.temperature = nn.Parameter(torch.ones(()))


def other_positions(model):
    model.pos_embed = nn.Parameter(torch.zeros(1, 20, 24))


def meta(model):
    model.to("meta")


@pytest.mark.parametrize(
    "change, said",
    [
        (overlapping, "patches that overlap or are padded"),
        (weight_norm, "parametrizations.weight.original0, .* in blocks.1.attn.qkv, a ParametrizedLinear"),
        (old_weight_norm, "weight_g in blocks.1.mlp.fc1, a Linear"),
        (own_lora, "a Lora where qkv is a Linear"),
        (loralib, "lora_A in blocks.1.attn.proj, a Linear"),
        (lora_on_the_head, "lora_A in head, a Linear"),
        (a_parameter, "has temperature, which a ViT here does not"),
        (other_positions, "pos_embed has 20 positions, and the model 4×4 patches and 1 tokens beside them"),
        (meta, "is on the meta device, which holds no weights"),
    ],
)
def test_what_was_changed_afterwards_is_named(change, said):
    model = made()
    change(model)
    for check in (True, False):
        with pytest.raises(ValueError, match=said) as error:
            from_timm(model, check=check)
        assert "\n" not in str(error.value)


def test_what_wraps_a_model_says_where_the_model_is():
    with pytest.raises(ValueError, match="not a DataParallel: give the model inside, .module"):
        from_timm(nn.DataParallel(made()))


class TestTheModelIsLeftAlone:
    @pytest.mark.parametrize("training", [True, False])
    def test_nothing_of_it_changes(self, training):
        model = made(drop_rate=0.1).train(training)
        model.blocks[1].eval()
        called = []
        model.register_forward_hook(lambda *_: called.append(1))
        model.blocks[0].register_forward_pre_hook(lambda *_: called.append(1))
        model(images()).sum().backward()
        called.clear()
        before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
        modes = [part.training for part in model.modules()]
        ours = from_timm(model)
        assert torch.equal(state, torch.get_rng_state()) and not called
        assert modes == [part.training for part in model.modules()] and ours.training is training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(torch.equal(value.grad, gradients[name]) for name, value in model.named_parameters())
        assert torch.is_grad_enabled() and len(model._forward_hooks) == 1
        assert all(value.grad is None and value.is_leaf for value in ours.parameters())

    def test_no_memory_is_shared(self):
        model = made()
        theirs = {value.data_ptr() for value in model.parameters()}
        assert not theirs & {value.data_ptr() for value in from_timm(model).parameters()}

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_the_dtype_of_each_weight_is_kept(self, dtype):
        model = made().to(dtype)
        ours = from_timm(model)
        assert {value.dtype for value in ours.parameters()} == {dtype}
        assert torch.equal(ours.blocks[1].mlp.expand.weight, model.blocks[1].mlp.fc1.weight)

    def test_weights_that_are_not_finite_convert_as_they_are(self):
        model = made()
        with torch.no_grad():
            model.blocks[1].mlp.fc1.weight[0, 0] = torch.nan
        assert from_timm(model).blocks[1].mlp.expand.weight[0, 0].isnan()


class TestWhatLearns:
    def test_frozen_parameters_stay_frozen(self):
        model = made()
        for name, value in model.named_parameters():
            value.requires_grad_(name.startswith(("head", "blocks.2.mlp")))
        ours = from_timm(model)
        learning = {name for name, value in ours.named_parameters() if value.requires_grad}
        assert {name.split(".")[0] for name in learning} == {"classifiers", "blocks"}
        assert {name.rpartition(".")[0] for name in learning if name.startswith("blocks")} == {
            "blocks.2.mlp.expand", "blocks.2.mlp.contract",
        }  # fmt: skip

    def test_fixed_positions(self):
        model = made()
        model.pos_embed.requires_grad_(False)
        ours = from_timm(model)
        assert not ours.positions.requires_grad and ours.tokens["cls"].requires_grad

    def test_parts_of_one_tensor(self, caplog):
        model = made(CAIT)
        model.blocks_token_only[0].attn.k.requires_grad_(False)
        with caplog.at_level(logging.WARNING, logger="dtl_lib"):
            ours = from_timm(model)
        assert ours.blocks[3].attention.qkv.weight.requires_grad
        assert "blocks.3.attention.qkv.weight, blocks.3.attention.qkv.bias learn whole" in caplog.text


@pytest.mark.parametrize(
    "options, said",
    [
        ({"drop_rate": 0.1}, "0.1 at head_drop"),
        ({"pos_drop_rate": 0.2}, "0.2 at pos_drop"),
        ({"attn_drop_rate": 0.3}, r"0.3 at blocks.\*.attn.attn_drop"),
        ({"proj_drop_rate": 0.4}, r"0.4 at blocks.\*.mlp.drop1"),
        ({"patch_drop_rate": 0.5}, "0.5 at patch_drop"),
    ],
)
def test_dropout_is_said_to_be_left_out(options, said, caplog):
    with caplog.at_level(logging.WARNING, logger="dtl_lib"):
        from_timm(made())
        assert not caplog.text
        from_timm(made(**options))
    assert "dropout is left out" in caplog.text
    assert re.search(said, caplog.text)


@pytest.mark.parametrize("where", ["", "blocks.1", "head"])
@pytest.mark.parametrize("before", [True, False])
def test_hooks_are_said_to_be_left_out(caplog, where, before):
    """They may change what the model computes; only the parts are converted."""
    model = made()
    part = model.get_submodule(where)
    part.register_forward_pre_hook(lambda *_: None) if before else part.register_forward_hook(lambda *_: None)
    with caplog.at_level(logging.WARNING, logger="dtl_lib"):
        from_timm(model)
    assert f"the hooks of {where or 'the model'} are left out" in caplog.text


def test_stochastic_depth_is_carried_or_said(caplog):
    model = made(drop_path_rate=0.2)
    with caplog.at_level(logging.WARNING, logger="dtl_lib"):
        assert from_timm(model).config.drop_path_rates() == pytest.approx([0, 0.1, 0.2])
        assert not caplog.text
        model.blocks[1].drop_path1.drop_prob = 0.15
        from_timm(model)
    assert "stochastic depth becomes linear, up to 0.2" in caplog.text


@pytest.mark.parametrize("dim, hidden", [(11, 15), (25, 29), (22, 15), (24, 91)])
def test_the_mlp_keeps_its_width(dim, hidden):
    """11 · (15 / 11) is a little less than 15, and `int` cuts it to 14."""
    model = made(embed_dim=dim, num_heads=1)
    for block in model.blocks:
        block.mlp = timm.layers.Mlp(dim, hidden)
    same(from_timm(model), model)
