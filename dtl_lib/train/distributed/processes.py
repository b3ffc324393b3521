"""Several processes that train one model: which of them this is, what they agree on, and what is said when one is lost.

They are started by torchrun, or by Slurm's srun; nothing has to be said on the command line.
"""

import json
import os
import platform
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...checks import first_line
from ...host import share_of_cores, usable_cores
from .heartbeat import Heartbeat, PeerLost, RankError, SilentExit
from .sharding import shard
from .signals import Stopped

SIOCGIFADDR = 0x8915  # Linux's name for asking an interface's address
TIMEOUT = 600.0  # seconds that the others are waited for


class Processes:
    """The processes of a run; by default one alone, for which everything here costs nothing.

    Attributes:
        rank: this one's number; the first, 0, is the one that writes and prints.
        world: how many there are.
        local_rank: this one's number on its host, which is also its GPU's.
        hosts: the host's name of every rank.
        cores: how many of its host's this process can count on.
    """

    def __init__(self, rank: int = 0, world: int = 1, local_rank: int = 0, control=None):
        self.rank, self.world, self.local_rank, self._control = rank, world, local_rank, control
        name, cores = platform.node(), usable_cores()
        places = self.gather((name, cores))
        self.hosts = tuple(host for host, _ in places)
        self.cores = share_of_cores(cores, (theirs for host, theirs in places if host == name))
        self._pending = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def gather(self, value) -> list:
        """A plain value of every process, by rank."""
        if self.world == 1:
            return [value]
        found = [None] * self.world
        dist.all_gather_object(found, value, group=self._control)
        return found

    def broadcast_object(self, make: Callable):
        """What `make()` gives on the first process, on every process; a ValueError of its too."""
        if self.world == 1:
            return make()
        found = [None, None]
        if self.first:
            try:
                found[0] = make()
            except (ValueError, OSError) as error:
                found[1] = error
        dist.broadcast_object_list(found, src=0, group=self._control)
        if found[1] is not None:
            raise found[1]
        return found[0]

    def broadcast_tensors(self, tensors: Mapping[str, Tensor] | None) -> Iterator[tuple[str, Tensor]]:
        """The first process's tensors, which lie on the CPU, on every process, one after the other."""
        if self.world == 1:
            yield from tensors.items()
            return
        kinds = self.broadcast_object(
            lambda: {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
        )
        for name, (shape, dtype) in kinds.items():
            value = tensors[name].contiguous() if self.first else torch.empty(shape, dtype=dtype)
            dist.broadcast(value, src=0, group=self._control)
            yield name, value

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes of a tensor, on the CPU."""
        values = values.detach().to("cpu", copy=True)
        if self.world > 1:
            dist.all_reduce(values, group=self._control)
        return values

    def any_rank(self, flag: bool) -> bool:
        """Whether any process had its flag up at the call before this one: what was sent then has arrived by now.

        Every process has to call it at the same places, and gets the same answer there.
        """
        if self.world == 1:
            return flag
        before, value = self._pending, torch.tensor([int(flag)])
        self._pending = value, dist.all_reduce(value, dist.ReduceOp.MAX, group=self._control, async_op=True)
        if before is None:
            return False
        before[1].wait()
        return bool(before[0])

    def merge_corrupt(self, corrupt, images) -> None:
        """Merge what the processes have counted of a part of the data: too many are too many over all of them."""
        for found in self.gather(corrupt.names_of(images)) if self.world > 1 else ():
            corrupt.record(images, found)

    def settle(self) -> None:
        """Forget what was agreed on, once it has arrived: the next call of `agree` is a first one."""
        if self._pending is not None:
            self._pending[1].wait()
        self._pending = None

    def leave(self) -> None:
        """Part in good order."""
        self.settle()
        dist.destroy_process_group()

    @contextmanager
    def first_on_each_host(self) -> Iterator[None]:
        """The body runs on one process of every host, then on the others: what the one has fetched is there.

        Nothing in the body may wait for another process. Where it fails on the one, the others still get their turn.
        """
        if self.world > 1 and self.local_rank:
            dist.barrier(group=self._control)
        try:
            yield
        finally:
            if self.world > 1 and not self.local_rank:
                dist.barrier(group=self._control)

    def wrap(self, objective: nn.Module, device: torch.device, sharded: bool) -> nn.Module:
        """`objective` so that its gradients are the mean over the processes.

        Copies of the whole model (`DistributedDataParallel`), or the model's parameters cut over the processes
        (`fully_shard`), in which case they are replaced in place, and may come from the CPU.
        """
        if self.world == 1:
            return objective
        if sharded:
            return shard(objective, device, self.world)
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(objective, device_ids=ids, gradient_as_bucket_view=True)


def gradient_sync(objective: nn.Module, last: bool):
    """A context for a backward pass: gradients stay on this process, unless it is the last of a step's parts."""
    if hasattr(objective, "model") and hasattr(objective.model, "set_requires_gradient_sync"):  # sharded
        objective.model.set_requires_gradient_sync(last)
    return objective.no_sync() if hasattr(objective, "no_sync") and not last else nullcontext()


def launched() -> bool:
    """Whether torchrun or srun has started several processes."""
    _from_slurm()
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: torch.device, timeout: float = TIMEOUT) -> Iterator[Processes]:
    """The processes of this run, connected; one alone where nothing has started several.

    An error in the body comes out as what this process should say: see `Watch.verdict`.

    Args:
        device: where this process computes; NCCL connects GPUs, gloo everything else.
        timeout: seconds that one waits for the others before it gives them up.

    Raises:
        Lost: where the others do not come, or do not answer any more.
    """
    if not launched():
        yield Processes()
        return
    rank, world, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        processes, watch = _connected(rank, world, local, device, timeout)
    except RuntimeError as error:
        words = f"the processes do not find each other at {where} within {timeout:g} s: {first_line(error)}"
        raise (SilentExit if local else PeerLost)(words) from None
    try:
        yield processes
        processes.leave()
    except Stopped:
        processes.leave()
        raise
    except Exception as error:
        found = watch.verdict(error)
        _tell_torchrun(found)
        if found is error:
            raise
        raise found from None
    finally:
        watch.close()


def _connected(rank: int, world: int, local: int, device: torch.device, timeout: float) -> tuple[Processes, Heartbeat]:
    wait, gpu = timedelta(seconds=timeout), device.type == "cuda"
    attempt, by_agent = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "USE_AGENT_STORE"))
    if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError("WORLD_SIZE is set and MASTER_ADDR or MASTER_PORT is not: start with torchrun, or set all")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if interface := _interface(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    before = f"attempt {attempt} of {world}"  # torchrun keeps its store when it starts the processes again
    store = dist.PrefixStore(before, next(dist.rendezvous("env://", rank, world, timeout=wait))[0])
    # what the CPU waits for gives up first, and can say who is lost; NCCL would end the process with a trace of its own
    if gpu:
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    dist.init_process_group(
        "nccl" if gpu else "gloo", store=dist.PrefixStore("data", store), rank=rank, world_size=world,
        timeout=wait * (1 + gpu), device_id=device if gpu else None,
    )  # fmt: skip
    processes = Processes(rank, world, local, dist.new_group(backend="gloo", timeout=wait))
    os.environ["LOCAL_WORLD_SIZE"] = str(processes.hosts.count(processes.hosts[rank]))  # srun does not say so
    beside = dist.TCPStore(address, port, is_master=False, timeout=wait, wait_for_workers=False)
    said = dist.PrefixStore(f"{before}/said", beside)
    return processes, Heartbeat(
        said, processes.hosts, rank, local, timeout, holds_store=not rank and by_agent != "True"
    )


def _interface(address: str) -> str | None:
    """The network that leads to an address; gloo would go by the host's name, which often means the host alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            import fcntl

            one.connect((address, 1))  # sends nothing
            for _, name in socket.if_nameindex():
                with suppress(OSError):  # one without an address
                    found = fcntl.ioctl(one, SIOCGIFADDR, struct.pack("256s", name.encode()))
                    if socket.inet_ntoa(found[20:24]) == one.getsockname()[0]:
                        return name
        except (OSError, ImportError):  # no IPv4, or no Linux: left to gloo
            pass
    return None


def local_device(name: str | None) -> str | None:
    """The GPU of this process, where several were started and none was named by its number."""
    if name not in (None, "cuda") or not launched() or not torch.cuda.is_available():
        return name
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    by_srun = "SLURM_PROCID" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    if there == 1 and by_srun:
        local = 0  # each task sees its own alone
    if local >= there:
        raise ValueError(f"there is no GPU for process {local} of this host: start {there}, one for each GPU it has")
    return f"cuda:{local}"


def _from_slurm() -> None:
    """torchrun's variables from srun's, where srun has started this process and torchrun has not."""
    given = os.environ
    if "RANK" in given or int(given.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return
    names = ("RANK", "SLURM_PROCID"), ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"), ("LOCAL_RANK", "SLURM_LOCALID")
    for ours, theirs in names:
        given[ours] = given[theirs]
    if "MASTER_ADDR" not in given:
        raise (SilentExit if given["RANK"] != "0" else ValueError)(
            "srun has started several processes and MASTER_ADDR is not set: export MASTER_ADDR=$(scontrol show "
            "hostnames $SLURM_JOB_NODELIST | head -n 1) before srun"
        )
    given.setdefault("MASTER_PORT", str(20_000 + int(given.get("SLURM_JOB_ID", "0")) % 20_000))


def _tell_torchrun(error: BaseException) -> None:
    """The message where torchrun looks for it, so that its own report says it too."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path or isinstance(error, SilentExit):
        return
    words = str(error) if isinstance(error, RankError | PeerLost) else f"{type(error).__name__}: {error}"
    said = {"message": {"message": words, "extraInfo": {"timestamp": str(int(time.time()))}}}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(said, file)
    except OSError:
        pass  # the report is a courtesy
