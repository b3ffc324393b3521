"""Processes meet, whatever those before them have left in the store."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from dtl_lib.train.meeting import met


@pytest.fixture
def store():
    """A function that gives each process its connection to one store."""
    first = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))
    return lambda: dist.TCPStore("127.0.0.1", first.port, is_master=False, timeout=timedelta(seconds=20))


@pytest.fixture
def start(store):
    """A function that starts a process of three, and gives its future."""
    with ThreadPoolExecutor(16) as pool:
        yield lambda rank, timeout=20.0: pool.submit(met, store(), rank, 3, timeout)


def test_all_get_one_name_and_another_when_they_start_again(start):
    names = [{one.result() for one in [start(rank) for rank in order]} for order in ((0, 1, 2), (2, 1, 0))]
    assert [len(found) for found in names] == [1, 1] and names[0] != names[1]


def test_one_that_comes_early_waits_for_process_0_to_be_started_again(start):
    before = {one.result() for one in [start(rank) for rank in range(3)]}
    early = [start(1), start(2)]  # what process 0 has left there looks like a meeting that is complete
    with pytest.raises(TimeoutError):
        early[0].result(timeout=0.5)
    after = {one.result() for one in [*early, start(0)]}
    assert len(after) == 1 and after != before


def test_one_that_is_lost_before_all_have_come_is_replaced(start):
    waiting, lost = start(0), start(1, 1.0)
    with pytest.raises(RuntimeError):
        lost.result()
    other = start(1)
    time.sleep(0.5)
    assert len({one.result() for one in (waiting, other, start(2))}) == 1


def test_who_is_alone_gives_up(start):
    alone = start(0, 0.3), start(1, 0.3)
    for one, words in zip(alone, ("^2 of 3 did not come$", "^1 came, and process 0 or others did not$"), strict=True):
        with pytest.raises(RuntimeError, match=words):
            one.result()
