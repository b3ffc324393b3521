"""A model that is sharded: of every parameter, its gradient and its averages each process holds one shard."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(objective: nn.Module, device: torch.device, world_size: int) -> nn.Module:
    """`objective` with its model sharded in place (`fully_shard`), which comes to `device` a block at a time."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world_size,))
    for module in (*objective.model.blocks, objective.model):
        fully_shard(module, mesh=mesh)
        if device.type == "cpu":  # gloo has no mean: PyTorch 2.8 took its sum for one, in float32
            module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(objective.model, "heads")  # what the objective calls
    return objective


def is_sharded(model: nn.Module) -> bool:
    """Whether a model is sharded: every process then has to call it, and as often as the others."""
    return hasattr(model, "reshard")


def reshard(model: nn.Module) -> None:
    """Let a sharded model keep this process's shard alone: what a forward pass has gathered goes out of date."""
    for module in model.modules() if is_sharded(model) else ():
        if is_sharded(module):
            module.reshard()


def whole(value: Tensor) -> Tensor:
    """A tensor without its gradient, gathered where it is sharded (all processes call it)."""
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, full: Tensor) -> Tensor:
    """`full` on the device of `value`, and where that is sharded this process's shard of it."""
    full = full.to(value.device)
    if isinstance(value, DTensor):
        shard = distribute_tensor(full, value.device_mesh, value.placements, src_data_rank=None)
        return shard.clone()  # it was a view: the whole would stay in memory with it
    return full


def collect(tensors: Mapping[str, Tensor], is_main: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, for the first process; no other ever holds more than one.

    All call it. `get_optimizer_state_dict` of torch's would do the same, but takes a step of its own where the
    optimiser has taken none, and does not know LAMB's.
    """
    collected = {name: _whole_on_cpu(value, is_main) for name, value in tensors.items()}
    return collected if is_main else {}


def _whole_on_cpu(value: Tensor, wanted: bool) -> Tensor | None:
    full = whole(value)
    return full.cpu() if wanted else None
