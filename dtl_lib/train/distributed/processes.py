"""Several processes that train one model: which of them this is, and what they exchange.

torchrun starts them, or Slurm's srun; the command line needs no flag for it. What is said where one of them fails is
decided in `heartbeat.py`.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...checks import first_line
from ...host import share_of_cores, usable_cores
from .environment import check_address, interface_to, launched, number
from .errors import PeerLost, RankError, SilentExit
from .heartbeat import Heartbeat
from .sharding import shard
from .signals import Stopped

TIMEOUT = 600.0  # seconds that the others are waited for


class Processes:
    """The processes of a run; by default one alone, for which every method is free.

    Attributes:
        rank: this one's number; the first, 0, is the one that writes and prints.
        world_size: how many there are.
        local_rank: this one's number on its host, which is also its GPU's.
        hosts: the host's name of every rank.
        cores: how many of its host's this process can count on.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, local_rank: int = 0, control=None):
        self.rank, self.world_size, self.local_rank, self._control = rank, world_size, local_rank, control
        name, cores = platform.node(), usable_cores()
        places = self.gather((name, cores))
        self.hosts = tuple(host for host, _ in places)
        self.cores = share_of_cores(cores, (theirs for host, theirs in places if host == name))
        self._pending = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def gather(self, value) -> list:
        """A plain value of every process, by rank."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def broadcast_object(self, make: Callable):
        """What `make()` gives on the first process, on every process; a ValueError or OSError of its too."""
        if self.world_size == 1:
            return make()
        value, error = None, None
        if self.is_main:
            try:
                value = make()
            except (ValueError, OSError) as raised:
                error = raised
        outcome = [value, error]
        dist.broadcast_object_list(outcome, src=0, group=self._control)
        value, error = outcome
        if error is not None:
            raise error
        return value

    def broadcast_tensors(self, tensors: Mapping[str, Tensor] | None) -> Iterator[tuple[str, Tensor]]:
        """The first process's tensors, which lie on the CPU, on every process, one after the other."""
        if self.world_size == 1:
            yield from tensors.items()
            return
        kinds = self.broadcast_object(
            lambda: {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
        )
        for name, (shape, dtype) in kinds.items():
            value = tensors[name].contiguous() if self.is_main else torch.empty(shape, dtype=dtype)
            dist.broadcast(value, src=0, group=self._control)
            yield name, value

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes of a tensor, on the CPU."""
        values = values.detach().to("cpu", copy=True)
        if self.world_size > 1:
            dist.all_reduce(values, group=self._control)
        return values

    def any_rank(self, flag: bool) -> bool:
        """Whether any process raised its flag at the call before this one, whose answer has arrived by now.

        Waiting for this call's own answer would make every step wait. Every process has to call it at the same places,
        and gets the same answer there.
        """
        if self.world_size == 1:
            return flag
        before, value = self._pending, torch.tensor([int(flag)])
        self._pending = value, dist.all_reduce(value, dist.ReduceOp.MAX, group=self._control, async_op=True)
        if before is None:
            return False
        before[1].wait()
        return bool(before[0])

    def merge_corrupt(self, corrupt, images) -> None:
        """Merge what the processes have counted of a part of the data: too many are too many over all of them."""
        for names in self.gather(corrupt.names_of(images)) if self.world_size > 1 else ():
            corrupt.record(images, names)

    def settle(self) -> None:
        """Wait for the last `any_rank`, and forget it: the next call is a first one."""
        if self._pending is not None:
            self._pending[1].wait()
        self._pending = None

    def leave(self) -> None:
        """Close the connections."""
        self.settle()
        dist.destroy_process_group()

    @contextmanager
    def first_on_each_host(self) -> Iterator[None]:
        """The body runs on one process of every host, then on the others, which find there what the first has fetched.

        Nothing in the body may wait for another process. Where it fails on the first, the others still run it.
        """
        if self.world_size > 1 and self.local_rank:
            dist.barrier(group=self._control)
        try:
            yield
        finally:
            if self.world_size > 1 and not self.local_rank:
                dist.barrier(group=self._control)

    def wrap(self, objective: nn.Module, device: torch.device, sharded: bool) -> nn.Module:
        """`objective` so that its gradients are the mean over the processes.

        Copies of the whole model (`DistributedDataParallel`), or the model's parameters sharded over the processes
        (`fully_shard`), in which case they are replaced in place, and may come from the CPU.
        """
        if self.world_size == 1:
            return objective
        if sharded:
            return shard(objective, device, self.world_size)
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(objective, device_ids=ids, gradient_as_bucket_view=True)


def gradient_sync(objective: nn.Module, last: bool):
    """A context for a backward pass: gradients stay on this process, unless it is the last of a step's parts."""
    if hasattr(objective, "model") and hasattr(objective.model, "set_requires_gradient_sync"):  # sharded
        objective.model.set_requires_gradient_sync(last)
    return objective.no_sync() if hasattr(objective, "no_sync") and not last else nullcontext()


@contextmanager
def joined(device: torch.device, timeout: float = TIMEOUT) -> Iterator[Processes]:
    """The processes of this run, connected; one alone where nothing has started several.

    An error in the body comes out as the one that this process should end with: see `Heartbeat.verdict`.

    Args:
        device: where this process computes; NCCL connects GPUs, gloo everything else.
        timeout: seconds that one waits for the others before it gives them up.

    Raises:
        PeerLost: where the others do not come, or do not answer any more.
    """
    if not launched():
        yield Processes()
        return
    world_size = number("WORLD_SIZE")
    rank, local = (number(name, default, most=world_size - 1) for name, default in (("RANK", ""), ("LOCAL_RANK", "0")))
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        processes, heartbeat = _connected(rank, world_size, local, device, timeout)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):  # torch raises a bare error for it
            raise ValueError(f"another program uses the port of {where}: choose another MASTER_PORT") from None
        message = f"the processes do not find each other at {where} within {timeout:g} s: {first_line(error)}"
        raise (SilentExit if local else PeerLost)(message) from None
    try:
        yield processes
        processes.leave()
    except Stopped:
        processes.leave()
        raise
    except Exception as error:
        verdict = heartbeat.verdict(error)
        _report_to_torchrun(verdict)
        if verdict is error:
            raise
        raise verdict from None
    finally:
        heartbeat.close()


def _connected(
    rank: int, world_size: int, local: int, device: torch.device, timeout: float
) -> tuple[Processes, Heartbeat]:
    wait, gpu = timedelta(seconds=timeout), device.type == "cuda"
    attempt, by_agent = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "USE_AGENT_STORE"))
    if not (os.environ.get("MASTER_ADDR") and os.environ.get("MASTER_PORT")):
        raise ValueError("WORLD_SIZE is set and MASTER_ADDR or MASTER_PORT is not: start with torchrun, or set all")
    address, port = os.environ["MASTER_ADDR"], number("MASTER_PORT", most=2**16 - 1, least=1)
    check_address(address, rank, timeout)
    if interface := interface_to(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    attempt_name = f"attempt {attempt} of {world_size}"  # torchrun keeps its store when it starts the processes again
    store = dist.PrefixStore(attempt_name, next(dist.rendezvous("env://", rank, world_size, timeout=wait))[0])
    # gloo's collectives time out first, and we can report who is lost; NCCL would end the process with its own trace
    if gpu:
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    dist.init_process_group(
        "nccl" if gpu else "gloo", store=dist.PrefixStore("data", store), rank=rank, world_size=world_size,
        timeout=wait * (1 + gpu), device_id=device if gpu else None,
    )  # fmt: skip
    processes = Processes(rank, world_size, local, dist.new_group(backend="gloo", timeout=wait))
    os.environ["LOCAL_WORLD_SIZE"] = str(processes.hosts.count(processes.hosts[rank]))  # srun does not say so
    own_connection = dist.TCPStore(address, port, is_master=False, timeout=wait, wait_for_workers=False)
    signs = dist.PrefixStore(f"{attempt_name}/heartbeat", own_connection)
    return processes, Heartbeat(
        signs, processes.hosts, rank, local, timeout, holds_store=not rank and by_agent != "True"
    )


def _report_to_torchrun(error: BaseException) -> None:
    """The message where torchrun looks for it, so that its own report says it too."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path or isinstance(error, SilentExit):
        return
    message = str(error) if isinstance(error, RankError | PeerLost) else f"{type(error).__name__}: {error}"
    report = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(report, file)
    except OSError:
        pass  # the report is a courtesy
