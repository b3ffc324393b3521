"""Everything this book needs from a GPU, in the minutes that one is there for.

    python -m book.experiments.gpu --minutes 9 --data-path DIR

runs seven parts: 1 whether it computes what a CPU does, 2 where the time of a step goes, 3 CIFAR-10 in about a minute,
4 CIFAR-10 as far as it goes in the time that is left, 5 where the class token enters a larger model, 6 the chapters'
studies, 7 the whole atlas. Each task writes its records
as it ends; one that has its record of this device is left out, so the same command goes on where it stopped. A task is
not begun unless it fits into the time left; what fails is reported in one line, and the next begins. Nothing is
downloaded. The exit status is 0, or 1 where a task has failed.
"""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack

PARTS = (1, 2, 3, 4, 5, 6, 7)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m book.experiments.gpu", description=__doc__.splitlines()[0])
    made.add_argument("--minutes", type=_minutes, default=9.0, help="it ends before they are up (default: 9)")
    made.add_argument("--parts", type=int, nargs="+", choices=PARTS, default=PARTS, help="only these (default: all)")
    made.add_argument(
        "--data-path", help="CIFAR-10's python version, or a folder with unpack.py; DTL_DATA where left out"
    )
    made.add_argument("--folder", help="where the records go; the library's ledger where left out")
    made.add_argument(
        "--jobs", type=int, help="runs beside each other in parts 5 to 7 (default: as many as bring more)"
    )
    made.add_argument("--take", metavar="FOLDER", help="measure nothing: put the records of a folder into the ledger")
    made.add_argument(
        "--dry", action="store_true", help="every part at a toy size, also on a CPU; recorded in --folder only"
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run what has no record yet; the exit status."""
    start = time.monotonic()  # importing torch counts
    options = parser().parse_args(arguments)
    from dtl_lib.checks import first_line

    try:
        with ExitStack() as stack:
            return _run(options, start, stack)
    except ValueError as error:
        print(first_line(error), file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, start: float, stack: ExitStack) -> int:
    from dtl_lib.host import device_name, find_device

    from . import exchange, sizes
    from .cifar import Cifar
    from .parts import tasks
    from .schedule import Deadline, run

    if options.take:
        print(f"{exchange.take(options.take)} new records from {options.take}")
        return 0
    device, deadline = find_device(), Deadline(60 * options.minutes, start)
    if device.type != "cuda" and not options.dry:
        raise ValueError("there is no GPU here; --dry tries every part at a toy size on the CPU")
    cifar, scale = Cifar(options.data_path, stack), sizes.toy() if options.dry else sizes.full()
    print(f"{device_name(device)}; {cifar}", flush=True)
    if options.dry and not options.folder:
        options.folder = stack.enter_context(tempfile.TemporaryDirectory())
    if options.folder and not options.dry:
        exchange.bring(options.folder, str(device))
    command = f"python -m book.experiments.gpu --minutes {options.minutes:g}" + " --dry" * options.dry
    run_by = argparse.Namespace(
        device=str(device), folder=options.folder, command=command, rounds=scale.rounds, sizes=scale.products, only="",
        dry=False, jobs=options.jobs,
    )  # fmt: skip
    todo = [task for task in tasks(scale, cifar, run_by, deadline) if task.part in options.parts]
    return 1 if run(todo, deadline) else 0


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0, not {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
