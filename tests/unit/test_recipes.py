"""What a recipe may say, what it refuses, and what an older card's recipe becomes."""

import json

import pytest

from dtl_lib.train import Recipe

ADDED = (
    "optimizer", "loss", "repeats", "trivial", "distill", "distill_from", "distill_weight", "distill_temperature",
    "on_nan",
)  # fmt: skip


def test_an_older_card_s_recipe_has_the_defaults_of_what_it_lacks():
    before = Recipe(epochs=3, lr=2e-3, ema=0.99)
    card = {name: value for name, value in json.loads(json.dumps(before.to_dict())).items() if name not in ADDED}
    assert Recipe.from_dict(card) == before
    assert Recipe.from_dict(card).to_dict() == before.to_dict()


def test_a_recipe_with_everything_survives_json():
    recipe = Recipe(
        optimizer="lamb", loss="bce", repeats=3, trivial=True, distill="soft", distill_from="zoo/x",
        distill_weight=0.1, distill_temperature=2.0, on_nan="skip",
    )  # fmt: skip
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_a_teacher_alone_means_hard():
    assert Recipe(distill_from="regnety_160").distill == "hard"
    assert Recipe(distill_from="regnety_160", distill="soft").distill == "soft"
    assert Recipe().distill is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer is one of adamw, lamb, not 'sgd'"),
        ({"loss": "mse"}, "loss is one of ce, bce"),
        ({"distill": "warm", "distill_from": "x"}, "distill is one of none, hard, soft"),
        ({"distill": "hard"}, "needs a teacher: give distill_from"),
        ({"distill_weight": 1.5}, "distill_weight is from 0 to 1"),
        ({"distill_temperature": 0.0}, "distill_temperature is above 0"),
        ({"on_nan": "cry"}, "on_nan is one of stop, skip"),
        ({"repeats": 0}, "repeats is 1 or more"),
        ({"repeats": 9, "batch_size": 8}, "more than batch_size=8"),
        ({"trivial": True, "randaugment": 9}, "trivial and randaugment are policies for one place"),
        ({"trivial": True, "three_augment": True}, "trivial and three_augment"),
        ({"randaugment": 9, "three_augment": True}, "choose one"),
    ],
)
def test_a_wrong_recipe_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**wrong)
