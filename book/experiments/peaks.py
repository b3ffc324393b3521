"""What data sheets promise: dense matrix products a second, in FLOP/s, and the share of it that a step reaches.

Source: NVIDIA's data sheets of the T4 (2019), the A100 (2021), the H100 SXM (2023) and the H200 SXM (2024). Where they
give a rate with sparsity, this is half of it. The slower H100 for PCIe and the NVL cards have
no row.
"""

from contextlib import contextmanager

import torch

HOPPER = {"bf16": 989e12, "fp16": 989e12, "tf32": 494e12, "fp32": 67e12}
AMPERE = {"bf16": 312e12, "fp16": 312e12, "tf32": 156e12, "fp32": 19.5e12}
PEAKS = {
    "H100 80GB HBM3": HOPPER, "H100 SXM": HOPPER, "H200": HOPPER, "A100": AMPERE,
    "T4": {"fp16": 65e12, "fp32": 8.1e12},
}  # fmt: skip
WORDS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def of_sheet(device_name: str, dtype: torch.dtype, tf32: bool = False) -> float | None:
    """A device's peak by its data sheet; None where it has no row, or no such products.

    Args:
        device_name: as `host.device_name` says it.
        dtype: of what is multiplied.
        tf32: whether float32 is multiplied as TF32.
    """
    kind = "tf32" if tf32 and dtype == torch.float32 else WORDS.get(dtype)
    words = f"{device_name} ".replace("-", " ")
    if " NVL " in words:
        return None
    return next((peaks.get(kind) for name, peaks in PEAKS.items() if f"{name} " in words), None)


@contextmanager
def tf32():
    """Inside, products of float32 matrices are made in TF32 where the device has it; then as they were before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
