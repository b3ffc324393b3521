"""An atlas of seconds: 2 × 2 places and two seeds, on few shapes."""

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dtl_lib.config import ViTConfig
from dtl_lib.data.shapes import generator as shapes
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas.train_cell import train_cell
from dtl_lib.train import Recipe
from tests.unit.disturbed import small_sets

CONFIG = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=10, mean=shapes.MEAN, std=shapes.STD)
RECIPE = Recipe(max_steps=2, batch_size=16, flip=True, eval_every=2, log_every=1)


@dataclass(frozen=True)
class Tiny(atlas.Grid):
    """Args: as `Grid`'s.

    trouble: what a worker meets when it reads the data: "killed", words to raise, or a file's path: the worker that
        makes that file goes on, any other hangs.
    """

    trouble: str = ""

    def sets(self):
        """96 pictures to train on, 40 to look at."""
        if self.trouble and multiprocessing.parent_process() is not None:
            self._meet()
        return small_sets()

    def _meet(self) -> None:
        if self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.trouble.startswith("/"):
            raise RuntimeError(self.trouble)
        try:
            Path(self.trouble).open("x").close()
        except FileExistsError:
            time.sleep(600)


def tiny(trouble: str = "", **more) -> Tiny:
    """Eight runs on the surface, two in the sweep: one number of registers that is not on the surface."""
    usual = dict(cls=(0, atlas.POOLING), reg=(None, 1), num_reg=2, sweep=(0, 1, 2), seeds=(0, 1))
    return Tiny("tiny", "shapes", CONFIG, RECIPE, **{**usual, **more}, trouble=trouble)


class Here:
    """What `Workers` is, without processes. Args: as `Workers`'s."""

    steps = 0

    def __init__(self, count, grid, weights, device):
        self.about = weights, device
        self.grid = grid

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def results(self, jobs):
        """One after another."""
        sets = self.grid.sets()
        for job in jobs:
            yield job, train_cell(self.grid, *job, sets, *self.about)[1]
            yield None


def die_after(records: int, folder: str, trouble: str) -> None:
    """Run with two workers, print their process numbers after so many records, and die as by kill -9."""
    for count, _ in enumerate(atlas.run(tiny(trouble), folder, command="none", jobs=2, progress=False), 1):
        if count == records:
            print(*(process.pid for process in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def main() -> None:
    """`die_after` with what is given on the command line."""
    die_after(int(sys.argv[1]), *sys.argv[2:])
