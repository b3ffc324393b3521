"""What `fit` cannot begin with is said before the work, in a sentence; and what a state cannot say of a run."""

import dataclasses

import pytest
import timm
import torch

from dtl_lib import checkpoint
from dtl_lib.models import ViT
from dtl_lib.train import fit, state
from tests.unit.disturbed import RECIPE, TINY, tensors, tiny

SHORT = dataclasses.replace(RECIPE, max_steps=2, warmup_steps=0)


def made(what: str):
    """A model that cannot be trained."""
    model = tiny()
    if what == "nan":
        model.norm.weight.data[0] = float("nan")
    elif what == "meta":
        with torch.device("meta"):
            model = ViT(TINY)
    elif what == "inference":
        with torch.inference_mode():
            model = tiny()
    elif what == "compiled":
        model = torch.compile(model, backend="eager")
    elif what == "inside":
        model = torch.nn.Sequential(model)
    elif what == "timm":
        model = timm.create_model("vit_tiny_patch16_224", depth=1)
    else:
        model = model.to(getattr(torch, what))
    return model


@pytest.mark.parametrize("what, says", [
    ("nan", "norm.weight of the model holds non-finite values"), ("meta", "meta device"),
    ("inference", r"copy\.deepcopy\(model\)"), ("compiled", "compiled=True"), ("inside", "not a Sequential"),
    ("timm", "from_timm makes one"), ("float16", r"is torch\.float16.* give model\.float\(\)"),
    ("bfloat16", "cannot learn"), ("float64", "cannot learn"),
])  # fmt: skip
def test_a_model_that_cannot_learn(sets, tmp_path, what, says):
    with pytest.raises(ValueError, match=says):
        fit(made(what), sets, SHORT, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, value, says", [
    ("checkpoint_every", -1, "checkpoint_every is a whole number, 1 or more"),
    ("checkpoint_every", "x", "checkpoint_every"), ("checkpoint_every", 1.5, "checkpoint_every"),
    ("workers", -1, "workers is a whole number, 0 or more"), ("workers", "x", "workers"), ("workers", 0.5, "workers"),
    ("max_corrupt", "x", "max_corrupt is a number"), ("max_corrupt", None, "max_corrupt"),
    ("output_dir", "", "output_dir is empty"), ("output_dir", " ", "output_dir is empty"),
])  # fmt: skip
def test_an_argument_that_cannot_be(sets, name, value, says):
    with pytest.raises(ValueError, match=says):
        fit(tiny(), sets, SHORT, progress=False, **{name: value})


@pytest.mark.parametrize("recipe", [None, SHORT.to_dict(), "cifar10"])
def test_a_recipe_is_one(sets, recipe):
    with pytest.raises(ValueError, match="fit takes a Recipe"):
        fit(tiny(), sets, recipe, progress=False)


def test_sets_are_all_three(sets):
    with pytest.raises(ValueError, match="fit takes a Sets"):
        fit(tiny(), sets.train, SHORT, progress=False)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_where_there_are_no_gradients(sets, context):
    with context(), pytest.raises(ValueError, match="fit needs gradients"):
        fit(tiny(), sets, SHORT, progress=False)


def test_a_frozen_part_that_is_random_is_said(sets, tmp_path, caplog):
    recipe = dataclasses.replace(SHORT, freeze="backbone")
    model = tiny()
    fit(model, sets, recipe, tmp_path, progress=False)
    assert "first, random values" in caplog.text
    caplog.clear()
    fit(model, sets, recipe, progress=False)  # its weights are trained now
    fit(tiny(), sets, dataclasses.replace(recipe, max_steps=3), tmp_path, progress=False, resume=True)
    assert "random" not in caplog.text


def changed(folder, path: str, say) -> None:
    """A card as somebody has changed it, who took its seal away."""
    weights, card = checkpoint.read(folder / path)
    del card["seal"]
    say(card)
    kind = checkpoint.MODEL if path == checkpoint.BEST else checkpoint.STATE
    checkpoint.write(folder / path, weights, card, kind)
    (folder / state.PREVIOUS).unlink(missing_ok=True)


ACCURACIES = [{"accuracy": "x", "step": 2}, {"accuracy": [1], "step": 2}, {"accuracy": 1e9, "step": 2}, {"step": 2}]
ACCURACIES += [{"accuracy": 0.5, "step": "2"}, {"accuracy": 10**400, "step": 2}]


@pytest.mark.parametrize("best", ACCURACIES)
def test_a_best_that_cannot_be_is_refused(sets, tmp_path, best):
    fit(tiny(), sets, SHORT, tmp_path, progress=False)
    changed(tmp_path, state.NAME, lambda card: card["progress"].update(best=best))
    with pytest.raises(checkpoint.CheckpointError, match="its card has been changed .(accuracy|step) is"):
        fit(tiny(), sets, dataclasses.replace(SHORT, max_steps=3), tmp_path, progress=False, resume=True)


@pytest.mark.parametrize("held_out", ACCURACIES)
def test_best_weights_whose_card_says_what_cannot_be_are_replaced(sets, tmp_path, caplog, held_out):
    fit(tiny(), sets, SHORT, tmp_path, progress=False)
    changed(tmp_path, checkpoint.BEST, lambda card: card.update(held_out=held_out))
    fit(tiny(), sets, dataclasses.replace(SHORT, max_steps=3), tmp_path, progress=False, resume=True)
    assert "has an impossible held-out result" in caplog.text and tensors(tmp_path, checkpoint.BEST)


@pytest.mark.parametrize(
    "progress, says", [({"step": 10**15}, "state of step"), ({"untimed": 9}, "untimed is at most")]
)
def test_a_state_beyond_its_run_is_refused(sets, tmp_path, progress, says):
    fit(tiny(), sets, SHORT, tmp_path, progress=False)
    changed(tmp_path, state.NAME, lambda card: card["progress"].update(progress))
    with pytest.raises(checkpoint.CheckpointError, match=says):
        fit(tiny(), sets, dataclasses.replace(SHORT, max_steps=3), tmp_path, progress=False, resume=True)
