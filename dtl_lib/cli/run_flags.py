"""The flags that say on which images, on what machine and in how many processes, and where it is recorded."""

from ..data.sources import SOURCES
from .parser import Parser, fraction, identifier, positive, whole

DATA = ", ".join(SOURCES)
LONGEST_TIMEOUT = 10**6  # seconds, eleven days; torch's clocks overflow on what is much longer


def add_data(parser: Parser, purpose: str) -> None:
    """Which images."""
    names = f"{DATA}, or a data set that one of timm's readers finds, such as hfds/NAME"
    parser.add_argument("--data", metavar="NAME", help=f"{purpose}: {names}")
    parser.add_argument("--data-path", metavar="DIR", help="folder that holds the data (default: under DTL_DATA)")
    parser.add_argument("--level", type=positive, metavar="N", help="difficulty of shapes, 1 to 3 (default: 1)")


def add_device(group) -> None:
    """Where to compute."""
    group.add_argument("--device", metavar="NAME", help="cuda, cpu, … (default: the GPU if there is one)")


def add_machine(group) -> None:
    """Where to compute, and how images are read."""
    add_device(group)
    group.add_argument("--workers", type=whole, metavar="N", help="worker processes that read images from files")
    corrupt = "fraction of the images that may be unreadable before the command stops (default: 0.001)"
    group.add_argument("--max-corrupt", "--broken", type=fraction, default=0.001, metavar="X", help=corrupt)
    group.add_argument("--quiet", action="store_true", help="show no progress bar")


def add_record(group) -> None:
    """Whether a record is kept."""
    group.add_argument("--record", type=identifier, metavar="EXPERIMENT", help="add the results to the ledger")


def add_processes(parser: Parser):
    """How several processes work together; the group, for more flags."""
    text = "Under torchrun, or Slurm's srun, the processes find each other; no flag is needed."
    group = parser.add_argument_group("several processes", text)
    for ignored in ("--distributed", "--dist-eval"):
        group.add_argument(ignored, action="store_true", help="accepted for compatibility; ignored")
    group.add_argument(
        "--timeout", type=lambda text: min(positive(text), LONGEST_TIMEOUT), default=600, metavar="SECONDS",
        help="how long to wait for another process (default: 600)",
    )  # fmt: skip
    return group
