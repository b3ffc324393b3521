"""Which GPU is this process's own, and whose random numbers are seeded: on GPUs that are only said to be there."""

import pytest
import torch

from dtl_lib.data.keyed import keyed_generators
from dtl_lib.host import find_device
from tests.unit.pretended import pretended_gpu


@pytest.mark.parametrize(("name", "own"), [("cuda:3", ["cuda:3"]), ("cuda", []), (None, []), ("cpu", [])])
def test_a_gpu_with_a_number_becomes_the_process_s_own(name, own, monkeypatch):
    with pretended_gpu():
        chosen = []
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(str(torch.device(device))))
        find_device(name)
        assert chosen == own, "fully_shard, pinned memory and synchronize() all go by the current device"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    def refuse(device):
        raise RuntimeError("CUDA error: invalid device ordinal\nmore")

    with pretended_gpu():
        monkeypatch.setattr(torch.cuda, "set_device", refuse)
        with pytest.raises(ValueError, match="no device 'cuda:9' here .CUDA error: invalid device ordinal."):
            find_device("cuda:9")


@pytest.mark.parametrize("number", [0, 1])
def test_the_generator_that_is_seeded_is_the_one_that_is_put_back(number, monkeypatch):
    """Two GPUs, of which the first is current: the second's numbers too depend on the key alone."""
    generators = torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)
    for module in (torch.cuda, torch.cuda.random):
        monkeypatch.setattr(module, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda.random, "_lazy_call", lambda function, **_: function())
    monkeypatch.setattr(torch.cuda.random, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_generators", generators)

    def drawn(*key):
        with keyed_generators(torch.device("cuda", number), *key):
            return torch.rand(10, generator=generators[number]).tolist()

    before = [generator.get_state() for generator in generators]
    first, second = drawn(0, 1), drawn(0, 2)
    assert first == drawn(0, 1) != second
    assert all(torch.equal(was, now.get_state()) for was, now in zip(before, generators)), "as they were"
