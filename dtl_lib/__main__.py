"""The command line: `dtl …`, the same as `python -m dtl_lib …`. Wrong input is one line and exit status 2."""

import os
import shlex
import signal
import sys
import time
import warnings

from .cli.commands import COMMANDS, run
from .cli.flags import Parser, alike


def parser() -> Parser:
    """Every command and flag, for `--help` and the book's reference page."""
    top = Parser(prog="dtl", description="Vision Transformers whose tokens enter and leave where you say.")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name, help=command.summary, description=f"{command.summary[0].upper()}{command.summary[1:]}."
        )
        command.flags(sub)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost process is said in one line, not in torch's fifty
    # torch's signal about a dead worker may reach safetensors, which then takes torch for an old one and warns of it
    warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files are bytes, and not every terminal shows all
    args = None
    try:
        given = alike(sys.argv[1:] if arguments is None else arguments)
        args = parser().parse_args(given)
        args.line = shlex.join(["dtl", *given])
        run(args)
    except (ValueError, OSError) as error:
        return _one_line(error, _words(error), 2, every=args is None)
    except KeyboardInterrupt as stop:
        return _one_line(stop, str(stop) or "stopped", getattr(stop, "status", 130))
    except RuntimeError as error:
        kind = next((words for words in (_WORKER, _MEMORY) if words in str(error)), type(error).__name__)
        if kind not in _KNOWN:
            raise
        if kind == _WORKER:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would say it again as the other workers end
        return _one_line(error, _KNOWN[kind] or str(error), 2 if kind in ("OutOfMemoryError", _MEMORY) else 1)
    return 0


_WORKER = "DataLoader worker"  # what torch's errors about one say, whatever they interrupt
_MEMORY = "DefaultCPUAllocator"
# by name: their classes come with torch, which `dtl plan` does without
_KNOWN = {
    "OutOfMemoryError": "the GPU's memory is full: lower --batch-size, or raise --accumulate",
    _WORKER: "a process that reads images was killed or stands still (memory or /dev/shm full?): give fewer --workers",
    _MEMORY: "the memory is full: lower --batch-size, raise --accumulate, or make the model smaller",
    "PeerLost": "",  # it says who is lost
    "SilentExit": "",
}
_FOR_ITSELF = ("RankError", "PeerLost", "OutOfMemoryError")
AHEAD = 3  # seconds: torchrun ends every process as soon as one has ended, and the first has to speak before


def _one_line(error: BaseException, words: str, status: int, every: bool = False) -> int:
    """Say it, once: of several processes the first speaks for all, unless it is one's own.

    Args:
        every: whether it is known to be wrong for every process, as flags are.
    """
    kind, rank = type(error).__name__, os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    if kind == "SilentExit" or (kind == "Stopped" and rank != "0"):
        return status
    if rank != "0" and kind not in _FOR_ITSELF:
        time.sleep(AHEAD)
        if every:
            return status
        words = f"process {rank}: {words}"
    below = "" if rank == "0" else "\n"  # the first one's bar
    print(f"{below}dtl: {' '.join(words.split())}\n", end="", file=sys.stderr, flush=True)
    return status


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
