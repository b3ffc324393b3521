"""Where a model computes, in which precision, and with which random numbers."""

from contextlib import contextmanager, nullcontext

import torch

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(model) -> torch.device:
    """Where a model's parameters lie."""
    return next(model.parameters()).device


def precision(device: torch.device, amp: str) -> str:
    """`amp` with "auto" decided: bf16 on a GPU that has it, fp16 on an older one, off on a CPU."""
    if amp != "auto":
        return amp
    if device.type != "cuda":
        return "off"  # measured: bf16 helps on a CPU from about width 192 on, and only on some
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def autocast(device: torch.device, amp: str):
    """The context a forward pass runs in."""
    half = precision(device, amp)
    return nullcontext() if half == "off" else torch.autocast(device.type, HALVES[half])


@contextmanager
def keyed_generators(device: torch.device, *key: int):
    """Seeds torch's generators by `key` inside, and leaves them as they were outside.

    What is drawn at a step then depends on (seed, step) alone, and a resumed run draws the same.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        seed = _seed(key)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reach for every GPU, at every step
        if gpus:
            number = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[number].manual_seed(seed)
        yield


def _seed(key: tuple[int, ...]) -> int:
    from ..data import keyed

    return keyed.seeds(key, torch.zeros(1, dtype=torch.int64), "step")[0]
