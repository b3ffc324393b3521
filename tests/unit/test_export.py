"""`torch.export` takes a model with a batch of any size: what is exported computes the same at another one."""

import io

import pytest
import torch
from torch.export import Dim, export

from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tokens import Group, TokenPlan

MODELS = {
    "class token": (TokenPlan.of(2), {}),
    "all sorts": (TokenPlan(3, (Group("cls", 1, 1), Group("dist", 1, 1), Group("reg", 2, 0, 2))), {"layer_scale": 0.1}),
    "average": (TokenPlan.of(2, cls_pos=None, reg_pos=1, num_reg=2), {"pool": "patches", "norm_after_pool": True}),
    "cait": (TokenPlan.of(2, cls_pos=2, class_blocks=1), {"talking_heads": True, "layer_scale": 0.1}),
    "rotary": (TokenPlan.of(2, cls_pos=1, reg_pos=0, num_reg=2), {"rotary": "axial", "qk_norm": True, "mlp": "swiglu"}),
    "mixed": (TokenPlan.of(2), {"rotary": "mixed", "norm_before": True, "pool": "attention"}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_with_a_dynamic_batch(kind):
    plan, options = MODELS[kind]
    torch.manual_seed(0)
    model = ViT(ViTConfig(16, 8, dim=16, depth=plan.depth, heads=2, plan=plan, classes=4, **options)).eval()
    program = export(model, (torch.randn(2, 3, 16, 16),), dynamic_shapes={"images": {0: Dim("batch")}})
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    exported = torch.export.load(file).module()
    for batch in (1, 2, 7):
        images = torch.randn(batch, 3, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(exported(images), model(images))
