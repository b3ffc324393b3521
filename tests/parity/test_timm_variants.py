"""Our ViT computes timm's function where timm's is no plain ViT: CLIP, SigLIP, EVA-02, DINOv3, PE, and their parts."""

from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
from timm.layers import GluMlp, LayerNorm, RmsNorm, SwiGLU
from timm.models import VisionTransformer
from timm.models.eva import Eva
from torch import nn

from dtl_lib.architectures import _variants
from dtl_lib.config import named
from dtl_lib.pretrained import from_timm
from dtl_lib.tape import record
from dtl_lib.timm_models import _config
from tests.parity.test_timm import error

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 7}
DYNAMIC = {"dynamic_img_size": True}
NAMED = {  # name, options, sizes: depths and sizes small enough for a test, widths as they are
    "vit_base_patch16_clip_224": ({"depth": 2, "num_classes": 10}, [(224, 224)]),
    "vit_base_patch32_clip_quickgelu_224": ({"depth": 2, **DYNAMIC}, [(224, 224), (64, 96)]),
    "vit_base_patch16_siglip_224": ({"depth": 2, "img_size": 96}, [(96, 96)]),
    "eva02_tiny_patch14_224": ({"depth": 4, **DYNAMIC}, [(224, 224), (196, 308), (280, 280)]),
    "eva02_base_patch14_224": ({"depth": 1, "img_size": 56}, [(56, 56)]),
    "eva02_base_patch16_clip_224": ({"depth": 1, "img_size": 64}, [(64, 64)]),
    "vit_small_patch16_dinov3": ({"depth": 3}, [(224, 224), (160, 272)]),
    "vit_small_patch16_dinov3:token": ({"depth": 2, "global_pool": "token"}, [(64, 96)]),
    "vit_small_plus_patch16_dinov3": ({"depth": 2, "num_classes": 10}, [(64, 128), (256, 256)]),
    "vit_tiny_patch16_dinov3_qkvb": ({"depth": 2}, [(48, 64)]),
    "vit_giant_patch14_dinov2": ({"depth": 1, "img_size": 56}, [(56, 56)]),
    "vit_small_patch8_224": ({"depth": 2, **DYNAMIC}, [(224, 224), (40, 64)]),
    "vit_medium_patch16_rope_reg1_gap_256": ({"depth": 2, **DYNAMIC}, [(256, 256), (64, 96)]),
    "vit_small_patch16_rope_224": ({"depth": 2, **DYNAMIC}, [(224, 224), (64, 96)]),
    "vit_small_patch16_rope_mixed_ape_224": ({"depth": 2, **DYNAMIC}, [(224, 224), (64, 96)]),
    "vit_pe_core_tiny_patch16_384": ({"depth": 2, **DYNAMIC}, [(384, 384), (64, 96)]),
    "vit_pe_spatial_tiny_patch16_512": ({"depth": 2, **DYNAMIC}, [(64, 96)]),
    "aimv2_large_patch14_224": ({"depth": 1, "img_size": 56}, [(56, 56)]),
    "vit_base_patch16_sapiens2": ({"depth": 2, "num_kv_heads": 12}, [(64, 96)]),
    "test_vit3": ({}, [(160, 160)]),
    "test_vit4": ({}, [(160, 160)]),
}
PARTS = {
    "queries and keys normalised": (VisionTransformer, {"qk_norm": True}),
    "in EVA too": (Eva, {"qk_norm": True, "use_rot_pos_emb": True}),
    "RMSNorm": (VisionTransformer, {"norm_layer": RmsNorm, "qk_norm": True}),
    "PyTorch's own RMSNorm": (VisionTransformer, {"norm_layer": partial(nn.RMSNorm, eps=1e-5)}),
    "SwiGLU": (VisionTransformer, {"mlp_layer": SwiGLU, "act_layer": nn.SiLU}),
    "SwiGLU, packed": (VisionTransformer, {"mlp_layer": partial(GluMlp, gate_last=False), "act_layer": nn.SiLU}),
    "a norm inside MLP and attention": (VisionTransformer, {"scale_mlp_norm": True, "scale_attn_norm": True}),
    "GELU by tanh": (VisionTransformer, {"act_layer": "gelu_tanh"}),
    "QuickGELU": (VisionTransformer, {"act_layer": "quick_gelu", "pre_norm": True}),
    "no norm at the end": (VisionTransformer, {"final_norm": False}),
    "no bias in projections": (VisionTransformer, {"proj_bias": False}),
    "patches normalised": (VisionTransformer, {"embed_norm_layer": LayerNorm}),
    "no positions": (VisionTransformer, {"pos_embed": "none"}),
    "a mean with prefix": (VisionTransformer, {"global_pool": "avg", "pool_include_prefix": True, "reg_tokens": 2}),
    "attention with prefix": (VisionTransformer, {"global_pool": "map", "pool_include_prefix": True}),
    "attention without": (VisionTransformer, {"global_pool": "map", "class_token": False, "reg_tokens": 3}),
    "positions of patches alone": (VisionTransformer, {"no_embed_class": True, "reg_tokens": 2}),
    "one channel": (VisionTransformer, {"in_chans": 1}),
    "four channels, pixels in 28s": (VisionTransformer, {"in_chans": 4, "img_size": 84, "patch_size": 28}),
    "no classes": (VisionTransformer, {"num_classes": 0, "global_pool": "map"}),
    "rotary without a class token": (Eva, {"use_rot_pos_emb": True, "class_token": False, "num_reg_tokens": 2}),
    "columns first, from 1": (
        Eva,
        {"use_rot_pos_emb": True, "rope_grid_indexing": "xy", "rope_grid_offset": 1.0, "ref_feat_shape": (5, 3)},
    ),
    "rotary by halves": (Eva, {"use_rot_pos_emb": True, "rope_rotate_half": True, "rope_temperature": 100.0}),
    "mixed, rows first": (Eva, {"use_rot_pos_emb": True, "rope_type": "mixed", "attn_type": "rope"}),
    "three linear maps": (Eva, {"qkv_fused": False, "use_rot_pos_emb": True}),
    "three with every bias": (Eva, {"qkv_fused": False, "attn_type": "rope", "use_rot_pos_emb": True}),
    "no bias": (Eva, {"qkv_bias": False, "use_rot_pos_emb": True, "rope_type": "dinov3", "rope_rotate_half": True}),
    "SwiGLU in EVA": (Eva, {"swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "init_values": 0.1}),
    "an image that is not square": (Eva, {"img_size": (32, 56), "use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}),
}


def perturbed(model: nn.Module) -> nn.Module:
    """No parameter has the value it starts with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def compare(ours: nn.Module, theirs: nn.Module, size: tuple[int, int]) -> None:
    """Logits, what the pool gives, and logits where the last block computes every row."""
    images = torch.randn(1, ours.config.channels, *size, generator=torch.Generator().manual_seed(2))
    read = []
    hook = ours.pool.register_forward_hook(lambda _, args, output: read.append(output))
    with torch.inference_mode():
        expected = theirs(images)
        assert error(ours(images), expected) <= 5e-6
        if read and not ours.config.norm_after_pool:
            assert error(read[0], theirs.forward_head(theirs.forward_features(images), pre_logits=True)) <= 5e-6
        hook.remove()
        ours.all_queries = True
        assert error(ours(images), expected) <= 5e-6
        ours.all_queries = False
    assert expected.norm() > 0.01 and bool(read) == (ours.config.pool != "cls")


@pytest.mark.parametrize("name", NAMED)
def test_named_models(name):
    options, sizes = NAMED[name]
    theirs = perturbed(timm.create_model(name.split(":")[0], **options))
    ours = from_timm(theirs)
    for size in sizes:
        compare(ours, theirs, size)


@pytest.mark.parametrize("kind", PARTS)
def test_one_part_at_a_time(kind):
    family, options = PARTS[kind]
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        theirs = perturbed(family(**{**SMALL, **options}))
    compare(from_timm(theirs), theirs, theirs.patch_embed.img_size)


@pytest.mark.parametrize("kind", [kind for kind, (family, _) in PARTS.items() if family is Eva])
def test_at_another_size(kind):
    family, options = PARTS[kind]
    theirs = perturbed(family(**{**SMALL, **options, **DYNAMIC}))
    compare(from_timm(theirs), theirs, (24, 64))


@pytest.mark.parametrize("name", sorted(_variants()))
def test_named_configurations_are_timms(name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    for module in theirs.modules():  # a tensor on "meta" has no value to read
        for key in {"gamma", "gamma_1"} & {name for name, _ in module.named_parameters(recurse=False)}:
            setattr(module, key, nn.Parameter(torch.full((1,), 1e-5)))
    read = replace(_config(theirs, False), layer_scale=named(name).layer_scale)
    assert read == named(name)


def test_weights_are_taken_as_they_are():
    """Fresh ones of ours do not matter: each tensor is one of timm's, or several of them."""
    theirs = perturbed(Eva(**SMALL, swiglu_mlp=True, scale_mlp=True, use_rot_pos_emb=True, init_values=0.1))
    ours, block = from_timm(theirs), theirs.blocks[1]
    assert torch.equal(ours.blocks[1].mlp.expand.weight, torch.cat([block.mlp.fc1_g.weight, block.mlp.fc1_x.weight]))
    assert torch.equal(ours.blocks[1].mlp.contract.norm.weight, block.mlp.norm.weight)
    bias = ours.blocks[1].attention.qkv.bias
    assert torch.equal(bias, torch.cat([block.attn.q_bias, torch.zeros(48), block.attn.v_bias]))
    assert torch.equal(ours.tokens["cls"], theirs.cls_token[0] + theirs.pos_embed[0, :1])


def test_what_keys_gain_is_said(caplog):
    ours = from_timm(Eva(**SMALL, use_rot_pos_emb=True))
    assert "keys get a bias, zero" in caplog.text and "learn whole" not in caplog.text
    assert all(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize("name", ["mixed, rows first", "attention with prefix", "SwiGLU in EVA"])
def test_gradients(name):
    family, options = PARTS[name]
    theirs = perturbed(family(**{**SMALL, **options}))
    ours, images = from_timm(theirs), torch.randn(2, 3, 32, 32)
    for model in (theirs, ours):
        model(images).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert error(ours.blocks[0].norm1.weight.grad, expected["blocks.0.norm1.weight"]) <= 1e-5
    assert error(ours.patch_embed.project.weight.grad, expected["patch_embed.proj.weight"]) <= 1e-5
    if "rope.freqs" in expected:
        grads = torch.stack([block.attention.angles.frequencies.grad for block in ours.blocks], dim=1)
        assert error(grads, expected["rope.freqs"]) <= 1e-5
    if "attn_pool.latent" in expected:
        assert error(ours.pool.query.grad, expected["attn_pool.latent"][0]) <= 1e-5


def test_the_pools_map_is_what_timm_multiplies_values_by():
    theirs = perturbed(VisionTransformer(**SMALL, global_pool="map", class_token=False))
    theirs.attn_pool.fused_attn = False
    seen = []
    ours, images = from_timm(theirs), torch.randn(2, 3, 32, 32)
    theirs.attn_pool.kv.register_forward_hook(lambda _, args, output: seen.append(output))
    with record(ours) as tape, torch.no_grad():
        ours(images)
        theirs(images)
        q = theirs.attn_pool.q(theirs.attn_pool.latent).reshape(1, 1, 3, 16).transpose(1, 2)
        k, _ = seen[0].reshape(2, 16, 2, 3, 16).permute(2, 0, 3, 1, 4)
        expected = (q @ k.transpose(-2, -1) / 4).softmax(dim=-1).reshape(2, 3, 4, 4)
    torch.testing.assert_close(tape.pool_maps(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "name, part",
    [
        ("eva02_enormous_patch14_clip_224", "is made with EvaBlockPostNorm"),
        ("vit_large_patch16_sapiens2", "queries in groups that share keys"),
        ("beit_base_patch16_224", "not a Beit"),
        ("vit_base_patch16_xp_224", "is made with ParallelScalingBlock"),
        ("vit_dwee_patch16_reg1_gap_256", "is made with DiffAttention"),
    ],
)
def test_what_still_cannot_be_is_named(name, part):
    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(ValueError, match=part) as raised:
        from_timm(model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "options, part",
    [
        ({"rope_type": "mrope", "embed_dim": 72}, "rotary positions of another kind"),
        ({"norm_layer": partial(LayerNorm, affine=False)}, "without weight or bias"),
    ],
)
def test_parts_of_eva_that_would_be_lost_are_named(options, part):
    with pytest.raises(ValueError, match=part):
        from_timm(Eva(**{**SMALL, "use_rot_pos_emb": True, **options}))


@pytest.mark.parametrize("kind", ["rotary by halves", "columns first, from 1", "mixed, rows first", "no bias"])
def test_positions_matter(kind):
    """The comparison would see another way to turn queries and keys."""
    family, options = PARTS[kind]
    ours = from_timm(perturbed(family(**{**SMALL, **options})))
    images, places = torch.randn(1, 3, 32, 32), ours.places
    with torch.no_grad():
        before = ours(images)
        for other in (lambda grid: [part.flip(0) for part in places(grid)], lambda grid: [0 * p for p in places(grid)]):
            ours.places = other
            assert error(ours(images), before) > 1e-4
