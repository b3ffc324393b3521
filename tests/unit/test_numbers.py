"""A whole number is whatever Python takes for an index, everywhere; a bool is none."""

import json

import numpy as np
import pytest
import torch

from dtl_lib.checks import as_whole, whole
from dtl_lib.config import ViTConfig
from dtl_lib.data.images import size_of
from dtl_lib.lab.bench.estimate import Cluster
from dtl_lib.models import ViT
from dtl_lib.tape import record
from dtl_lib.tokens import Group, TokenPlan
from dtl_lib.train import Recipe


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


KINDS = {
    "int": int, "int64": np.int64, "uint8": np.uint8, "0-d": np.array, "tensor": torch.tensor, "own": Index,
}  # fmt: skip
NONE = [True, np.True_, torch.tensor(True), 3.0, np.float64(3), "3", None, [3], np.array([3, 3]), torch.tensor(3.0)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_whole_number_is(kind):
    value = as_whole(KINDS[kind](3))
    assert value == 3 and type(value) is int
    assert whole("depth", KINDS[kind](3)) == 3
    with pytest.raises(ValueError, match="depth is a whole number, 4 or more, not"):
        whole("depth", KINDS[kind](3), 4)


@pytest.mark.parametrize("value", NONE, ids=repr)
def test_what_is_none(value):
    assert as_whole(value) is None
    with pytest.raises(ValueError, match="depth is a whole number, 1 or more"):
        whole("depth", value)


@pytest.mark.parametrize("kind", KINDS)
def test_plans_are_those_of_ints(kind):
    n = KINDS[kind]
    plan = TokenPlan.of(n(12), cls_pos=n(3), reg_pos=n(1), num_reg=n(4), class_blocks=n(2))
    same = TokenPlan.of(12, cls_pos=3, reg_pos=1, num_reg=4, class_blocks=2)
    assert plan == same and hash(plan) == hash(same) and plan.to_json() == same.to_json()
    assert plan.layout(n(3)) == same.layout(3) and plan.tokens(n(3)) == 5
    assert TokenPlan(n(4), (Group("late", n(2), n(1), n(3)),)) == TokenPlan(4, (Group("late", 2, 1, 3),))


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "1"], ids=repr)
def test_plans_refuse_what_is_none(value):
    for options in ({"cls_pos": value}, {"reg_pos": value, "num_reg": 4}, {"num_reg": value, "reg_pos": 0}):
        with pytest.raises(ValueError, match="is a whole number, "):
            TokenPlan.of(4, **options)
    with pytest.raises(ValueError, match="there is no block"):
        TokenPlan.of(4).layout(value)


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_and_recipes_are_those_of_ints(kind):
    n = KINDS[kind]
    config = ViTConfig((n(32), n(16)), n(8), n(3), dim=n(24), depth=n(2), heads=n(3), classes=n(5))
    assert config == ViTConfig((32, 16), 8, 3, dim=24, depth=2, heads=3, classes=5)
    assert ViTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert ViTConfig(n(32)).image_size == (32, 32) and size_of(n(32)) == size_of((n(32), 32)) == (32, 32)
    recipe = Recipe(max_steps=n(7), batch_size=n(8), seed=n(3), repeats=n(2))
    assert recipe == Recipe(max_steps=7, batch_size=8, seed=3, repeats=2)
    assert json.dumps(recipe.to_dict())
    assert Cluster(gpus_per_host=n(4)).gpus_per_host == 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_tape_takes_them_for_blocks_tokens_and_patches(kind):
    n = KINDS[kind]
    torch.manual_seed(0)
    model = ViT(ViTConfig(16, 8, dim=8, depth=3, heads=2, plan=TokenPlan.of(3, 0, 0, 2), classes=2)).eval()
    with record(model) as tape, torch.no_grad():
        model(torch.randn(1, 3, 16, 16))
    for of, same in (("cls", "cls"), (("reg", n(1)), ("reg", 1)), (("patch", n(1), n(0)), ("patch", 1, 0))):
        assert torch.equal(tape.maps(n(1), of), tape.maps(1, same))
    assert torch.equal(tape.tokens(n(2)), tape.tokens(2)) and torch.equal(tape.keys(n(0)), tape.keys(0))
    for wrong in (True, np.True_, 1.0, 3, n(3)):
        with pytest.raises(ValueError, match="there is no block"):
            tape.maps(wrong)
    with pytest.raises(ValueError, match="of is a name"):
        tape.maps(1, ("reg", True))


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.float16(0.5), 0.5])
def test_numbers_are_stored_as_python_s(value):
    config = ViTConfig(drop_path=value, mean=(value,) * 3, std=(value, 1, np.int64(2)))
    assert config == ViTConfig(drop_path=0.5, mean=(0.5,) * 3, std=(0.5, 1, 2))
    assert json.dumps(config.to_dict()) and json.dumps(Recipe(lr=value).to_dict())


@pytest.mark.parametrize("name", ["patch", "patches", "reg 1", ""])
def test_names_that_the_tape_needs_are_no_group_s(name):
    with pytest.raises(ValueError, match="cannot name a group"):
        TokenPlan(2, (Group(name, 1),))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"mean": (0.5, float("nan"), 0.5)}, "mean is numbers"),
        ({"mean": (0.5, "0.5", 0.5)}, "mean is numbers"),
        ({"mean": (0.5, True, 0.5)}, "mean is numbers"),
        ({"std": (0.5, 0, 0.5)}, "std is one number a channel, above 0"),
        ({"std": (0.5, -0.1, 0.5)}, "std is one number a channel, above 0"),
        ({"std": (0.5, float("inf"), 0.5)}, "std is (at most|numbers)"),
        ({"norm_eps": -1e-6}, "norm_eps is a small number above 0"),
        ({"norm_eps": 0}, "norm_eps is a small number above 0"),
        ({"norm_eps": float("nan")}, "norm_eps is a number"),
        ({"crop": 0}, "crop is the fraction"),
        ({"crop": 1.5}, "crop is the fraction"),
    ],
)
def test_values_with_which_nothing_is_right(options, said):
    with pytest.raises(ValueError, match=said):
        ViTConfig(**options)
