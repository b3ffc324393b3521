"""Two and four processes make the step that one would make of the whole batch."""

import pytest
import torch

from tests.processes import gradients, launch

LIMITS = {32: 1e-5, 64: 1e-12}  # relative to the largest entry of each gradient


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
    for processes in (1, 2, 4):
        status, out, error = launch.run(processes, launch.ROOT / "tests/processes/gradients.py", folder)
        assert status == 0, out + error
    return folder


def read(folder, name):
    return torch.load(folder / f"{name}.pt", weights_only=True)


@pytest.mark.parametrize("bits", LIMITS)
@pytest.mark.parametrize("kind", gradients.KINDS)
@pytest.mark.parametrize("how", ["copied", "shared"])
@pytest.mark.parametrize("processes", [2, 4])
def test_gradients_are_those_of_one_process(found, processes, how, kind, bits):
    one = read(found, f"1-copied-{kind}-{bits}")
    several = read(found, f"{processes}-{how}-{kind}-{bits}")
    assert one.keys() == several.keys() and len(one) > 30
    for name, value in one.items():
        assert value.abs().max() > 0, name
        assert (several[name] - value).abs().max() <= LIMITS[bits] * value.abs().max(), name


def test_what_is_compared_differs(found):
    plain, mixed = (read(found, f"1-copied-{kind}-64") for kind in ("plain", "mixed"))
    assert all((plain[name] - mixed[name]).abs().max() > 1e-3 * plain[name].abs().max() for name in plain)
