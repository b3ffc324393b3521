"""What torchrun and Slurm's srun tell a process through its environment, and which GPU and interface follow from it."""

import os
import re
import socket
import struct
import time
from contextlib import suppress

import torch

from ...checks import first_line, shortened
from .errors import SilentExit

SIOCGIFADDR = 0x8915  # Linux's name for asking an interface's address
PLACE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"  # what torchrun tells every process


def launched() -> bool:
    """Whether torchrun or srun has started several processes."""
    _from_slurm()
    return number("WORLD_SIZE", "1") > 1


def number(name: str, default: str = "", most: float = float("inf"), least: int = 0) -> int:
    """A variable of the environment that holds a whole number from `least` on."""
    text = os.environ.get(name, default)
    if not (text.isascii() and text.isdecimal() and least <= int(text[:20]) <= most):
        limit = f" to {most}" if most < float("inf") else " on"
        raise ValueError(
            f"{name} is {shortened(text)} in the environment; torchrun and srun set a whole number from {least}{limit}"
        )
    return int(text)


def check_address(address: str, rank: int, timeout: float) -> None:
    """A ValueError where no host is called `address`: torch would say so in many lines, its own and C++'s.

    A name may come to be known late, as a cluster starts its hosts: all but the first process, whose own it is, ask
    again until the timeout.
    """
    end = time.monotonic() + timeout * (rank > 0)
    while True:
        try:
            socket.getaddrinfo(address, None)
            return
        except (OSError, UnicodeError) as error:
            why = first_line(error)
        if time.monotonic() >= end or not re.fullmatch(r"[\w.:%-]+", address):
            break
        time.sleep(min(1.0, timeout))
    raise ValueError(
        f"MASTER_ADDR is {shortened(address)}, which is no host that can be found ({why}): it is the name or the "
        "address of the first process's host, without brackets or a port (MASTER_PORT has that)"
    )


def local_device(name: str | None) -> str | None:
    """The GPU of this process, where several were started and none was named by its number."""
    if name not in (None, "cuda") or not launched() or not torch.cuda.is_available():
        return name
    local, there = number("LOCAL_RANK"), torch.cuda.device_count()
    by_srun = "SLURM_PROCID" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    if there == 1 and by_srun:
        local = 0  # each task sees its own alone
    if local >= there:
        raise ValueError(f"there is no GPU for process {local} of this host: start {there}, one for each GPU it has")
    return f"cuda:{local}"


def _from_slurm() -> None:
    """torchrun's variables from srun's, where srun has started this process and torchrun has not."""
    given = os.environ
    if "RANK" in given or number("SLURM_STEP_NUM_TASKS", "1") < 2:
        return
    for name in ("SLURM_PROCID", "SLURM_LOCALID"):
        number(name, most=number("SLURM_STEP_NUM_TASKS") - 1)
    names = ("RANK", "SLURM_PROCID"), ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"), ("LOCAL_RANK", "SLURM_LOCALID")
    for ours, theirs in names:
        given[ours] = given[theirs]
    if "MASTER_ADDR" not in given:
        raise (SilentExit if given["RANK"] != "0" else ValueError)(
            "srun has started several processes and MASTER_ADDR is not set: export MASTER_ADDR=$(scontrol show "
            "hostnames $SLURM_JOB_NODELIST | head -n 1) before srun"
        )
    given.setdefault("MASTER_PORT", str(20_000 + number("SLURM_JOB_ID", "0") % 20_000))


def interface_to(address: str) -> str | None:
    """The network interface that leads to an address; gloo would go by the host's name, often its loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            import fcntl

            probe.connect((address, 1))  # sends nothing
            for _, name in socket.if_nameindex():
                with suppress(OSError):  # one without an address
                    reply = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                    if socket.inet_ntoa(reply[20:24]) == probe.getsockname()[0]:
                        return name
        except (OSError, ImportError):  # no IPv4, or no Linux: left to gloo
            pass
    return None
