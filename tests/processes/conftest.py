"""For runs that are compared to the last bit."""

import pytest
import torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for runs, and one thread in this process too: sums in another order are other sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path_factory.mktemp("runs")
    torch.set_num_threads(before)
