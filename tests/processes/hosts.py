"""Two hosts on one machine: a network namespace and a name each, and a cable between them."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from tests.processes import launch

NAMES = ("host-a", "host-b")


class Hosts:
    """Where commands run as on the first host (0) or the second (1)."""

    def __init__(self):
        self.spaces = [f"{name}-{os.getpid()}" for name in NAMES]
        self.addresses = ["10.77.0.1", "10.77.0.2"]

    def connect(self) -> None:
        """Make them, and the cable."""
        for space in self.spaces:
            _ip(f"netns add {space}")
        _ip(f"link add eth0 netns {self.spaces[0]} type veth peer name eth0 netns {self.spaces[1]}")
        for host, address in enumerate(self.addresses):
            for words in (f"addr add {address}/24 dev eth0", "link set lo up", "link set eth0 up"):
                self._ip(host, words)

    def start(self, host: int, *command) -> subprocess.Popen:
        """A command there, its output collected."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', NAMES[host]]
        return launch.start(["ip", "netns", "exec", self.spaces[host], *named, *command])

    def torchrun(self, host: int, processes: int, *command, restarts: int = 0) -> subprocess.Popen:
        """torchrun there, as one of the two."""
        place = f"--nnodes=2 --node-rank={host} --master-addr={self.addresses[0]} --master-port=29500".split()
        line = [launch.sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *place]
        return self.start(host, *line, f"--max-restarts={restarts}", "--monitor-interval=0.2", *command)

    def cut_off(self, host: int) -> None:
        """Pull its cable."""
        self._ip(host, "link set eth0 down")

    def _ip(self, host: int, words: str) -> None:
        _ip(f"-n {self.spaces[host]} {words}")


@contextmanager
def two_hosts():
    """Connected `Hosts`; a skip where they cannot be made."""
    if not all(map(shutil.which, ("ip", "unshare", "hostname"))) or os.geteuid():
        pytest.skip("hosts of their own take root, and ip, unshare and hostname")
    hosts = Hosts()
    try:
        try:
            hosts.connect()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces can be connected here: {error.stderr.strip()}")
        yield hosts
    finally:
        for space in hosts.spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)
