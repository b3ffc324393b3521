"""Lengths that come in batches, counted: their quantiles, and whether they have a second mode."""

import numpy as np
from torch import Tensor

from ..checks import check_finite
from .outliers import middle, second_mode_of

STEP = 2.0**-13  # of a logarithm: lengths that differ by 0.012 % are counted as one


class RunningLengths:
    """A histogram of lengths that come in batches, so fine that nothing is lost in it.

    Attributes:
        n: how many there were.
        largest: of all.
    """

    def __init__(self):
        self.n = 0
        self.largest = 0.0
        self._places, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, lengths: Tensor) -> None:
        """Count lengths, of any shape; a ValueError where one is non-finite."""
        check_finite(lengths)
        values = lengths.detach().flatten().double().clamp(min=1e-30).cpu().numpy()
        if not len(values):
            return
        places, counts = np.unique(np.rint(np.log(values) / STEP).astype(np.int64), return_counts=True)
        self._places, where = np.unique(np.concatenate([self._places, places]), return_inverse=True)
        self._counts = np.bincount(where, np.concatenate([self._counts, counts])).astype(np.int64)
        self.n, self.largest = self.n + len(values), max(self.largest, float(values.max()))

    def quantile(self, share: float) -> float:
        """As `torch.quantile` has it; NaN of none."""
        if not self.n:
            return float("nan")
        rank = share * (self.n - 1)
        at = np.searchsorted(np.cumsum(self._counts), [np.floor(rank), np.ceil(rank)], "right")
        low, high = np.exp(self._places[at] * STEP)
        return min(float(low + (high - low) * (rank % 1)), self.largest)

    def second_mode(self) -> float | None:
        """Where a second mode begins, as `probes.second_mode` finds it; None where there is one mode."""
        return second_mode_of(self._places * STEP, self._counts) if self.n else None

    def ratio(self, cut: float) -> float:
        """The median length above a cut over that of the others."""
        long, logs = self._places * STEP > np.log(cut), self._places * STEP
        medians = [np.exp(middle(logs[part], self._counts[part])) for part in (long, ~long)]
        return float(medians[0] / medians[1])

    def histogram(self, low: float, high: float, bins: int) -> np.ndarray:
        """How many lie in each of some bins, equally wide in the logarithm, `(bins,)`."""
        logs = self._places * STEP
        return np.histogram(logs, bins, (np.log(low), np.log(high)), weights=self._counts)[0].astype(np.int64)

    @property
    def smallest(self) -> float:
        """Of all, to a step."""
        return float(np.exp(self._places[0] * STEP)) if self.n else float("nan")
