"""Where a model computes, and in which precision."""

from contextlib import nullcontext

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
