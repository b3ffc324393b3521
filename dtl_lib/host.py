"""This machine: its cores, its devices and their names, its allocator, and the folder its data lies in.

Imports nothing of the library but `paths`, and torch only where a device is asked about.
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from .paths import user_path

CGROUP = "/sys/fs/cgroup"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def data_folder() -> Path:
    """Where data and weights are looked for: the environment's DTL_DATA, or ~/.cache/dtl."""
    return user_path(os.environ.get("DTL_DATA") or "~/.cache/dtl")


def find_device(name: str | None = None):
    """`name` as a `torch.device`; where None, the GPU if there is one, else the CPU. A numbered GPU becomes current.

    Raises:
        ValueError: for a device that is not there.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None and torch.cuda.is_available():
            torch.cuda.set_device(device)  # fully_shard, pinned memory and synchronize() go by it
        torch.zeros(1, device=device).item()  # the meta device, which only knows shapes, cannot
    except (RuntimeError, AssertionError) as error:
        have = "cuda and cpu" if torch.cuda.is_available() else "cpu"
        raise ValueError(f"there is no device {name!r} here ({str(error).splitlines()[0]}); there is {have}") from None
    return device


def device_name(device="cpu") -> str:
    """What a number was measured on: "2 CPU cores (AMD EPYC 9R14)", or the GPU's name."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cores = len(usable_cores())
    return f"{cores} CPU core{'s' * (cores != 1)} ({_processor()})"


def machine_load() -> tuple[float, float, float] | None:
    """Processes that ran or waited for a core, mean of the last 1, 5 and 15 minutes; None where nobody counts them."""
    try:
        return os.getloadavg()
    except (AttributeError, OSError):  # not on every system
        return None


def usable_cores(limits: str | Path = CGROUP) -> frozenset[int]:
    """The numbers of the cores that this process may use; of a container's, as many of the first as its quota pays for.

    Args:
        limits: where the kernel says what a control group may have.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of version 2, of version 1
        with contextlib.suppress(ValueError, OSError):  # not there, or "max": no limit
            quota, period = (int(word) for file in files for word in Path(limits, file).read_text().split())
            if quota > 0 and period > 0:  # -1: no limit
                cores = sorted(cores)[: -(-quota // period)]
    return frozenset(cores)


def total_memory() -> int | None:
    """Bytes that this process can have at most, the machine's or its container's; None where that is not known."""
    sizes = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):  # "max" where there is no limit
            sizes.append(int(Path(CGROUP, file).read_text()))
    return min(sizes, default=None)


def check_memory(size: int, what: str) -> None:
    """A ValueError where something of `size` bytes is more than this machine has: the system would end the process."""
    have = total_memory()
    if have and size > have:
        raise ValueError(f"{what} takes {size / 1e9:,.0f} GB, and there are {have / 1e9:,.0f} GB here: make it smaller")


def share_of_cores(mine: frozenset[int], on_this_host: Iterable[frozenset[int]]) -> int:
    """How many cores a process can count on: its share of each that several processes may use; at least one.

    torchrun's processes may all use the same cores. What srun binds to cores has them for itself.

    Args:
        mine: the cores it may use.
        on_this_host: those of every process of its host, its own among them.
    """
    sets = list(on_this_host)
    return max(1, int(sum(Fraction(1, sum(core in cores for cores in sets)) for core in mine)))


def keep_memory() -> None:
    """From here on this process keeps the memory that CPU tensors free; a no-op where the C library is not glibc.

    glibc gives the top of the heap back and takes it again page by page, at moments that depend on what ran before:
    that costs up to a third of a forward pass and hits whoever comes next.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_MAX, 0)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
