"""How long a step takes, and why: timed, against timm, against the device's own rate, and part by part."""

from .against import Against, against_timm, timm_of
from .memory import peak_bytes, step_memory
from .pairs import Ratio, keep_memory, measure, ratio
from .parts import Part, profile_step
from .timing import Begun, Rate, Timing, begin, forward_time, matmul_rate, step_time
from .work import How, work

__all__ = [
    "Against", "Begun", "How", "Part", "Rate", "Ratio", "Timing", "against_timm", "begin", "forward_time",
    "keep_memory", "matmul_rate", "measure", "peak_bytes", "profile_step", "ratio", "step_memory", "step_time",
    "timm_of", "work",
]  # fmt: skip
