"""Every probe of a tape says so in one line where it is given the model."""

import inspect

import pytest

from dtl_lib import ViT, probes

TAKE_A_TAPE = [
    name
    for name in sorted(probes.__all__)
    if inspect.isfunction(getattr(probes, name))
    and next(iter(inspect.signature(getattr(probes, name)).parameters), "") == "tape"
]


def test_there_are_such_probes():
    assert len(TAKE_A_TAPE) >= 12 and "find_outliers" in TAKE_A_TAPE


@pytest.mark.parametrize("name", TAKE_A_TAPE)
def test_a_model_in_place_of_the_tape(name):
    probe = getattr(probes, name)
    needed = [one for one in inspect.signature(probe).parameters.values() if one.default is one.empty][1:]
    with pytest.raises(ValueError, match=r"reads a tape, not a ViT: with record\(model\) as tape: model\(images\)"):
        probe(ViT.build("vit_shapes_patch8_32"), *[0 for one in needed if one.kind is not one.VAR_KEYWORD])
