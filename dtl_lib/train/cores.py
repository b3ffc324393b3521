"""Which cores a process may use, and how many of them are its own."""

import os
from collections.abc import Iterable
from fractions import Fraction


def allowed() -> frozenset[int]:
    """The numbers of the cores that this process may use on its host."""
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def own(mine: frozenset[int], here: Iterable[frozenset[int]]) -> int:
    """How many cores a process can count on: of each that several of its host may use, its share; at least one.

    torchrun's processes may all use the same cores. What srun binds to cores has them for itself.

    Args:
        mine: the cores it may use.
        here: those of every process of its host, its own among them.
    """
    here = list(here)
    return max(1, int(sum(Fraction(1, sum(core in one for one in here)) for core in mine)))
