"""Configurations: round trips, plans exchanged, and every field that does not fit refused."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings

from dtl_lib.config import ViTConfig, configurations, named
from dtl_lib.tokens import Group, TokenPlan
from tests.unit.strategies import configs, plans

SMALL = {"image_size": 8, "patch_size": 4, "dim": 12, "depth": 2, "heads": 3, "classes": 5}


@settings(max_examples=150, deadline=None)
@given(configs(max_depth=8))
def test_round_trip_through_json(config):
    assert ViTConfig.from_dict(config.to_dict()) == config
    assert ViTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(ViTConfig.from_dict(config.to_dict())) == hash(config)


@pytest.mark.parametrize("name", sorted(configurations()))
def test_named_configurations_round_trip(name):
    config = named(name)
    assert ViTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_from_dict_takes_the_plan_in_every_form():
    config = ViTConfig(**SMALL, plan=TokenPlan.of(2, cls_pos=1, reg_pos=0, num_reg=2))
    values = config.to_dict()
    for plan in (config.plan, config.plan.to_json(), json.loads(config.plan.to_json())):
        assert ViTConfig.from_dict({**values, "plan": plan}) == config
    assert ViTConfig.from_dict(SMALL) == ViTConfig(**SMALL)


def test_from_dict_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="has no colour, layers; its fields are .*depth.*"):
        ViTConfig.from_dict({**SMALL, "layers": 3, "colour": 1})


def test_a_square_by_one_number():
    assert ViTConfig(**SMALL).image_size == (8, 8)
    assert ViTConfig(**{**SMALL, "image_size": [8, 12]}).grid == (2, 3)


def test_default_plan_follows_the_pool():
    assert ViTConfig(**SMALL).plan == TokenPlan.of(2)
    assert ViTConfig(**SMALL, pool="patches").plan == TokenPlan.of(2, cls_pos=None)


@pytest.mark.parametrize("plan", ["cls", None, {"depth": 2}])
def test_with_what_is_no_plan(plan):
    with pytest.raises(ValueError, match=r"plan is a TokenPlan, such as TokenPlan.of\(2\)"):
        ViTConfig(**SMALL).with_plan(plan)


@settings(max_examples=150, deadline=None)
@given(plans(max_class_blocks=0))
def test_with_plan(plan):
    config = ViTConfig(**SMALL, layer_scale=0.1).with_plan(plan)
    assert config.plan == plan and config.depth == plan.depth
    assert config.pool == ("cls" if plan.group("cls") else "patches")
    same = {"plan": None, "depth": 1, "pool": "patches"}
    assert replace(config, **same) == replace(ViTConfig(**SMALL, layer_scale=0.1), **same)


def test_stochastic_depth_schedules():
    linear = ViTConfig(**{**SMALL, "depth": 5}, drop_path=0.4)
    assert linear.drop_path_rates() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert replace(linear, drop_path_schedule="uniform").drop_path_rates() == [0.4] * 5
    assert ViTConfig(**{**SMALL, "depth": 1}, drop_path=0.4).drop_path_rates() == [0]


CLS_AT_END = TokenPlan.of(2, cls_pos=2, class_blocks=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pool": "mean"}, "pool is one of cls, patches, attention, not 'mean'"),
        ({"positions": "rotary"}, "positions is one of learned, sincos, none, not 'rotary'"),
        ({"drop_path_schedule": "cosine"}, "drop_path_schedule is one of linear, uniform, not 'cosine'"),
        ({"patch_size": 0}, "patch_size is a whole number, 1 or more, not 0"),
        ({"patch_size": 4.0}, "patch_size is a whole number"),
        ({"channels": 0}, "channels is a whole number"),
        ({"dim": "12"}, "dim is a whole number"),
        ({"depth": 0}, "depth is a whole number"),
        ({"heads": -3}, "heads is a whole number"),
        ({"heads": 5}, "12 is not divisible by 5; heads=4 would fit"),
        ({"dim": 7, "heads": 4}, "7 is not divisible by 4; heads=1 would fit"),
        ({"classes": -1}, "classes is a whole number, 0 or more, not -1"),
        ({"classes": 2.5}, "classes is a whole number, 0 or more, not 2.5"),
        ({"drop_path": 1.0}, "from 0 to below 1, not 1.0"),
        ({"drop_path": "a"}, "drop_path is a number, not 'a'"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio is a number, not inf"),
        ({"mlp_ratio": None}, "mlp_ratio is a number, not None"),
        ({"layer_scale": float("nan")}, "layer_scale is a number or none, not nan"),
        ({"norm_eps": "small"}, "norm_eps is a number, not 'small'"),
        ({"position_offset": "x"}, "position_offset is a number or none, not 'x'"),
        ({"crop": "all"}, "crop is a number, not 'all'"),
        ({"classes": True}, "classes is a whole number, 0 .*not True"),
        ({"mean": None}, r"mean is one number a channel, such as .0.5, 0.5, 0.5., not None"),
        ({"std": 0.5}, "std is one number a channel.*not 0.5"),
        ({"drop_path": -0.1}, "from 0 to below 1"),
        ({"mlp_ratio": 0}, "mlp_ratio .*not 0"),
        ({"mlp_ratio": 0.05}, "mlp_ratio .*not 0.05"),
        ({"plan": TokenPlan.of(3)}, "the plan is for 3 blocks and depth is 2: make them agree"),
        ({"plan": {"depth": 2}}, "plan is a TokenPlan"),
        ({"plan": TokenPlan(2)}, 'the plan has none: give cls_pos, or pool="patches"'),
        ({"plan": CLS_AT_END, "pool": "patches"}, 'use pool="cls", or class_blocks=0'),
        ({"norm_after_pool": True}, 'goes with pool="patches"'),
        ({"positions": "sincos", "dim": 6}, "dim divisible by 4, not 6"),
        ({"image_size": 10}, "10×10 does not divide into patches of 4: the nearest that does is 8×8"),
        ({"image_size": (8, 11)}, "8×11 .* is 8×12"),
        ({"image_size": 1}, "1×1 .* is 4×4"),
        ({"image_size": 0}, "0×0 .* is 4×4"),
        ({"image_size": -8}, "-8×-8 .* is 4×4"),
        ({"image_size": (8,)}, "image_size is .*height, width"),
        ({"image_size": (8, 8, 3)}, "image_size is .*height, width"),
        ({"image_size": 8.0}, "image_size is .*height, width"),
        ({"image_size": "8"}, "image_size is .*height, width"),
        ({"image_size": None}, "image_size is .*height, width"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**{**SMALL, **fields})


def test_named():
    assert named("vit_tiny_patch16_224.augreg_in21k_ft_in1k") == named("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="'vit_tiny_patch61_224'; did you mean vit_tiny_patch16_224"):
        named("vit_tiny_patch61_224")
    with pytest.raises(ValueError, match="no configuration is called 'qqq'; did you mean "):
        named("qqq")


def test_a_plan_with_groups_that_leave_is_a_configuration():
    plan = TokenPlan(2, (Group("cls", 1), Group("soon", 2, 0, 1)))
    assert ViTConfig(**SMALL, plan=plan).head_names == ("cls",)
    assert ViTConfig(**SMALL, plan=TokenPlan.of(2, dist=True)).head_names == ("cls", "dist")
    assert ViTConfig(**SMALL, plan=TokenPlan.of(2, dist=True), pool="patches").head_names == ("patches",)
