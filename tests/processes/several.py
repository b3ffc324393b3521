"""Run under torchrun, or alone: the commands of a file one after the other, in the same processes.

Each line of the file is `dtl train`'s flags. `STOP:20` before them sends SIGTERM to the last process after step 20,
`SPOIL:20` spoils an image of that step, which the first process alone has.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from dtl_lib import train
from dtl_lib.__main__ import parser
from dtl_lib.cli.train import train_model
from dtl_lib.train import Stopped, fit
from dtl_lib.train.distributed.processes import joined
from tests.unit.disturbed import poisoned


def main(path: str) -> None:
    with joined(torch.device("cpu"), 120) as processes:
        for line in Path(path).read_text().splitlines():
            first, *flags = line.split() if line.startswith("S") else ("STOP:0", *line.split())
            what, _, step = first.partition(":")
            disturbed = (
                partial(fit, on_step=partial(ask, int(step), processes)) if what == "STOP" else spoilt(int(step))
            )
            args = parser().parse_args(["train", *flags])
            args.line, args.quiet = " ".join(flags), True
            with patch.object(train, "fit", disturbed):
                try:
                    train_model(args, torch.device("cpu"), processes)
                except Stopped as stopped:
                    print(f"process {processes.rank}: {stopped} ({stopped.status})", flush=True)


def ask(at: int, processes, step: int, loss, model) -> None:
    if step == at and processes.rank == processes.world_size - 1:
        os.kill(os.getpid(), signal.SIGTERM)


def spoilt(step: int):
    """`fit` with such data."""

    def fit_it(model, sets, recipe, *args, **more):
        return fit(model, poisoned(sets, step, recipe=recipe), recipe, *args, **more)

    return fit_it


if __name__ == "__main__":
    main(sys.argv[1])
