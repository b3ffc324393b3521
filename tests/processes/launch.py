"""Starts real processes under torchrun, looks into them, and kills them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 400  # seconds for one launch, however busy the machine; less than the --timeout after which a run gives up
PORTS = (20_000 + (17 * os.getpid() + number) % 12_000 for number in count())


def environment(**more) -> dict[str, str]:
    """One thread a process, this project on the path, and none of an outer launch's variables."""
    outer = re.compile("RANK|WORLD_SIZE|LOCAL_|GROUP_|ROLE_|MASTER_|TORCHELASTIC_|SLURM_")
    kept = {name: value for name, value in os.environ.items() if not outer.match(name)}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


def torchrun(processes: int, *command, restarts: int = 0, **more) -> subprocess.Popen:
    """torchrun in a process group of its own, its output collected."""
    line = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc_per_node={processes}"]
    line += [f"--max-restarts={restarts}", "--monitor-interval=0.2", "--master-addr=127.0.0.1"]
    line += [f"--master-port={free_port()}", *map(str, command)]
    return start(line, **more)


def start(line, **more) -> subprocess.Popen:
    """A command with its output collected."""
    return subprocess.Popen(
        list(map(str, line)), cwd=ROOT, env=environment(**more), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process: subprocess.Popen, limit: float = LIMIT) -> tuple[int, str, str]:
    """Exit status, standard output without what older versions of gloo print to it, and standard error."""
    try:
        out, error = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end(process)
        out, error = process.communicate()
        raise AssertionError(f"not done after {limit} s:\n{out}\n{error}") from None
    return process.returncode, "".join(line for line in out.splitlines(True) if not line.startswith("[Gloo] ")), error


def run(processes: int, *command, **more) -> tuple[int, str, str]:
    """torchrun to its end."""
    return finished(torchrun(processes, *command, **more))


def end(process: subprocess.Popen) -> None:
    """Kill it and all it has started."""
    for pid in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def descendants(pid: int) -> list[int]:
    """Process numbers below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def worker(launcher: subprocess.Popen, rank: int) -> int:
    """The process number of a rank: the first below the launcher with that RANK."""
    for pid in sorted(descendants(launcher.pid)):
        try:
            given = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"RANK={rank}".encode() in given:
            return pid
    raise AssertionError(f"rank {rank} is not there")


def wait_for(true, what: str, process: subprocess.Popen | None = None, limit: float = LIMIT) -> None:
    """Until `true()`; an AssertionError where it takes too long or the process has ended."""
    stop = time.monotonic() + limit
    while not true():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended before {what}: {process.communicate()}")
        assert time.monotonic() < stop, f"no {what} after {limit} s"
        time.sleep(0.05)


def free_port() -> int:
    """A port nobody uses, and nobody will be given who asks for any: those begin above, and torchrun takes seconds."""
    for port in PORTS:
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
