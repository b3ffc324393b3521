"""Random token plans and configurations for the property tests."""

from hypothesis import strategies as st

from dtl_lib.config import ViTConfig
from dtl_lib.tokens import Group, TokenPlan

REGISTERS = ("reg", "late", "sink", "memory_2")


@st.composite
def plans(draw, max_depth: int = 12, max_class_blocks: int = 3, max_tokens: int = 5) -> TokenPlan:
    """Every kind of plan there is: no class token, late, leaving, distilled, class attention, in any declared order."""
    depth = draw(st.integers(1, max_depth))
    class_blocks = draw(st.integers(0, max_class_blocks))
    blocks, groups = depth + class_blocks, []
    if class_blocks or draw(st.booleans()):
        enter = draw(st.integers(0, depth if class_blocks else depth - 1))
        groups += [Group(name, 1, enter) for name in ("cls", "dist")[: draw(st.integers(1, 2))]]
    for name in draw(st.lists(st.sampled_from(REGISTERS), unique=True, max_size=3)):
        enter = draw(st.integers(0, blocks - 1))
        leave = draw(st.none() | st.integers(enter + 1, blocks))
        groups.append(Group(name, draw(st.integers(1, max_tokens)), enter, leave))
    return TokenPlan(depth, tuple(draw(st.permutations(groups))), class_blocks)


@st.composite
def configs(draw, max_depth: int = 4) -> ViTConfig:
    """Small configurations of every kind: head, LayerScale, talking heads, positions, size."""
    plan = draw(plans(max_depth=max_depth, max_class_blocks=2, max_tokens=3))
    pool = "cls" if plan.class_blocks else draw(st.sampled_from(("cls", "patches", "attention")))
    if plan.group("cls") is None and pool == "cls":
        pool = "patches"
    heads = draw(st.sampled_from((1, 2, 3)))
    variant = draw(variants(plan, pool)) if draw(st.booleans()) else {}
    return ViTConfig(
        **variant,
        image_size=(4 * draw(st.integers(1, 4)), 4 * draw(st.integers(1, 4))),
        patch_size=4,
        channels=draw(st.sampled_from((1, 3))),
        dim=4 * heads * draw(st.integers(1, 3)),
        depth=plan.depth,
        heads=heads,
        mlp_ratio=draw(st.sampled_from((1.0, 2.5, 4.0))),
        plan=plan,
        classes=draw(st.sampled_from((0, 5))),
        pool=pool,
        norm_after_pool=pool == "patches" and draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        layer_scale=draw(st.sampled_from((None, 1e-5, 0.1))),
        drop_path=draw(st.sampled_from((0.0, 0.2))),
        drop_path_schedule=draw(st.sampled_from(("linear", "uniform"))),
        talking_heads=not {"rotary", "qk_norm"} & set(variant) and draw(st.booleans()),
        positions=draw(st.sampled_from(("learned", "sincos", "none"))),
        position_offset=draw(st.sampled_from((None, 0.1))),
    )


@st.composite
def variants(draw, plan: TokenPlan, pool: str) -> dict:
    """Fields in which a small configuration is no plain ViT."""
    fields = {
        "patch_bias": draw(st.booleans()),
        "patch_norm": draw(st.booleans()),
        "linear_bias": draw(st.booleans()),
        "mlp_scale": draw(st.booleans()),
        "norm_before": draw(st.booleans()),
        "final_norm": draw(st.booleans()),
        "norm": draw(st.sampled_from(("layer", "rms"))),
        "attention_norm": draw(st.booleans()),
        "mlp_norm": draw(st.booleans()),
        "mlp": draw(st.sampled_from(("gelu", "gelu_tanh", "quick_gelu", "swiglu"))),
        "pool_prefix": pool != "cls" and draw(st.booleans()),
    }
    if draw(st.booleans()):
        fields["qk_norm"] = True
    if not plan.class_blocks and (rotary := draw(st.sampled_from((None, "axial", "centred", "mixed")))):
        fields |= {"rotary": rotary, "rotary_temperature": draw(st.sampled_from((10.0, 1e4)))}
        fields["rotary_offset"] = draw(st.sampled_from((0.0, 1.0)))
        fields["rotary_reference"] = None if rotary == "centred" else draw(st.sampled_from((None, (3, 2))))
        if rotary != "mixed":
            fields["rotary_columns_first"], fields["rotary_halves"] = draw(st.booleans()), draw(st.booleans())
    if pool == "attention":
        fields |= {
            "pool_heads": draw(st.sampled_from((None, 1, 2))),
            "pool_mlp_ratio": draw(st.sampled_from((None, 2.0))),
        }
    return fields
