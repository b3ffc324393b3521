"""How many directions do the tokens use?"""

import torch
from torch import Tensor

from ..hooks import full_precision


class RunningScatter:
    """Mean and scatter matrix of vectors that come in batches (Chan et al. 1983, as `RunningMean`), float64.

    Attributes:
        n: how many there were.
        mean: `(dim,)`.
        scatter: the sum of the outer products of what each differs from the mean by, `(dim, dim)`.
    """

    def __init__(self, dim: int):
        self.n = 0
        self.mean, self.scatter = torch.zeros(dim).double(), torch.zeros(dim, dim).double()

    def add(self, vectors: Tensor) -> None:
        """Count vectors, `(n, dim)`."""
        if not len(vectors):
            return
        mean = vectors.mean(dim=0)
        away = vectors - mean
        with full_precision(vectors.device):
            scatter = away.T @ away
        self._merge(len(vectors), mean.double().cpu(), scatter.double().cpu())

    def merged(self, other: "RunningScatter") -> "RunningScatter":
        """Of the vectors of both."""
        both = RunningScatter(len(self.mean))
        for one in (self, other):
            both._merge(one.n, one.mean, one.scatter)
        return both

    def _merge(self, more: int, mean: Tensor, scatter: Tensor) -> None:
        n = self.n + more
        away, part = mean - self.mean, more / max(n, 1)
        self.scatter = self.scatter + scatter + torch.outer(away, away) * (self.n * part)
        self.mean, self.n = self.mean + away * part, n


def effective_rank(scatter: Tensor) -> float:
    """How many directions vectors use around their mean: the exponential of the entropy of their singular values, each
    over the sum of all (Roy & Vetterli 2007, The effective rank); 1 where they lie on a line, `dim` where no direction
    is preferred.

        >>> import torch
        >>> from dtl_lib import probes
        >>> round(probes.effective_rank(torch.eye(5)), 3), round(probes.effective_rank(torch.ones(5, 5)), 3)
        (5.0, 1.0)

    Args:
        scatter: their scatter or covariance matrix, `(dim, dim)`; 0 everywhere gives 0.
    """
    values = torch.linalg.eigvalsh(scatter.double()).clamp(min=0).sqrt()
    values = values[values > 1e-7 * values.max()]  # beyond what float64 tells from 0
    shares = values / values.sum()
    return float((-(shares * shares.log()).sum()).exp()) if len(values) else 0.0
