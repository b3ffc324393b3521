"""Our ViT computes timm's function, with every parameter away from its special value."""

import pytest
import timm
import torch

from dtl_lib.config import ViTConfig, named
from dtl_lib.models import ViT
from dtl_lib.pretrained import from_timm
from dtl_lib.tape import record
from dtl_lib.timm_models import _config

CASES = {
    "vit_tiny_patch16_224": ({}, [(224, 224)]),
    "vit_small_patch16_224": ({"dynamic_img_size": True}, [(224, 224), (160, 208)]),
    "vit_base_patch16_224": ({}, [(224, 224)]),
    "vit_small_patch16_224:avg": ({"global_pool": "avg"}, [(224, 224)]),
    "vit_little_patch16_reg4_gap_256": ({}, [(256, 256)]),
    "deit_tiny_distilled_patch16_224": ({}, [(224, 224)]),
    "deit3_small_patch16_224": ({}, [(224, 224)]),
    "vit_small_patch14_dinov2": ({"dynamic_img_size": True, "num_classes": 10}, [(224, 224), (224, 280)]),
    "vit_small_patch14_reg4_dinov2": ({"dynamic_img_size": True, "num_classes": 10}, [(224, 224), (224, 280)]),
    "cait_xxs24_224": ({}, [(224, 224)]),
    "cait_xs24_384": ({}, [(384, 384)]),
}


def perturbed(name: str, **options):
    """A timm model in which no LayerScale, token, norm or bias has the value it starts with."""
    model = timm.create_model(name.split(":")[0], **options).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def error(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", CASES)
def test_logits(name):
    options, sizes = CASES[name]
    theirs = perturbed(name, **options)
    ours = from_timm(theirs)
    for size in sizes:
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            assert error(ours(images), theirs(images)) <= 5e-6
            ours.all_queries = True
            assert error(ours(images), theirs(images)) <= 5e-6
            ours.all_queries = False


def weights_of_v(model, images) -> list[torch.Tensor]:
    """What timm's CaiT multiplies v with, block by block, as its dropout of attention sees it; and its logits."""
    seen, handles = [], []
    for block in (*model.blocks, *model.blocks_token_only):
        block.attn.fused_attn = False  # fused attention has no such matrix
        handles.append(block.attn.attn_drop.register_forward_hook(lambda _, args, out: seen.append(args[0])))
    with torch.inference_mode():
        logits = model(images)
    for handle in handles:
        handle.remove()
    return [*seen, logits]


@pytest.mark.parametrize("name", ["cait_xxs24_224", "cait_xs24_384"])
def test_logits_and_maps_of_cait(name):
    theirs = perturbed(name)
    ours, size = from_timm(theirs), named(name).size
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(4))
    *weights, logits = weights_of_v(theirs, images)
    with torch.inference_mode(), record(ours) as tape:
        assert error(ours(images), logits) <= 5e-6
    assert len(weights) == ours.plan.blocks == 26
    for block, expected in enumerate(weights):
        if block < ours.plan.depth:  # one query a block is enough where there are hundreds
            assert error(tape.attention(block, queries=slice(5, 6)), expected[:, :, 5:6]) <= 5e-6, block
            assert error(tape.maps(block, ("patch", 1, 2)).flatten(2), expected[:, :, size[1] // 16 + 2]) <= 5e-6, block
        else:
            assert error(tape.row(block), expected[:, :, 0]) <= 5e-6, block
            assert error(tape.maps(block).flatten(2), expected[:, :, 0, 1:]) <= 5e-6, block
    softmax = tape.attention(3, "softmax", queries=slice(5, 6))
    assert error(softmax, weights[3][:, :, 5:6]) > 0.1  # the second mixing is not left out


def test_maps_of_cait_see_each_head_and_each_token():
    """The comparison would see two heads exchanged, a missing scale, and patches one place off."""
    theirs = perturbed("cait_xxs24_224")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(4))
    row = weights_of_v(theirs, images)[24][0, :, 0]
    for wrong in (row[[1, 0, 2, 3]], row.roll(1, dims=1), row.sqrt() / row.sqrt().sum(dim=1, keepdim=True)):
        assert error(wrong, row) > 1e-2


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "cait_xxs24_224"])
def test_gradients(name):
    theirs = perturbed(name)
    ours = from_timm(theirs)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    for model in (theirs, ours):
        model(images).square().sum().backward()
    theirs_grad = {name: p.grad for name, p in theirs.named_parameters()}
    ours_grad = {name: p.grad for name, p in ours.named_parameters()}
    positions = theirs_grad["pos_embed"][0]
    assert error(ours_grad["positions"].flatten(0, 1), positions[-196:]) <= 1e-5
    assert error(ours_grad["tokens.cls"], theirs_grad["cls_token"][0]) <= 1e-5
    if "dist" in name:  # folded: the token's gradient is also that of the position it took in
        assert error(ours_grad["tokens.cls"], positions[:1]) <= 1e-5
        assert error(ours_grad["tokens.dist"], theirs_grad["dist_token"][0]) <= 1e-5
        assert error(ours_grad["classifiers.dist.weight"], theirs_grad["head_dist.weight"]) <= 1e-5
    else:
        split = ours_grad["blocks.24.attention.qkv.weight"].chunk(3)
        for ours_part, letter in zip(split, "qkv"):
            assert error(ours_part, theirs_grad[f"blocks_token_only.0.attn.{letter}.weight"]) <= 1e-5
    first = "blocks.0.attention.qkv.weight"
    assert error(ours_grad[first], theirs_grad["blocks.0.attn.qkv.weight"]) <= 1e-5
    assert all(value is not None for value in ours_grad.values())


def test_heads_of_a_distilled_model():
    theirs = perturbed("deit_tiny_distilled_patch16_224")
    theirs.set_distilled_training(True)
    ours = from_timm(theirs)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        for a, b in zip(ours.heads(images), theirs.train()(images)):
            assert error(a, b) <= 5e-6


@pytest.mark.parametrize("name", [n for n in CASES if ":" not in n] + ["deit3_base_patch16_224", "cait_xxs36_384"])
def test_named_configurations_are_timms(name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    for module in theirs.modules():  # a tensor on "meta" has no value to read
        for key in {"gamma", "gamma_1"} & {name for name, _ in module.named_parameters(recurse=False)}:
            setattr(module, key, torch.nn.Parameter(torch.ones(1)))
    read, ours = _config(theirs, hasattr(theirs, "blocks_token_only")).to_dict(), named(name).to_dict()
    for not_in_a_live_model in ("drop_path", "layer_scale"):
        del read[not_in_a_live_model], ours[not_in_a_live_model]
    assert read == ours


@pytest.mark.parametrize(
    "name, part",
    [
        ("vit_base_r26_s32_224", "is made with HybridEmbed"),
        ("vit_base_patch16_rpn_224", "is made with ResPostBlock"),
        ("vit_base_patch16_18x2_224", "is made with ParallelThingsBlock"),
        ("convit_tiny", "not a ConVit"),
        ("xcit_nano_12_p16_224", "not a Xcit"),
        ("samvit_base_patch16", "not a VisionTransformerSAM"),
        ("resnet18", "not a ResNet"),
    ],
)
def test_what_is_not_a_vit_here_is_named(name, part):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(ValueError, match=part):
        from_timm(model)


@pytest.mark.parametrize(
    "options, part",
    [
        ({"act_layer": "relu"}, "an activation that is not GELU, QuickGELU or SwiGLU"),
        ({"embed_norm_layer": timm.layers.RmsNorm}, "a norm of another kind .RmsNorm. than the others"),
        ({"global_pool": "max"}, "'max' pooling"),
    ],
)
def test_a_part_that_would_be_lost_is_named(options, part):
    with torch.device("meta"):
        model = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, **options)
    with pytest.raises(ValueError, match=part):
        from_timm(model)


def test_perturbing_matters():
    """The comparison would see a mistake: a class position not folded in, or a wrong epsilon."""
    theirs = perturbed("vit_tiny_patch16_224")
    ours = from_timm(theirs)
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        reference = theirs(images)
        ours.tokens["cls"] -= theirs.pos_embed[0, :1]
        assert error(ours(images), reference) > 1e-3
        eps = ViT(ViTConfig(norm_eps=1e-3)).eval()
        eps.load_state_dict(from_timm(theirs).state_dict())
        assert error(eps(images), reference) > 1e-5
