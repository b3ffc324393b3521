"""Images that cannot be read, among many that can."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..checks import typed
from .images import CorruptImage


class CorruptImages:
    """Reads batches around corrupt images, and counts those.

    Args:
        limit: share of a part's images that may be corrupt; one always may.

    Raises:
        ValueError: for a limit that is no share; later, from the methods that read, where more images are corrupt.
    """

    def __init__(self, limit: float = 0.01):
        if not 0 <= typed("max_corrupt", limit, float) <= 1:
            raise ValueError(f"the share of corrupt images is from 0 to 1, such as 0.01, not {limit}")
        self.limit = limit
        self._names: dict[str, dict[int, str]] = {}

    def __len__(self):
        return sum(map(len, self._names.values()))

    @property
    def names(self) -> list[str]:
        """Names of the corrupt images, each once, sorted."""
        return sorted(name for names in self._names.values() for name in names.values())

    def names_of(self, images) -> dict[int, str]:
        """Names of the corrupt images of one part of a data set, by sample."""
        return self._names.setdefault(images.name, {})

    def record(self, images, names: Mapping[int, str]) -> None:
        """Count corrupt images, given by sample; a ValueError where that makes too many."""
        known = self.names_of(images)
        known.update((sample, name) for sample, name in names.items() if sample not in known)
        if self.limit == 1 and len(known) == len(images):
            first = next(iter(known.values()))
            raise ValueError(f"none of the {len(known):,} images of {images.name} can be read; the first is {first}")
        if len(known) > min(max(1, self.limit * len(images)), len(images) - 1):
            raise ValueError(
                f"{len(known):,} of the {len(images):,} images of {images.name} cannot be read, more than the "
                f"{self.limit:.1%} that may be; the first is {next(iter(known.values()))}: put them back or repair "
                "them, remove them, or allow more (--max-corrupt)"
            )

    def batch(self, images, samples: Tensor, augment=None, key=None, replace: bool = True) -> tuple[Tensor, Tensor]:
        """`images.batch`, with a corrupt sample replaced by the next readable one, or left out with `replace` off.

        Which sample replaces it depends on the data alone: not on the batch, nor on the process that reads it.
        """
        while True:
            known = self.names_of(images)
            if replace:
                readable = [self._next_readable(images, sample) for sample in samples.tolist()]
            else:
                readable = [sample for sample in samples.tolist() if sample not in known]
            try:
                return images.batch(torch.tensor(readable, dtype=torch.int64), augment=augment, key=key)
            except CorruptImage as error:
                self.record(images, error.names)

    def _next_readable(self, images, sample: int) -> int:
        """The sample, or the next by number that can be read."""
        known = self.names_of(images)
        while sample in known:
            sample = (sample + 1) % len(images)
            if sample not in known:
                try:  # one at a time: found in a batch, each corrupt image would have the whole batch read again
                    images.raw([sample])
                except CorruptImage as error:
                    self.record(images, error.names)
        return sample
