"""Several processes that train one model: which of them this is, what they agree on, and what is said when one is lost.

They are started by torchrun, or by Slurm's srun; nothing has to be said on the command line.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

TIMEOUT = 600.0  # seconds that the others are waited for
ANSWER = 10.0  # seconds in which who is still there answers, once somebody is lost
REACH = 5.0  # seconds for one question to the first host


class Failed(ValueError):
    """Wrong input or data that one of several processes has met; the message says which."""


class Lost(RuntimeError):
    """A process does not answer any more; the message names it and its host."""


class Quiet(RuntimeError):
    """This process ends because of another, which has said why."""


class Processes:
    """The processes of a run; by default one alone, for which everything here costs nothing.

    Attributes:
        rank: this one's number; the first, 0, is the one that writes and prints.
        world: how many there are.
        local_rank: this one's number on its host, which is also its GPU's.
        hosts: the host's name of every rank.
    """

    def __init__(self, rank: int = 0, world: int = 1, local_rank: int = 0, store=None, control=None):
        self.rank, self.world, self.local_rank, self._store, self._control = rank, world, local_rank, store, control
        self.hosts = tuple(self.gather(platform.node()))
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

    def share(self, make: Callable):
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

    def share_tensors(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """The first process's tensors, which lie on the CPU, on every process."""
        if self.world == 1:
            return dict(tensors)
        kinds = self.share(lambda: {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()})
        found = {}
        for name, (shape, dtype) in kinds.items():
            found[name] = tensors[name].contiguous() if self.first else torch.empty(shape, dtype=dtype)
            dist.broadcast(found[name], src=0, group=self._control)
        return found

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes of a tensor, on the CPU."""
        values = values.detach().to("cpu", copy=True)
        if self.world > 1:
            dist.all_reduce(values, group=self._control)
        return values

    def agree(self, flag: bool) -> bool:
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

    @contextmanager
    def first_on_each_host(self) -> Iterator[None]:
        """The body runs on one process of every host, then on the others: what the one has fetched is there."""
        if self.world > 1 and self.local_rank:
            dist.barrier(group=self._control)
        yield
        if self.world > 1 and not self.local_rank:
            dist.barrier(group=self._control)

    def wrap(self, objective: nn.Module, device: torch.device, sharded: bool) -> nn.Module:
        """`objective` so that its gradients are the mean over the processes.

        Copies of the whole model (`DistributedDataParallel`), or the model's parameters cut over the processes
        (`fully_shard`), in which case they are replaced in place.
        """
        if self.world == 1:
            return objective
        if sharded:
            return _sharded(objective, device, self.world)
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(objective, device_ids=ids, gradient_as_bucket_view=True)

    def blame(self, error: BaseException) -> BaseException:
        """The error that this process should end with: its own, `Quiet` where another has said it, or `Lost`."""
        if self.world == 1:
            return error
        mine = f"process {self.rank} of {self.world} on {self.hosts[self.rank]}"
        if isinstance(error, RuntimeError) and (found := self._what_happened()):
            return found
        said = _within(REACH, lambda: self._store.compare_set("failure", "", mine).decode())
        if said not in (None, mine):
            return Quiet(f"{said} has failed")
        if isinstance(error, ValueError | OSError):
            words = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else error
            return Failed(f"{mine}: {words}")
        return error

    def _what_happened(self) -> RuntimeError | None:
        """Why a collective call failed: another's failure, or somebody who does not answer; None for neither."""
        answered = _within(ANSWER + REACH, self._roll_call)
        if answered is None:
            first = f"the host of process 0 ({self.hosts[0]}) does not answer"
            return Lost(first) if not self.local_rank else Quiet(first)
        failed, missing = answered
        if failed:
            return Quiet(f"{failed} has failed")
        if not missing:
            return None
        there = [rank for rank in range(self.world) if rank not in missing]
        hosts = dict.fromkeys(self.hosts[rank] for rank in missing)
        words = (
            f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))} of {self.world} on "
            f"{', '.join(hosts)} {'do' if len(missing) > 1 else 'does'} not answer any more: killed, or cut off"
        )
        return Lost(words) if self.rank == min(there) else Quiet(words)

    def _roll_call(self) -> tuple[str, list[int]]:
        """Who has said that it failed, and who says nothing."""
        self._store.set(f"here/{self.rank}", "yes")
        end = time.monotonic() + ANSWER
        while True:
            failed = self._store.get("failure").decode() if self._store.check(["failure"]) else ""
            missing = [rank for rank in range(self.world) if not self._store.check([f"here/{rank}"])]
            if failed or not missing or time.monotonic() > end:
                return failed, missing
            time.sleep(0.1)


def launched() -> bool:
    """Whether torchrun or srun has started several processes."""
    _from_slurm()
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: torch.device, timeout: float = TIMEOUT) -> Iterator[Processes]:
    """The processes of this run, connected; one alone where nothing has started several.

    An error in the body comes out as what this process should say: see `Processes.blame`.

    Args:
        device: where this process computes; NCCL connects GPUs, gloo everything else.
        timeout: seconds that one waits for the others before it gives them up.

    Raises:
        Lost: where the others do not come, or do not answer any more.
    """
    if not launched():
        yield Processes()
        return
    wait = timedelta(seconds=timeout)
    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=wait))
        store.set_timeout(wait)
        backend = "nccl" if device.type == "cuda" else "gloo"
        # what the CPU waits for gives up first, and can say who is lost; NCCL only ends the process
        dist.init_process_group(
            backend, store=dist.PrefixStore("data", store), rank=rank, world_size=world, timeout=2 * wait,
            device_id=device if device.type == "cuda" else None,
        )  # fmt: skip
        control = dist.new_group(backend="gloo", timeout=wait)
    except RuntimeError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise Lost(f"the processes do not find each other at {where} within {timeout:g} s: {_line(error)}") from None
    local = int(os.environ.get("LOCAL_RANK", "0"))
    processes = Processes(rank, world, local, dist.PrefixStore("said", store), control)
    try:
        yield processes
    except Exception as error:
        found = processes.blame(error)
        _tell_torchrun(found)
        raise found from (None if isinstance(found, ValueError | Lost | Quiet) else error)
    dist.destroy_process_group()


def local_device(name: str | None) -> str | None:
    """The GPU of this process, where several were started and none was named."""
    if name is None and launched() and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return name


def whole(value: Tensor) -> Tensor:
    """A tensor without its gradient, put together again where it is cut over the processes (all of them call it)."""
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, full: Tensor) -> Tensor:
    """`full` on the device of `value`, and cut over the processes as it is."""
    full = full.to(value.device)
    if isinstance(value, DTensor):
        return distribute_tensor(full, value.device_mesh, value.placements, src_data_rank=None)
    return full


def _sharded(objective: nn.Module, device: torch.device, world: int) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world,))
    for block in objective.model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(objective.model, mesh=mesh)
    register_fsdp_forward_method(objective.model, "heads")  # what the objective calls
    return objective


def _from_slurm() -> None:
    """torchrun's variables from srun's, where srun has started this process and torchrun has not."""
    given = os.environ
    if "RANK" in given or int(given.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return
    names = ("RANK", "SLURM_PROCID"), ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"), ("LOCAL_RANK", "SLURM_LOCALID")
    for ours, theirs in names:
        given[ours] = given[theirs]
    if "MASTER_ADDR" not in given:
        raise ValueError(
            "srun has started several processes and MASTER_ADDR is not set: export MASTER_ADDR=$(scontrol show "
            "hostnames $SLURM_JOB_NODELIST | head -n 1) before srun"
        )
    given.setdefault("MASTER_PORT", str(20_000 + int(given.get("SLURM_JOB_ID", "0")) % 20_000))


def _tell_torchrun(error: BaseException) -> None:
    """The message where torchrun looks for it, so that its own report says it too."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path or isinstance(error, Quiet):
        return
    said = {"message": {"message": str(error), "extraInfo": {"timestamp": str(int(time.time()))}}}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(said, file)
    except OSError:
        pass  # the report is a courtesy


def _within(seconds: float, ask: Callable):
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


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
