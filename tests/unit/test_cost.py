"""The cost model against what PyTorch counts: parameters, multiply–adds, bytes that autograd keeps."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dtl_lib.models import ViT, ViTConfig, configurations, named
from dtl_lib.tokens import Group, TokenPlan
from tests.unit.strategies import configs

SMALL = ViTConfig(image_size=32, patch_size=4, dim=48, depth=4, heads=3, classes=10)
CLASS_ATTENTION = TokenPlan.of(4, cls_pos=4, class_blocks=2)
LEAVING = TokenPlan(4, (Group("cls", 1, 2), Group("reg", 8, 0, 3), Group("end", 3, 1, 4)))
KINDS = {
    "plain": {},
    "wide": {"image_size": (32, 64)},
    "patches": {"pool": "patches"},
    "patches, normalised after": {"pool": "patches", "norm_after_pool": True},
    "patches with registers": {"pool": "patches", "plan": TokenPlan.of(4, cls_pos=None, reg_pos=1, num_reg=4)},
    "distilled": {"plan": TokenPlan.of(4, dist=True)},
    "registers": {"plan": TokenPlan.of(4, reg_pos=0, num_reg=4)},
    "late": {"plan": TokenPlan.of(4, cls_pos=3, reg_pos=2, num_reg=16)},
    "leaving": {"plan": LEAVING},
    "LayerScale": {"layer_scale": 1e-5},
    "no qkv bias": {"qkv_bias": False},
    "sin-cos": {"positions": "sincos"},
    "talking heads": {"talking_heads": True},
    "class attention": {"plan": CLASS_ATTENTION},
    "CaiT": {"plan": CLASS_ATTENTION, "talking_heads": True, "layer_scale": 1e-5},
    "one block": {"depth": 1},
    "no classes": {"classes": 0},
    "odd MLP": {"mlp_ratio": 2.63},
    "CLIP": {"norm_before": True, "patch_bias": False, "mlp": "quick_gelu"},
    "RMSNorm": {"norm": "rms", "qk_norm": True},
    "SwiGLU": {"mlp": "swiglu", "mlp_norm": True, "attention_norm": True, "final_norm": False},
    "SwiGLU alone": {"mlp": "swiglu"},
    "AIMv2": {"mlp": "swiglu", "norm": "rms", "patch_norm": True, "linear_bias": False},
    "LayerScale of attention alone": {"layer_scale": 1e-5, "mlp_scale": False},
    "GELU by tanh": {"mlp": "gelu_tanh", "qk_norm": True},
    "axial": {"rotary": "axial"},
    "centred": {"rotary": "centred", "rotary_halves": True, "positions": "none", "plan": LEAVING},
    "mixed": {"rotary": "mixed", "qk_norm": True},
    "attention pooling": {"pool": "attention", "plan": TokenPlan.of(4, cls_pos=None)},
    "pooling with prefix": {
        "pool": "attention",
        "pool_prefix": True,
        "plan": LEAVING,
        "pool_heads": 4,
        "pool_mlp_ratio": 2.0,
        "mlp": "quick_gelu",
        "norm": "rms",
    },
    "mean with prefix": {"pool": "patches", "pool_prefix": True, "plan": LEAVING},
}


def small(kind: str) -> ViTConfig:
    fields = KINDS[kind]
    return replace(SMALL, **{"plan": None, **fields})


def multiply_adds(config: ViTConfig) -> int:
    """What PyTorch counts in `model(images)`; unfused, as its counter does not know every fused kernel."""
    model, images = ViT(config).eval(), torch.zeros(1, config.channels, *config.image_size)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() // 2


def kept_bytes(config: ViTConfig, batch: int = 32) -> float:
    """Bytes an image of distinct memory that autograd keeps for the backward pass, parameters aside."""
    model, kept = ViT(replace(config, drop_path=0.0)).train(), {}
    own = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]}

    def keep(tensor):
        memory = tensor.untyped_storage()
        kept[memory.data_ptr()] = (memory.nbytes(), tensor)  # the tensor keeps its address from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.randn(batch, config.channels, *config.image_size))
    assert logits.requires_grad
    return sum(size for address, (size, _) in kept.items() if address not in own) / batch


@pytest.mark.parametrize("kind", KINDS)
class TestKinds:
    def test_parameters_exactly(self, kind):
        assert small(kind).cost().parameters == sum(value.numel() for value in ViT(small(kind)).parameters())

    def test_multiply_adds_exactly(self, kind):
        cost = small(kind).cost()
        assert cost.total == multiply_adds(small(kind))
        assert sum(cost.blocks) == cost.total - cost.multiply_adds["patches"] - cost.multiply_adds["head"]

    def test_kept_bytes_to_one_in_a_hundred(self, kind):
        assert small(kind).cost().activation_bytes == pytest.approx(kept_bytes(small(kind)), rel=0.01)


@settings(max_examples=60, deadline=None)
@given(configs())
def test_random_configurations(config):
    """Exact where it can be; tiny widths leave copies of a few rows that the model of the memory does not follow."""
    cost = config.cost()
    assert cost.parameters == sum(value.numel() for value in ViT(config).parameters())
    assert cost.total == multiply_adds(config)
    assert cost.activation_bytes == pytest.approx(kept_bytes(config), rel=0.08)


@pytest.mark.parametrize("name", sorted(configurations()))
def test_parameters_of_named_configurations(name):
    with torch.device("meta"):
        model = ViT(named(name))
    assert named(name).cost().parameters == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions", "billions"),
    [
        ("vit_tiny_patch16_224", 5.72, 1.26),
        ("deit_small_patch16_224", 22.05, 4.61),
        ("deit3_base_patch16_224", 86.59, 17.58),
        ("cait_xxs24_224", 11.96, 2.53),
    ],
)
def test_as_published(name, millions, billions):
    cost = named(name).cost()
    assert cost.parameters / 1e6 == pytest.approx(millions, rel=0.01)
    full = cost.total + idle_rows(named(name))
    assert full / 1e9 == pytest.approx(billions, rel=0.01)


def idle_rows(config: ViTConfig) -> int:
    """What the last block would cost more if every row asked, as the papers count it."""
    if config.plan.class_blocks:
        return 0
    before, last = config.cost().blocks[-2:]
    return before - last


def test_late_tokens_cost_less_and_by_how_much():
    early, late = (replace(SMALL, plan=TokenPlan.of(4, cls_pos=0, reg_pos=at, num_reg=16)).cost() for at in (0, 2))
    assert early.parameters == late.parameters
    assert late.total < early.total and late.activation_bytes < early.activation_bytes
    assert late.blocks[2:] == early.blocks[2:]
    assert all(a < b for a, b in zip(late.blocks[:2], early.blocks[:2]))
    tokens, dim = 65, 48  # by hand: 16 more rows in qkv, projection and MLP, and (n + 16)² − n² more scores, twice
    more = 12 * 16 * dim**2 + 2 * ((tokens + 16) ** 2 - tokens**2) * dim
    assert early.blocks[0] - late.blocks[0] == more


def test_the_last_block_answers_for_what_the_head_reads():
    cost = SMALL.cost()
    assert cost.blocks[-1] < 0.4 * cost.blocks[0]
    assert replace(SMALL, plan=None, pool="patches").cost().blocks[-1] == pytest.approx(cost.blocks[0], rel=0.05)
