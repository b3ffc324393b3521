"""Every probe of a tape says so in one line where it is given the model, or anything else."""

import inspect

import pytest
import torch

from dtl_lib import ViT, probes, record

MODEL = ViT.build("vit_shapes_patch8_32")


def parameters_of(probe) -> list[str]:
    """Those that have to be given."""
    needed = inspect.signature(probe).parameters.values()
    return [one.name for one in needed if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]


TAKE_A_TAPE = [
    name
    for name in sorted(probes.__all__)
    if inspect.isfunction(probe := getattr(probes, name)) and "tape" in parameters_of(probe)
]


def test_there_are_such_probes():
    assert len(TAKE_A_TAPE) >= 15 and {"find_outliers", "logit_lens", "class_map", "features"} <= set(TAKE_A_TAPE)


GIVEN = {"model": MODEL, "images": torch.zeros(1, 3, 32, 32), "nothing": None, "not entered": record(MODEL)}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("name", TAKE_A_TAPE)
def test_something_else_in_place_of_the_tape(name, given):
    places = {"model": MODEL, "tape": given}
    with pytest.raises(ValueError, match=r"reads a tape, not an? \w+: with record\(model\) as tape: model\(images\)"):
        getattr(probes, name)(*[places.get(one, 0) for one in parameters_of(getattr(probes, name))])


@pytest.mark.parametrize("name", [name for name in TAKE_A_TAPE if "model" in parameters_of(getattr(probes, name))])
def test_model_and_tape_exchanged(name):
    with record(MODEL) as tape, torch.no_grad():
        MODEL(torch.zeros(1, 3, 32, 32))
    places = {"model": tape, "tape": MODEL}
    with pytest.raises(ValueError, match="reads a tape, not a ViT"):
        getattr(probes, name)(*[places.get(one, 0) for one in parameters_of(getattr(probes, name))])


def test_running_outliers_take_one():
    with pytest.raises(ValueError, match="reads a tape, not a ViT"):
        probes.RunningOutliers(MODEL.plan.depth).add(MODEL)
