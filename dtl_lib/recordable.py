"""Which models can be recorded."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .models import ViT


def unwrapped(model: nn.Module) -> tuple[ViT, list[nn.Module]]:
    """The `ViT` inside, and its modules: with walks over them a record of a small model would cost a hundredth more."""
    while isinstance(model, DataParallel | DistributedDataParallel):
        if isinstance(model, DataParallel) and len(model.device_ids) > 1:
            raise ValueError(
                f"DataParallel shares the images out over {len(model.device_ids)} replicas, and a tape would see those "
                "of one: record the module inside (.module), on one device"
            )
        model = model.module
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    if any("_orig_mod" in part._modules or part._compiled_call_impl is not None for part in modules):
        raise ValueError("a compiled model does not call its modules: record the model it was compiled from")
    if not isinstance(model, ViT):
        raise ValueError(f"give a ViT (from_timm makes one of a timm model), not a {type(model).__name__}")
    return model, modules
