"""Values of the wrong type, or too large for any machine, are refused by name wherever they come from."""

import json

import numpy as np
import pytest

from dtl_lib import ledger
from dtl_lib.config import ViTConfig
from dtl_lib.ledger import Record
from dtl_lib.tokens import MAX_BLOCKS, MAX_TOKENS, Group, TokenPlan
from dtl_lib.train import Recipe
from dtl_lib.train.state import TrainState

DEEP = "deep"
for _ in range(2_000):
    DEEP = [DEEP]
WRONG = ["0.1", None, [1], {"a": 1}, True, 10**400, float("nan"), 1e300, DEEP, b"1", object()]


@pytest.mark.parametrize("value", WRONG, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["lr", "smoothing", "weight_decay", "warmup_epochs", "batch_size", "seed", "repeats"])
def test_a_recipe_names_the_field(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        Recipe(max_steps=1, **{name: value})


@pytest.mark.parametrize("name", ["loss", "optimizer", "amp", "flip", "trivial", "betas", "distill_from"])
@pytest.mark.parametrize("value", [0.5, [1], {"a": 1}, 10**400, DEEP], ids=lambda value: type(value).__name__)
def test_a_recipe_names_a_field_that_is_no_number(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        Recipe(max_steps=1, **{name: value})


@pytest.mark.parametrize("value", WRONG, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["dim", "heads", "mlp_ratio", "norm_eps", "crop", "image_size", "patch_size"])
def test_a_configuration_names_the_field(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        ViTConfig(**{name: value})


@pytest.mark.parametrize("name", ["pool", "positions", "talking_heads", "qkv_bias", "interpolation"])
@pytest.mark.parametrize("value", [0.5, [1], {"a": 1}, 10**400, DEEP], ids=lambda value: type(value).__name__)
def test_a_configuration_names_a_field_that_is_no_number(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        ViTConfig(**{name: value})


@pytest.mark.parametrize("name", ["step", "seconds", "untimed", "skipped", "losses", "counted", "best", "unevaluated"])
@pytest.mark.parametrize("value", ["1", None, 10**400, float("nan"), -1, DEEP], ids=lambda value: type(value).__name__)
def test_progress_names_the_field(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        TrainState(**{name: value})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"depth": MAX_BLOCKS + 1}, "depth is a whole number, at most 1,000"),
        ({"depth": 10**23}, "depth is a whole number, at most 1,000"),
        ({"dim": 2**17, "heads": 1}, "dim is a whole number, at most 65,536"),
        ({"classes": 10**8}, "classes is a whole number, at most 10,000,000"),
        ({"mlp_ratio": 1e6}, "mlp_ratio is the MLP's width over dim"),
        ({"image_size": 16 * 10**30}, "image_size is a whole number"),
        ({"image_size": (16, 2**20)}, "an image is at most 65,536 pixels"),
        ({"norm_eps": -1e-6}, "norm_eps is a small number above 0"),
        ({"norm_eps": 0.0}, "norm_eps is a small number above 0"),
        ({"std": (0.5, 0.0, 0.5)}, "std is one number a channel, above 0"),
        ({"std": (0.5, -0.5, 0.5)}, "std is one number a channel, above 0"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean is numbers"),
        ({"mean": (0.5, 0.5)}, "mean is one number a channel"),
        ({"std": (0.5,) * 4}, "std is one number a channel"),
        ({"layer_scale": 1e300}, "layer_scale is at most 1,000,000,000,000, not 1e"),
    ],
)
def test_a_configuration_has_limits(fields, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        ViTConfig(**fields)


def test_a_plan_has_limits():
    for build in (
        lambda: TokenPlan(MAX_BLOCKS + 1),
        lambda: TokenPlan.of(12, class_blocks=10**8),
        lambda: TokenPlan(12, (Group("reg", MAX_TOKENS + 1),)),
        lambda: TokenPlan(10**5000),
    ):
        with pytest.raises(ValueError, match="is a whole number, at most"):
            build()


def test_whole_numbers_of_numpy_are_whole_numbers():
    config = ViTConfig(image_size=np.int64(32), patch_size=np.int32(8), dim=np.int64(64), heads=np.uint8(4))
    assert config == ViTConfig(image_size=32, patch_size=8, dim=64, heads=4)
    assert type(config.dim) is int and type(config.size[0]) is int
    plan = TokenPlan.of(np.int64(4), cls_pos=np.int64(3), reg_pos=np.int32(1), num_reg=np.uint8(2))
    assert plan == TokenPlan.of(4, cls_pos=3, reg_pos=1, num_reg=2) and type(plan.groups[0].enter) is int
    assert TokenPlan.from_json(plan.to_json()) == plan and plan.layout(np.int64(2)) == plan.layout(2)
    recipe = Recipe(max_steps=np.int64(3), lr=np.float32(0.5))
    assert (type(recipe.max_steps), type(recipe.lr), recipe) == (int, float, Recipe(max_steps=3, lr=0.5))


@pytest.mark.parametrize("values", [None, 5, "recipe", [1, 2], {"lr": {}}, {"no_such": 1}], ids=repr)
@pytest.mark.parametrize("kind", [Recipe, ViTConfig])
def test_what_is_no_dictionary_of_fields_is_refused(kind, values):
    with pytest.raises(ValueError, match="dictionary|has no|lr is"):
        kind.from_dict(values)


RECORD = {
    "experiment": "some", "what": "this", "command": "dtl", "date": "2026-01-31T12:00:00+00:00", "device": "CPU",
    "library": "1", "torch": "2", "seed": 0, "n": 1, "values": {"a": 1.0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 10**400), ("n", 0), ("n", True), ("seed", 10**400), ("seed", 0.5), ("values", {"a": 10**400}),
        ("values", {"a": [1, 10**400]}), ("values", {"a": float("nan")}), ("values", [1]), ("recipe", [1]),
        ("config", "vit"), ("what", "two\nlines"), ("command", "a bell \a"), ("device", "\x1b[2J"), ("what", 5),
    ],
)  # fmt: skip
def test_a_record_names_the_field(name, value):
    with pytest.raises(ValueError, match=f"^{name}[. ]"):
        Record.from_dict({**RECORD, name: value})


@pytest.mark.parametrize("line", ["5", "null", "[1]", '"text"', '{"a":' + "[" * 100_000, '{"n": 1' + "0" * 5000 + "}"])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    (tmp_path / "some.jsonl").write_text(json.dumps(RECORD) + "\n" + line + "\n")
    with pytest.raises(ValueError, match="some.jsonl, line 2: "):
        ledger.read("some", tmp_path)
