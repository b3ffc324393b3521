"""The configurations that have a name, timm's name where timm has it."""

from dataclasses import replace

from .config import HALF, IMAGENET_MEAN, IMAGENET_STD, ViTConfig
from .tokens import TokenPlan

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def table() -> dict[str, ViTConfig]:
    """Every named configuration."""
    return {**_plain(), **_variants()}


def _plain() -> dict[str, ViTConfig]:
    sizes = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
    table = {}
    for size, (dim, heads) in sizes.items():
        vit = ViTConfig(dim=dim, heads=heads, mean=HALF, std=HALF)
        deit = replace(vit, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        table[f"vit_{size}_patch16_224"] = vit
        table[f"deit_{size}_patch16_224"] = deit
        table[f"deit_{size}_distilled_patch16_224"] = replace(deit, plan=TokenPlan.of(12, dist=True))
    for size, dim, depth, heads in (
        ("small", 384, 12, 6), ("medium", 512, 12, 8), ("base", 768, 12, 12), ("large", 1024, 24, 16),
    ):  # fmt: skip
        table[f"deit3_{size}_patch16_224"] = ViTConfig(dim=dim, depth=depth, heads=heads, layer_scale=1e-6)
    for size, dim, depth, heads in (("small", 384, 12, 6), ("base", 768, 12, 12), ("large", 1024, 24, 16)):
        dinov2 = ViTConfig(518, 14, dim=dim, depth=depth, heads=heads, layer_scale=1e-5, classes=0, crop=1.0)
        table[f"vit_{size}_patch14_dinov2"] = dinov2
        table[f"vit_{size}_patch14_reg4_dinov2"] = replace(dinov2, plan=TokenPlan.of(depth, reg_pos=0, num_reg=4))
    for name, size, dim, depth, heads, scale, drop in _CAIT:
        plan = TokenPlan.of(depth, cls_pos=depth, class_blocks=2)
        config = ViTConfig(size, dim=dim, depth=depth, heads=heads, plan=plan, layer_scale=scale, talking_heads=True)
        table[f"cait_{name}_{size}"] = replace(config, drop_path=drop, drop_path_schedule="uniform", crop=1.0)
    gap = ViTConfig(256, dim=320, depth=14, heads=5, mlp_ratio=5.6, pool="patches", norm_after_pool=True, crop=0.95)
    no_cls = TokenPlan.of(14, cls_pos=None, reg_pos=0, num_reg=4)
    table["vit_little_patch16_reg4_gap_256"] = replace(gap, plan=no_cls, layer_scale=1e-5, mean=HALF, std=HALF)
    table["vit_cifar_patch4_32"] = ViTConfig(32, 4, dim=192, depth=12, heads=3, classes=10, crop=1.0)
    cifar = replace(table["vit_cifar_patch4_32"], drop_path=0.1)
    table["vit_cifar_patch2_32"] = replace(cifar, patch_size=2)
    table["vit_cifar_wide_patch4_32"] = replace(cifar, dim=256, depth=8, heads=4, plan=None)
    table["vit_cifar_small_patch4_32"] = replace(cifar, dim=256, depth=6, heads=4, plan=None, drop_path=0.0)
    table["vit_shapes_patch8_32"] = ViTConfig(32, 8, dim=64, depth=4, heads=4, classes=10, crop=1.0)
    return table


def _variants() -> dict[str, ViTConfig]:
    """What is no plain ViT: CLIP, SigLIP, EVA-02, DINOv3, DINOv2's giant."""
    base = ViTConfig(dim=768, heads=12, norm_before=True, patch_bias=False, norm_eps=1e-5, mean=CLIP_MEAN, std=CLIP_STD)
    table = {
        "vit_base_patch16_clip_224": replace(base, crop=0.95),
        "vit_base_patch32_clip_quickgelu_224": replace(base, patch_size=32, classes=512, mlp="quick_gelu"),
        "vit_base_patch16_siglip_224": ViTConfig(
            dim=768, heads=12, plan=TokenPlan.of(12, cls_pos=None), classes=0, pool="attention", mean=HALF, std=HALF
        ),
        "eva02_tiny_patch14_224": ViTConfig(
            patch_size=14, mlp_ratio=8 / 3, mlp="swiglu", plan=TokenPlan.of(12), classes=0, pool="patches",
            norm_after_pool=True, mean=CLIP_MEAN, std=CLIP_STD, rotary="axial", rotary_reference=(16, 16),
        ),
    }  # fmt: skip
    for size, dim, heads in (("small", 384, 6), ("small_plus", 384, 6), ("base", 768, 12)):
        table[f"vit_{size}_patch16_dinov3"] = ViTConfig(
            256, dim=dim, heads=heads, plan=TokenPlan.of(12, reg_pos=0, num_reg=4), classes=0, pool="patches",
            qkv_bias=False, norm_eps=1e-5, layer_scale=1e-5, positions="none", crop=1.0,
            mlp="swiglu" if size == "small_plus" else "gelu",
            rotary="centred", rotary_temperature=100.0, rotary_halves=True,
        )  # fmt: skip
    giant = ViTConfig(518, 14, dim=1536, depth=40, heads=24, mlp_ratio=8 / 3, layer_scale=1e-5, classes=0, crop=1.0)
    table["vit_giant_patch14_dinov2"] = giant = replace(giant, mlp="swiglu")
    table["vit_giant_patch14_reg4_dinov2"] = replace(giant, plan=TokenPlan.of(40, reg_pos=0, num_reg=4))
    return table


# name, image size, dim, depth, heads, LayerScale, stochastic depth (Going deeper with Image Transformers, table 1)
_CAIT = (
    ("xxs24", 224, 192, 24, 4, 1e-5, 0.05),
    ("xxs24", 384, 192, 24, 4, 1e-5, 0.05),
    ("xxs36", 224, 192, 36, 4, 1e-5, 0.1),
    ("xxs36", 384, 192, 36, 4, 1e-5, 0.1),
    ("xs24", 384, 288, 24, 6, 1e-5, 0.05),
    ("s24", 224, 384, 24, 8, 1e-5, 0.1),
    ("s24", 384, 384, 24, 8, 1e-5, 0.1),
    ("s36", 384, 384, 36, 8, 1e-6, 0.2),
    ("m36", 384, 768, 36, 16, 1e-6, 0.3),
    ("m48", 448, 768, 48, 16, 1e-6, 0.4),
)
