"""What running a notebook takes: the memory and CPU time of a kernel's processes, and the bytes it downloads."""

import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

IN_KERNEL = Path(__file__).with_name("count_downloads.py")
MARK = "DTL_METER"


@dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
        wall, cpu: seconds on the clock, and of CPU time.
        delayed: seconds in which it was ready to run but the machine was busy with others (0 where Linux does not say).
        memory: peak resident bytes.
        downloaded: bytes from other machines.
    """

    wall: float
    cpu: float
    delayed: float
    memory: int
    downloaded: int

    @property
    def seconds(self) -> float:
        """Time on the clock, had the machine done nothing else."""
        return max(self.cpu, self.wall - self.delayed)

    def __str__(self) -> str:
        """The line under a chapter's title."""
        downloads = f"downloads {size(self.downloaded)}" if self.downloaded else "downloads nothing"
        return f"Ran in {self.seconds:.0f} s on one CPU core · {size(self.memory)} of memory · {downloads}"


class Meter:
    """Measures the processes that carry its mark in their environment, from entering to leaving.

    Give `environment` to the process that is measured; its children inherit the mark.
    """

    def __enter__(self) -> "Meter":
        self._count = tempfile.NamedTemporaryFile(prefix="dtl-meter-")
        self.environment = os.environ | {MARK: self._count.name, "OMP_NUM_THREADS": "1"}
        self._cpu: dict[tuple[int, float], float] = {}
        self._memory, self._delayed = 0, 0.0
        self._older = set(psutil.pids())  # none of these is measured
        self._done = threading.Event()
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        wall = time.perf_counter() - self._start
        self._done.set()
        self._thread.join()
        downloaded = int(Path(self._count.name).read_text() or 0)
        self._count.close()
        self.cost = Cost(wall, sum(self._cpu.values()), self._delayed, self._memory, downloaded)

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            memory = 0
            for process in psutil.process_iter():
                try:
                    if process.pid not in self._older and process.environ().get(MARK) == self._count.name:
                        memory += process.memory_info().rss
                        self._delayed = max(self._delayed, delay(process.pid))
                        self._cpu[process.pid, process.create_time()] = sum(process.cpu_times()[:2])
                except psutil.Error:
                    continue
            self._memory = max(self._memory, memory)


def delay(pid: int) -> float:
    """Seconds a process's main thread has waited for a CPU."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def size(count: int) -> str:
    """Bytes as a person writes them: 0.9 GB, 170 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 5e8 else f"{max(count / 1e6, 1):.0f} MB"
