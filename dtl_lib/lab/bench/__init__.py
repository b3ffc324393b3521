"""How long a step takes, and why: timed, against timm, against the device's own rate, and part by part."""

from ...host import keep_memory
from .against import Against, against_timm, timm_of
from .memory import peak_bytes, step_memory
from .pairs import Ratio, measure, ratio
from .parts import Part, profile_step
from .shapes import compare_steps
from .step import BenchConfig, make_step
from .timing import Rate, Timing, WarmStep, forward_time, matmul_rate, step_time, warm_step

__all__ = [
    "Against", "BenchConfig", "Part", "Rate", "Ratio", "Timing", "WarmStep", "against_timm", "compare_steps",
    "forward_time",
    "keep_memory", "make_step", "matmul_rate", "measure", "peak_bytes", "profile_step", "ratio", "step_memory",
    "step_time", "timm_of", "warm_step",
]  # fmt: skip
