"""One record at a time of a model, by hooks that stay with it: no copy, replica or other thread writes to its tape."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

_recorded: set[nn.Module] = set()
_lock = threading.Lock()


@contextmanager
def recording(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, no other record can be made of a model with one of these modules that has parameters of its own.

    Raises:
        ValueError: where there is one already.
    """
    # two models may share what has none, such as an identity
    parts = [part for part in modules if any(value is not None for value in part._parameters.values())]
    with _lock:
        if any(part in _recorded for part in parts):
            raise ValueError(
                "this model, or a part of it, is being recorded already: leave that with block first, or record a copy "
                "(copy.deepcopy)"
            )
        _recorded.update(parts)
    try:
        yield
    finally:
        with _lock:
            _recorded.difference_update(parts)


class Hook:
    """Calls a function for the forward passes of one module in one thread, the one it is made in.

    Args:
        module: the one; passes of a replica are refused, those of other threads left alone.
        call: what a hook of the module is.
    """

    def __init__(self, module: nn.Module, call: Callable):
        self.module, self.call, self.thread = module, call, threading.get_ident()

    def __call__(self, module: nn.Module, *given):
        if module is not self.module:
            raise ValueError(
                "record sees one replica's images alone: record the module inside of DataParallel, on one device"
            )
        return self.call(module, *given) if threading.get_ident() == self.thread else None

    def __reduce__(self):
        return Gone, ()


class Gone:
    """What a hook becomes in a copy or a pickle; a `ViT` drops it."""

    def __call__(self, *_) -> None:
        return None


def drop_gone(model: nn.Module) -> None:
    """Take out of a copy what was a recorder's hook in the model it is made from."""
    for part in model.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            for number in [number for number, hook in hooks.items() if isinstance(hook, Gone)]:
                del hooks[number]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, a model is in evaluation mode; afterwards each of its modules is in the mode that it was in."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast on a device, also where there is none to turn off (`meta`)."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
