"""What the processes of a run tell each other beside their work: that they live, and that one has failed.

Who waits for a process that will never come cannot look up. A thread beside it does, and talks to the store of the
first host, through which they have found each other.
"""

import os
import re
import sys
import threading
import time
from collections.abc import Callable

import torch.distributed as dist

from ...checks import first_line
from .errors import PeerLost, RankError, SilentExit

BEAT = 1.0  # seconds between two signs of life
SILENT = 5.0  # seconds without one, after which a process is lost
REACH = 5.0  # seconds for one question to the first host
AFTER = 0.5  # seconds that the first process is given to say what all of them have met
GRACE = 3.0  # seconds to end in, once another process has failed
FAILURE = "failure"
_CONNECTION = re.compile("gloo|timed? ?out|closed by peer|reset by peer|broken pipe|refused", re.IGNORECASE)


class Heartbeat:
    """Signs of life of this process, and a look at those of the others.

    Args:
        store: a connection of its own to the store that all processes share.
        hosts: the host's name of every rank.
        rank, local_rank: as in `Processes`.
        timeout: seconds for which the processes wait for each other.
        holds_store: whether the store ends with this process.
    """

    def __init__(
        self, store: dist.Store, hosts: tuple[str, ...], rank: int, local_rank: int, timeout: float, holds_store: bool
    ):
        self._store, self._hosts, self._rank, self._local_rank = store, hosts, rank, local_rank
        self._world, self._timeout, self._holds_store = len(hosts), timeout, holds_store
        self._ended, self._own = threading.Event(), False
        self._thread = threading.Thread(target=self._beat, name="signs of life", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more signs of life; who has failed stays until the others have seen it, where the store ends with it."""
        if self._holds_store and self._said():
            time.sleep(GRACE)
        self._ended.set()
        self._thread.join(BEAT)

    def verdict(self, error: Exception) -> Exception:
        """The error that this process should end with: its own, `SilentExit` or `PeerLost`."""
        mine = f"process {self._rank} of {self._world} on {self._hosts[self._rank]}"
        if isinstance(error, SilentExit):
            return error
        if isinstance(error, RuntimeError) and (found := self._what_broke(error)):
            return found
        if self._rank:
            time.sleep(AFTER)  # what all have met, the first one says
        if not self._claim(f"{mine} has failed"):
            return SilentExit("another process has failed")
        if isinstance(error, RankError):
            return error  # it names the process itself
        if isinstance(error, ValueError | OSError):
            words = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else error
            return RankError(f"{mine}: {words}")
        return error

    def _what_broke(self, error: RuntimeError) -> Exception | None:
        """What another process has to do with this error, which gloo words in many ways; None where nothing."""
        told = within(REACH, lambda: (self._store.set(f"here/{self._rank}", "yes"), True))
        connection = isinstance(error, dist.DistError) or _CONNECTION.search(str(error))
        found = told and within(SILENT + REACH, self._who_is_missing)
        if not found:
            return self._alone() if connection else None
        said, silent, late = found
        if said:
            return SilentExit(said)
        if silent:
            words = f"{self._named(silent)} answer any more: killed, stopped, or cut off"
        elif late and connection:
            words = (
                f"{self._named(late)} come to where the others have waited for {self._timeout:g} s: "
                "find out what takes so long there, or raise --timeout"
            )
        elif connection:
            words = f"all {self._world} processes are there, but their connections broke: {first_line(error)}"
        else:
            return None
        return PeerLost(words) if self._claim(words) else SilentExit(words)

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(BEAT):
            beats += 1
            try:
                self._store.set(f"alive/{self._rank}", str(beats))
                failed = self._said()
            except RuntimeError:  # the first host is gone: whoever waits will notice, and say so
                return
            if failed and not self._ended.wait(GRACE) and not self._own:
                sys.stdout.flush()
                os._exit(1)  # it waits for what will not come, or works for nothing

    def _claim(self, words: str) -> bool:
        """Whether this process is the one to say something: the first to ask, or nobody can be asked."""
        mine = f"{self._rank}: {words}"
        said = within(REACH, lambda: self._store.compare_set(FAILURE, "", mine).decode())
        self._own = said in (None, mine)
        return self._own

    def _said(self) -> str:
        """What the process that failed first has said; empty where none has failed."""
        return self._store.get(FAILURE).decode().partition(": ")[2] if self._store.check([FAILURE]) else ""

    def _who_is_missing(self) -> tuple[str, list[int], list[int]]:
        """What another has said already; who gives no sign of life; who does, but has met no error."""
        before, end = self._signs(), time.monotonic() + SILENT
        while time.monotonic() < end:
            if said := self._said():
                return said, [], []
            time.sleep(BEAT / 5)
        now = self._signs()
        others = [rank for rank in range(self._world) if rank != self._rank]
        silent = [rank for rank in others if before[rank] == now[rank]]
        return "", silent, [rank for rank in others if not self._store.check([f"here/{rank}"])]

    def _signs(self) -> list[str]:
        keys = [f"alive/{rank}" for rank in range(self._world)]
        return [self._store.get(key).decode() if self._store.check([key]) else "" for key in keys]

    def _named(self, ranks: list[int]) -> str:
        """The subject of a sentence that denies something."""
        hosts, several = ", ".join(dict.fromkeys(self._hosts[rank] for rank in ranks)), len(ranks) > 1
        return (
            f"process{'es' * several} {', '.join(map(str, ranks))} of {self._world} on {hosts} "
            f"{'do' if several else 'does'} not"
        )

    def _alone(self) -> Exception:
        """Where nobody can be asked, as the store is gone: one process of a host says so."""
        here, first = self._hosts[self._rank], self._hosts[0]
        words = (
            f"the host of process 0 ({first}) does not answer any more: process 0 or its launcher was killed there"
            + f", or {first} and {here} are cut off from each other" * (here != first)
        )
        speaker = 1 if here == first and self._rank else 0  # on the first host it is process 0 that is lost
        return PeerLost(words) if self._local_rank == speaker else SilentExit(words)


def within(seconds: float, ask: Callable):
    """`ask()`, or None where it fails or takes longer: a host that is cut off never says no."""
    found: list = []

    def run():
        try:
            found.append(ask())
        except RuntimeError:
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None
