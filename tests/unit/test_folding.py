"""LayerScale folded into the weights: the same function, another model."""

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dtl_lib import checkpoint, fold_layer_scale, named
from dtl_lib.config import ViTConfig
from dtl_lib.layers import LayerScale
from dtl_lib.models import ViT
from dtl_lib.stored.probes import ORIGINS, pretrained
from dtl_lib.tokens import TokenPlan

SMALL = ViTConfig(16, 4, dim=24, depth=3, heads=3, classes=7, layer_scale=0.1)
CAIT = TokenPlan.of(3, cls_pos=3, reg_pos=1, num_reg=2, class_blocks=2)
CONFIGS = {
    "plain": SMALL,
    "CaiT with registers": replace(SMALL, plan=CAIT, talking_heads=True),
    "two heads": replace(SMALL, plan=TokenPlan.of(3, dist=True)),
    "no class token": replace(SMALL, plan=None, pool="patches", norm_after_pool=True),
    "SwiGLU, norms inside": replace(SMALL, mlp="swiglu", mlp_norm=True, attention_norm=True, qk_norm=True, norm="rms"),
    "no biases": replace(SMALL, linear_bias=False, qkv_bias=False, patch_bias=False),
    "attention's branch alone": replace(SMALL, mlp_scale=False),
    "rotary": replace(SMALL, rotary="axial"),
    "features alone": replace(SMALL, classes=0),
    "no LayerScale": replace(SMALL, layer_scale=None),
}
NAMED = ["deit3_small_patch16_224", "vit_small_patch14_dinov2", "cait_xxs24_224"]


def perturbed(config: ViTConfig) -> ViT:
    """Factors of every size and sign, biases that are not 0."""
    torch.manual_seed(0)
    model = ViT(config).eval()
    with torch.no_grad():
        for part in model.modules():
            for value in part.parameters(recurse=False):
                value.copy_(torch.randn_like(value)) if isinstance(part, LayerScale) else value.add_(
                    0.05 * torch.randn_like(value)
                )
    return model


def alike(model: ViT, folded: ViT, images) -> bool:
    """Whether folded is as near the exact function as the model itself, to 1e-6."""
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(images.double())
        own, other = ((one(images).double() - exact).norm() / exact.norm() for one in (model, folded))
    return bool(other <= own + (1e-6 if images.dtype == torch.float32 else 1e-12))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_same_function_and_the_given_model_as_it_was(config):
    model, images = perturbed(config), torch.randn(2, 3, 16, 16)
    before = copy.deepcopy(model.state_dict())
    folded = fold_layer_scale(model)
    assert alike(model, folded, images)
    assert alike(model.double(), fold_layer_scale(model), images.double())
    assert all(torch.equal(value.float(), before[name]) for name, value in model.state_dict().items())
    assert model.config == config and folded.config == replace(config, layer_scale=None, mlp_scale=True)
    assert not any(isinstance(part, LayerScale) for part in folded.modules())
    assert list(folded.state_dict()) == list(ViT(folded.config).state_dict())
    assert not {part.data_ptr() for part in folded.parameters()} & {part.data_ptr() for part in model.parameters()}


@pytest.mark.parametrize("name", NAMED)
def test_named_models(name):
    whole = named(name)
    plan = TokenPlan.of(2, cls_pos=2, class_blocks=2) if whole.plan.class_blocks else TokenPlan.of(2)
    config = replace(whole, image_size=4 * whole.patch_size, depth=2, plan=plan, classes=10)
    assert config.layer_scale is not None
    model = perturbed(config)
    assert alike(model, fold_layer_scale(model), torch.randn(1, 3, *config.size))


def test_each_factor_counts():
    model, images = perturbed(SMALL), torch.randn(1, 3, 16, 16)
    folded = fold_layer_scale(model)
    for block in model.blocks:
        for scale in (block.scale1, block.scale2):
            with torch.no_grad():
                scale.factor[3] *= 2
            assert not alike(model, folded, images)
            with torch.no_grad():
                scale.factor[3] /= 2
    assert alike(model, folded, images)


def test_fewer_parameters_and_a_checkpoint(tmp_path):
    model = perturbed(SMALL)
    folded, images = fold_layer_scale(model), torch.randn(1, 3, 16, 16)
    fewer = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in folded.parameters())
    assert fewer == 2 * 3 * 24 == model.config.cost().parameters - folded.config.cost().parameters
    again = checkpoint.load_model(checkpoint.save_model(tmp_path / "folded.safetensors", folded)).eval()
    assert alike(folded, again, images)


def test_one_factor_a_branch_and_half_precision():
    model, images = perturbed(SMALL), torch.randn(1, 3, 16, 16)
    for block in model.blocks:
        block.scale1, block.scale2 = LayerScale(1, -0.7), LayerScale(1, 1.3)
    assert alike(model, fold_layer_scale(model), images)
    assert {part.dtype for part in fold_layer_scale(model.bfloat16()).parameters()} == {torch.bfloat16}


def test_what_is_no_vit_is_refused():
    with pytest.raises(ValueError, match="takes a ViT .*not a Sequential"):
        fold_layer_scale(nn.Sequential(ViT(SMALL)))


def test_the_real_vit_small():
    weights = ORIGINS["vit_small_saliency"][0]
    if not (Path(os.environ.get("DTL_DATA", "")) / "weights" / f"{weights}.safetensors").is_file():
        pytest.skip(f"DTL_DATA holds no {weights}")
    model = pretrained(weights).eval()
    assert alike(model, fold_layer_scale(model), torch.randn(1, 3, 224, 224))
