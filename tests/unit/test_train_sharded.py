"""What can be shown in one process of a sharded model; `tests/processes` shards real ones."""

import pytest
import torch

from dtl_lib.train import fit
from dtl_lib.train.distributed.processes import Processes
from dtl_lib.train.evaluation import _pad_batches
from tests.unit.disturbed import RECIPE, TINY, small_sets, tiny
from tests.unit.pretended import pretended_gpu


class Cut(Exception):
    """Here the model would be cut."""


class OneOfTwo(Processes):
    """Looks at the model where it would be copied to the other process, or cut."""

    def __init__(self):
        super().__init__(world_size=2)
        self.places = []

    def gather(self, value):
        return [value, value]

    def wrap(self, objective, device, sharded):
        self.places = [{value.device.type for value in objective.parameters()}, device.type, sharded]
        raise Cut


@pytest.mark.parametrize("shard", [False, True])
def test_a_model_that_is_cut_is_never_whole_on_the_device(shard):
    processes = OneOfTwo()
    with pretended_gpu(), pytest.raises(Cut):
        fit(tiny(), small_sets(), RECIPE, device="cuda", processes=processes, shard=shard)
    assert processes.places == [{"cpu" if shard else "cuda"}, "cuda", shard]


@pytest.mark.parametrize(("images", "made"), [(7, 3), (7, 1), (7, 0), (3, 1), (3, 0), (0, 0)])
def test_every_process_calls_the_model_padded(images, made):
    batches = [(torch.ones(2, 3, 16, 16), torch.ones(2, dtype=torch.int64))] * made
    found = list(_pad_batches(iter(batches), images, 3, TINY))
    assert len(found) == -(-images // 3) and found[:made] == batches
    for x, y in found[made:]:
        assert x.shape == (1, 3, 16, 16) and y.shape == (0,) and y.dtype == torch.int64
