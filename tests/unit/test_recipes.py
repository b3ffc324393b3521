"""What a recipe may say, what it refuses, and what an older card's recipe becomes."""

import json
import shlex

import pytest

from dtl_lib import ledger
from dtl_lib.__main__ import parser
from dtl_lib.cli.parser import hyphenated
from dtl_lib.cli.train import _config, _recipe
from dtl_lib.config import named
from dtl_lib.data.sources import SOURCES, source
from dtl_lib.train import Recipe, recipes

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
        ({"trivial": True, "randaugment": 9}, "trivial and randaugment exclude each other"),
        ({"trivial": True, "three_augment": True}, "trivial and three_augment"),
        ({"randaugment": 9, "three_augment": True}, "choose one"),
    ],
)
def test_a_wrong_recipe_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**wrong)


def asked(line: str, images: str) -> Recipe:
    """The recipe that a command means."""
    return _recipe(parser().parse_args(hyphenated(shlex.split(line)[1:])), images, None)


def test_a_recorded_command_still_means_the_recipe_it_was_recorded_with():
    records = ledger.read("cifar10_minutes")
    assert records
    for record in records:
        assert asked(record.command, "cifar10") == Recipe.from_dict(record.recipe)


@pytest.mark.parametrize("name", [*SOURCES, "hfds/any"])
def test_a_data_set_s_row_names_its_model_and_its_recipe(name):
    row = source(name)
    assert asked("dtl train", name) == recipes()[row.recipe]
    assert _config(parser().parse_args(["train"]), name, None, None) == named(row.model)
    assert ("cifar" in row.model, "shapes" in row.model) == ("cifar" in name, name == "shapes")


def test_recipes_of_papers_say_what_the_papers_say():
    deit, cait, deit3 = (asked(f"dtl train --recipe {name}", "imagenet") for name in ("deit", "cait", "deit3"))
    assert (deit.epochs, deit.batch_size, deit.lr, deit.weight_decay) == (300, 1024, 5e-4 * 1024 / 512, 0.05)
    assert (deit.optimizer, deit.loss, deit.smoothing, deit.clip, deit.repeats) == ("adamw", "ce", 0.1, None, 3)
    assert (deit.randaugment, deit.erase, deit.mixup, deit.cutmix, deit.warmup_epochs) == (9, 0.25, 0.8, 1.0, 5)
    assert {name for name, value in cait.to_dict().items() if value != deit.to_dict()[name]} == {"epochs"}
    assert (deit3.optimizer, deit3.batch_size, deit3.lr, deit3.weight_decay) == ("lamb", 2048, 3e-3, 0.02)
    assert (deit3.loss, deit3.three_augment, deit3.color_jitter, deit3.repeats) == ("bce", True, 0.3, 3)
    assert (deit3.mixup, deit3.cutmix, deit3.erase, deit3.smoothing, deit3.clip) == (0.8, 1.0, 0.0, 0.0, 1.0)


def test_the_learning_rate_is_never_scaled_by_the_batch_size():
    assert asked("dtl train --recipe deit --batch-size 4096", "imagenet").lr == recipes()["deit"].lr


@pytest.mark.parametrize("name", recipes())
def test_a_named_recipe_can_be_had_by_its_name_and_changed(name):
    assert asked(f"dtl train --recipe {name}", "imagenet") == recipes()[name]
    changed = asked(f"dtl train --recipe {name} --lr 0.5 --distill-from regnety_160", "imagenet")
    assert (changed.lr, changed.distill) == (0.5, "hard")
    recipes()[name].augment()


@pytest.mark.parametrize("name", ["vit_cifar_patch2_32", "vit_cifar_wide_patch4_32", "vit_cifar_small_patch4_32"])
def test_models_for_cifar_stay_below_the_size_they_are_compared_at(name):
    assert named(name).cost().parameters < 6.5e6 and named(name).classes == 10


def test_the_recipes_for_a_gpu_augment_where_the_images_are():
    assert not any(recipes()[name].slow_augmentation for name in ("cifar10_full", "cifar10_fast"))
    assert recipes()["deit3"].slow_augmentation


@pytest.mark.parametrize(("name", "evaluations"), [("cifar10_fast", 12), ("cifar10_full", 60)])
def test_the_recipes_for_a_gpu_look_at_the_held_out_images_every_fifth_epoch(name, evaluations):
    recipe = recipes()[name]
    steps, per_epoch = recipe.steps(45_000), recipe.steps_per_epoch(45_000)  # 5,000 of CIFAR's 50,000 are held out
    assert recipe.eval_every == 5 * per_epoch and steps == evaluations * recipe.eval_every
    assert asked(f"dtl train --recipe {name} --eval-every {per_epoch}", "cifar10").eval_every == per_epoch


def test_the_flags_of_deit_s_script_mean_our_fields():
    deits = (
        "dtl train --batch-size 2048 --epochs 800 --opt lamb --lr 3e-3 --weight_decay .02 --warmup-epochs 5 "
        "--min-lr 1e-5 --opt-betas .9 .999 --clip-grad 1.0 --color-jitter .3 --reprob 0.1 --mixup .8 --cutmix 1.0 "
        "--smoothing 0.0 --repeated-aug --ThreeAugment --bce-loss --model-ema-decay .999 --teacher-model regnety_160 "
        "--distillation-type soft --distillation-alpha .1 --distillation-tau 2 --distributed --dist-eval"
    )
    ours = (
        "dtl train --batch-size 2048 --epochs 800 --optimizer lamb --lr 3e-3 --weight-decay .02 --warmup-epochs 5 "
        "--min-lr 1e-5 --betas .9 .999 --clip 1.0 --color-jitter .3 --erase 0.1 --mixup .8 --cutmix 1.0 "
        "--smoothing 0.0 --repeats 3 --three-augment --loss bce --ema .999 --distill-from regnety_160 "
        "--distill soft --distill-weight .1 --distill-temperature 2"
    )
    assert asked(deits, "shapes") == asked(ours, "shapes")
    assert asked(deits, "shapes").optimizer == "lamb" and asked(deits, "shapes").distill_temperature == 2
    assert asked("dtl train --model-ema", "shapes").ema == 0.99996
    size = parser().parse_args(["train", "--input-size", "160", "--drop-path", "0.1", "--finetune", "x"])
    assert (size.image_size, size.drop_path, size.finetune) == (160, 0.1, "x")


def test_a_recipe_prints_as_the_call_that_makes_it():
    assert repr(Recipe()) == "Recipe()"
    assert repr(Recipe(max_steps=8, betas=(0.8, 0.95))) == "Recipe(max_steps=8, betas=(0.8, 0.95))"
    for recipe in (Recipe(epochs=1, max_steps=8), *recipes().values()):
        assert eval(repr(recipe)) == recipe
