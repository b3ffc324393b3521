"""The folder of a run: where it resumes, by a flag or as torchrun starts it again."""

from __future__ import annotations

import os
from argparse import Namespace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..train.distributed.errors import SilentExit

if TYPE_CHECKING:
    from ..train.distributed.processes import Processes

UNNAMED = "none"  # what torchrun calls a launch that has been given no name


def resume_point(args: Namespace, processes: Processes) -> tuple[Path | None, dict | None]:
    """The run's folder, and the card of the state saved there.

    Returns:
        The folder: None where no flag names one. The card: None for a run that begins.
    """
    from ..train import state

    resume, folder = args.resume, args.output_dir
    if resume is None:
        if not _restarted(args, processes):
            return folder and Path(folder), None
        resume = True
    if resume is not True and folder and Path(folder) != Path(resume):
        raise ValueError("--resume continues in the run's own folder: leave out --output-dir")
    folder = folder if resume is True else resume
    if folder is None:
        raise ValueError("say which run to resume: --resume DIR, or --output-dir DIR --resume")
    return Path(folder), processes.broadcast_object(lambda: state.read_card(folder))


def _restarted(args: Namespace, processes: Processes) -> bool:
    """Whether torchrun has started the processes again, and there is something saved to go on from."""
    from ..train.distributed.environment import number

    restarts, allowed = (number(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    if not allowed:
        return False
    if not args.output_dir:
        kind = SilentExit if restarts else ValueError  # torchrun starts it again: the first time has printed why
        raise kind("a run that torchrun may restart has to find what it saved: give --output-dir DIR")
    if not processes.broadcast_object(lambda: saved_by_this_launch(Path(args.output_dir), restarts)):
        return False
    if processes.is_main:
        why = f"restart {restarts} of at most {allowed}" if restarts else "the hosts have changed"
        print(f"{why}: resuming {args.output_dir}", flush=True)
    return True


def saved_by_this_launch(folder: Path, restarts: int) -> bool:
    """Whether a folder holds what torchrun's processes have saved before it started them again.

    It counts how often one has failed, not how often a host has joined; the launch has a name, though, if it can grow.
    """
    from ..train import state

    if not state.exists(folder):
        return False
    return bool(restarts) or state.read_card(folder).get("run", {}).get("launch") == launch_name() != UNNAMED


def launch_name() -> str:
    """What torchrun calls this launch."""
    return os.environ.get("TORCHELASTIC_RUN_ID", UNNAMED)


def new_folder() -> str:
    """A folder of `runs/` named by the date, made here: a clock may go back, and two runs start in one second."""
    for number in range(1, 1000):
        folder = Path("runs", f"{datetime.now():%Y%m%d-%H%M%S}" + f"-{number}" * (number > 1))
        try:
            folder.mkdir(parents=True)
            return str(folder)
        except FileExistsError:
            continue
    raise ValueError("runs/ holds too many runs that started in this second: give --output-dir")
