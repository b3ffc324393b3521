"""Experiment records: what was run, on what, what came out. One JSON line each, in `ledger/<experiment>.jsonl`."""

import os
import platform
from pathlib import Path


def device_name(device="cpu") -> str:
    """What a number was measured on: "2 CPU cores (AMD EPYC 9R14)", or the GPU's name."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU core{'s' * (cores != 1)} ({_processor()})"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
