"""Run under torchrun, or alone: the commands of a file one after the other, in the same processes.

Each line of the file is `dtl train`'s flags; `STOP:20` before them sends SIGTERM to the last process after step 20.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from dtl_lib.__main__ import parser
from dtl_lib.commands import train
from dtl_lib.train import Stopped, fit
from dtl_lib.train.distributed import joined


def main(path: str) -> None:
    with joined(torch.device("cpu"), 120) as processes:
        for line in Path(path).read_text().splitlines():
            stop, *flags = line.split() if line.startswith("STOP:") else ("STOP:0", *line.split())
            train.fit = partial(fit, on_step=partial(ask, int(stop.partition(":")[2]), processes))
            args = parser().parse_args(["train", *flags])
            args.line, args.quiet = " ".join(flags), True
            try:
                train._train(args, torch.device("cpu"), processes, print if processes.first else train._nothing)
            except Stopped as stopped:
                print(f"process {processes.rank}: {stopped} ({stopped.status})", flush=True)


def ask(at: int, processes, step: int, loss, model) -> None:
    if step == at and processes.rank == processes.world - 1:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1])
