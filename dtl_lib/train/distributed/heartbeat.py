"""Heartbeats: the processes of a run tell each other that they are alive, and that one has failed.

A process that waits in a collective operation cannot look up. A thread beside it does, and talks to the store of the
first host, through which the processes found each other.
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

HEARTBEAT_INTERVAL = 1.0  # seconds between two heartbeats
HEARTBEAT_TIMEOUT = 5.0  # seconds without one, after which a process counts as lost
STORE_TIMEOUT = 5.0  # seconds for one question to the first host
REPORT_DELAY = 0.5  # seconds that the first process is given to report an error that all of them have met
EXIT_GRACE = 3.0  # seconds to end in, once another process has failed
FAILURE = "failure"
_CONNECTION = re.compile("gloo|timed? ?out|closed by peer|reset by peer|broken pipe|refused", re.IGNORECASE)


class Heartbeat:
    """The heartbeat of this process, and a look at those of the others.

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
        self._world_size, self._timeout, self._holds_store = len(hosts), timeout, holds_store
        self._ended, self._reports = threading.Event(), False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; where the store ends with this process, a failure stays readable until the others have seen it."""
        if self._holds_store and self._reported_failure():
            time.sleep(EXIT_GRACE)
        self._ended.set()
        self._thread.join(HEARTBEAT_INTERVAL)

    def verdict(self, error: Exception) -> Exception:
        """The error that this process should end with: its own, `SilentExit` or `PeerLost`."""
        this_process = f"process {self._rank} of {self._world_size} on {self._hosts[self._rank]}"
        if isinstance(error, SilentExit):
            return error
        if isinstance(error, RuntimeError) and (cause := self._cause_elsewhere(error)):
            return cause
        if self._rank:
            time.sleep(REPORT_DELAY)  # an error that all have met is reported by the first
        if not self._claim_to_report(f"{this_process} has failed"):
            return SilentExit("another process has failed")
        if isinstance(error, RankError):
            return error  # it names the process itself
        if isinstance(error, ValueError | OSError):
            reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else error
            return RankError(f"{this_process}: {reason}")
        return error

    def _cause_elsewhere(self, error: RuntimeError) -> Exception | None:
        """What another process has to do with this error, which gloo words in many ways; None where nothing."""
        reachable = answer_within(STORE_TIMEOUT, lambda: (self._store.set(f"here/{self._rank}", "yes"), True))
        connection = isinstance(error, dist.DistError) or _CONNECTION.search(str(error))
        peers = reachable and answer_within(HEARTBEAT_TIMEOUT + STORE_TIMEOUT, self._look_at_peers)
        if not peers:
            return self._store_is_gone() if connection else None
        failure, silent, late = peers
        if failure:
            return SilentExit(failure)
        if silent:
            message = f"{self._subject(silent)} answer any more: killed, stopped, or cut off"
        elif late and connection:
            message = (
                f"{self._subject(late)} come to where the others have waited for {self._timeout:g} s: "
                "find out what takes so long there, or raise --timeout"
            )
        elif connection:
            message = f"all {self._world_size} processes are there, but their connections broke: {first_line(error)}"
        else:
            return None
        return PeerLost(message) if self._claim_to_report(message) else SilentExit(message)

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(HEARTBEAT_INTERVAL):
            beats += 1
            try:
                self._store.set(f"alive/{self._rank}", str(beats))
                failed = self._reported_failure()
            except RuntimeError:  # the first host is gone: a process that waits will notice, and report it
                return
            if failed and not self._ended.wait(EXIT_GRACE) and not self._reports:
                sys.stdout.flush()
                os._exit(1)  # it waits for what will not come, or works for nothing

    def _claim_to_report(self, message: str) -> bool:
        """Whether this process is the one to report a failure: the first to claim it, or the store does not answer."""
        claim = f"{self._rank}: {message}"
        winner = answer_within(STORE_TIMEOUT, lambda: self._store.compare_set(FAILURE, "", claim).decode())
        self._reports = winner in (None, claim)
        return self._reports

    def _reported_failure(self) -> str:
        """The message of the process that failed first; empty where none has failed."""
        return self._store.get(FAILURE).decode().partition(": ")[2] if self._store.check([FAILURE]) else ""

    def _look_at_peers(self) -> tuple[str, list[int], list[int]]:
        """The failure that another process has reported; ranks without a heartbeat; ranks that have met no error."""
        before, end = self._heartbeats(), time.monotonic() + HEARTBEAT_TIMEOUT
        while time.monotonic() < end:
            if failure := self._reported_failure():
                return failure, [], []
            time.sleep(HEARTBEAT_INTERVAL / 5)
        now = self._heartbeats()
        others = [rank for rank in range(self._world_size) if rank != self._rank]
        silent = [rank for rank in others if before[rank] == now[rank]]
        return "", silent, [rank for rank in others if not self._store.check([f"here/{rank}"])]

    def _heartbeats(self) -> list[str]:
        keys = [f"alive/{rank}" for rank in range(self._world_size)]
        return [self._store.get(key).decode() if self._store.check([key]) else "" for key in keys]

    def _subject(self, ranks: list[int]) -> str:
        """The subject of a sentence such as "process 3 of 4 on host-a does not …"."""
        hosts, several = ", ".join(dict.fromkeys(self._hosts[rank] for rank in ranks)), len(ranks) > 1
        return (
            f"process{'es' * several} {', '.join(map(str, ranks))} of {self._world_size} on {hosts} "
            f"{'do' if several else 'does'} not"
        )

    def _store_is_gone(self) -> Exception:
        """Where the store is gone, and with it the first host: one process of each host reports it."""
        here, first = self._hosts[self._rank], self._hosts[0]
        message = (
            f"the host of process 0 ({first}) does not answer any more: process 0 or its launcher was killed there"
            + f", or {first} and {here} are cut off from each other" * (here != first)
        )
        speaker = 1 if here == first and self._rank else 0  # on the first host it is process 0 that is lost
        return PeerLost(message) if self._local_rank == speaker else SilentExit(message)


def answer_within(seconds: float, ask: Callable):
    """`ask()`, or None where it fails or takes longer: a host that is cut off never refuses."""
    answers: list = []

    def run():
        try:
            answers.append(ask())
        except RuntimeError:
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None
