"""Processes that were asked for different things say so at the start."""

import dataclasses

import pytest

from dtl_lib.data import Sets
from dtl_lib.train import Recipe
from dtl_lib.train.distributed.agreement import check_ranks_agree, data_settings
from dtl_lib.train.distributed.errors import RankError
from dtl_lib.train.distributed.processes import Processes
from tests.unit.disturbed import TINY, small_sets


class Two(Processes):
    """Both processes' values are collected, the second's first."""

    def __init__(self, rank: int, sent: list):
        super().__init__()
        self.rank, self.world_size, self.hosts, self.sent = rank, 2, ("one", "two"), sent

    def gather(self, value) -> list:
        if self.world_size == 1:  # while it is made
            return [value]
        self.sent.append(value)
        return self.sent[::-1]


def both(first, second) -> None:
    """Each is (configuration, recipe, images, shard)."""
    sent: list = []
    for rank, (config, recipe, images, shard) in ((1, second), (0, first)):
        of_data = data_settings(Sets(images, images, images))
        check_ranks_agree(Two(rank, sent), {**config.to_dict(), **recipe.to_dict(), "shard": shard, **of_data})


def test_processes_that_differ_are_named_with_host_and_field():
    recipe, images = Recipe(max_steps=4), small_sets().train
    usual = TINY, recipe, images, False
    both(usual, usual)
    fewer = small_sets().train
    fewer.length = 17
    for other, name in (
        ((TINY, dataclasses.replace(recipe, lr=0.5), images, False), "lr 0.5"),
        ((TINY, dataclasses.replace(recipe, seed=3), images, False), "seed 3"),
        ((dataclasses.replace(TINY, mlp_ratio=2), recipe, images, False), "mlp_ratio 2"),
        ((TINY, recipe, fewer, False), "training images 17"),
        ((TINY, recipe, images, True), "shard True"),
    ):
        with pytest.raises(
            RankError, match=f"^process 1 of 2 on two has {name} and process 0 on one .*: start all with"
        ):
            both(usual, other)
