"""Runs a command. What goes wrong becomes one line and an exit status; what should never happen stays a traceback."""

import contextlib
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from .. import ledger
from ..train.distributed.errors import PeerLost, RankError, SilentExit
from ..train.distributed.signals import Stopped
from .commands import COMMANDS
from .parser import Parser, hyphenated
from .terminal import plain_output, stoppable

HEAD_START = 3  # seconds in which the first process may speak for all
TORCHRUN_ENDS = 30  # the same under torchrun, which ends the others once the first has: only a busy machine takes long
OUT_OF_MEMORY = "out of memory: lower --batch-size, raise --accumulate, or make the model smaller"
GPU_OUT_OF_MEMORY = "out of GPU memory: lower --batch-size, or raise --accumulate"
LONGEST = 1_500  # characters of a message: a name may have thousands
READER_GONE = 141  # the status a shell gives to a program that SIGPIPE has ended
WORKER_LOST = "a process that reads images was killed or hangs (memory or /dev/shm full?): lower --workers"


def parser(command: str | None = None) -> Parser:
    """The commands with their flags, for `--help` and the book's reference page; with `command` given, its flags alone.

    Making the flags of all commands takes longer than reading those of one.
    """
    top = Parser(prog="dtl", description="Vision Transformers whose tokens enter and leave where you say.")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        subparser = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        if command in (None, name):
            module.flags(subparser)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for wrong input, 130 after Ctrl-C, 141 where nobody reads on."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost process is one line of ours, not torch's fifty
    # torch's signal about a dead worker may reach safetensors, which then takes torch for an old one and warns of it
    warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # of a name; its file has it whole
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files are bytes, and not every terminal shows all
    try:
        with plain_output(), stoppable():
            try:
                return _run(sys.argv[1:] if arguments is None else arguments)
            finally:
                sys.stdout.flush()  # what waits there until the process ends would fail there, with lines of Python's
    except BrokenPipeError:  # `| head` has seen enough: nothing is wrong, and nothing is to be said
        with contextlib.suppress(OSError, ValueError):  # a stream that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE


def _run(arguments: Sequence[str]) -> int:
    try:
        argv = hyphenated(arguments)
        args = parser(argv[0] if argv and argv[0] in COMMANDS else None).parse_args(argv)
        args.line = shlex.join(["dtl", *argv]).encode(errors="backslashreplace").decode()  # a name may be no UTF-8
        if getattr(args, "record", None):
            ledger.check_writable(args.record)
        COMMANDS[args.command].main(args)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        failure = failure_of(error)
        if failure is None:
            raise
        _print(failure)
        return failure.status
    return 0


@dataclass(frozen=True)
class Failure:
    """How a command ends that fails.

    Args:
        message: for the user; where empty, nothing is printed.
        status: the exit status.
        own: whether it is this process's alone: where there are several, it does not leave it to the first to speak.
    """

    message: str
    status: int
    own: bool = False

    def __post_init__(self):
        if len(self.message) > LONGEST:
            object.__setattr__(self, "message", f"{self.message[:LONGEST]}…")


def failure_of(error: BaseException) -> Failure | None:
    """What an error means to the user; None for a bug, whose traceback is wanted."""
    match error:
        case Stopped():
            return Failure(str(error) if _rank() == "0" else "", error.status)
        case KeyboardInterrupt():
            return Failure(str(error) or "stopped", getattr(error, "status", 130))
        case SilentExit():
            return Failure("", 1)
        case PeerLost():
            return Failure(str(error), 1, own=True)
        case OSError() if error.strerror:
            return Failure(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2)
        case ValueError() | OSError():
            return Failure(str(error) or type(error).__name__, 2, own=isinstance(error, RankError))
        case MemoryError():
            return Failure(OUT_OF_MEMORY, 2, own=True)
        case OverflowError():
            return Failure(f"a number is too large ({error})", 2)
        case RecursionError():
            return Failure("something is nested too deeply to be read: is a file damaged?", 2)
        case RuntimeError():
            return _failure_of_torch(error)
    return None


def _failure_of_torch(error: RuntimeError) -> Failure | None:
    torch = sys.modules.get("torch")  # an error of torch's has not been raised where torch was not imported
    if torch and isinstance(error, torch.OutOfMemoryError):
        return Failure(GPU_OUT_OF_MEMORY, 2, own=True)
    # by their text: torch raises both as bare RuntimeErrors
    if "DefaultCPUAllocator" in str(error):
        return Failure(OUT_OF_MEMORY, 2, own=True)
    if "DataLoader worker" in str(error):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise it again as the other workers end
        return Failure(WORKER_LOST, 1)
    return None


def _print(failure: Failure) -> None:
    """Print it once: of several processes the first speaks for all, unless the failure is one's own."""
    message, rank = failure.message, _rank()
    if message and rank != "0" and not failure.own:
        time.sleep(TORCHRUN_ENDS if "TORCHELASTIC_RUN_ID" in os.environ else HEAD_START)
        message = f"process {rank}: {message}"
    if message:
        below = "" if rank == "0" else "\n"  # the progress bar of the first
        print(f"{below}dtl: {' '.join(message.split())}\n", end="", file=sys.stderr, flush=True)


def _rank() -> str:
    return os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
