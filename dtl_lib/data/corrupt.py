"""Pictures that cannot be read, among many that can."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .images import CorruptImage


class CorruptImages:
    """Reads batches around broken pictures, and counts those.

    Args:
        limit: share of a part's images that may be broken; one always may.

    Raises:
        ValueError: for a limit that is no share; and later, from whatever reads, where more are broken.
    """

    def __init__(self, limit: float = 0.01):
        if not 0 <= limit <= 1:
            raise ValueError(f"the share of broken images is from 0 to 1, such as 0.01, not {limit}")
        self.limit = limit
        self._found: dict[str, dict[int, str]] = {}

    def __len__(self):
        return sum(map(len, self._found.values()))

    @property
    def names(self) -> list[str]:
        """What was broken, each once, sorted."""
        return sorted(name for found in self._found.values() for name in found.values())

    def of(self, images) -> dict[int, str]:
        """The names of broken images of one part of a data set, by sample."""
        return self._found.setdefault(images.name, {})

    def add(self, images, found: Mapping[int, str]) -> None:
        """Count them; a ValueError where that makes too many."""
        known = self.of(images)
        known.update((sample, name) for sample, name in found.items() if sample not in known)
        if len(known) > min(max(1, self.limit * len(images)), len(images) - 1):
            raise ValueError(
                f"{len(known):,} of the {len(images):,} images of {images.name} cannot be read, more than the "
                f"{self.limit:.1%} that may be; the first is {next(iter(known.values()))}: put them back or repair "
                "them, remove them, or allow more (--max-corrupt)"
            )

    def batch(self, images, samples: Tensor, augment=None, key=None, replace: bool = True) -> tuple[Tensor, Tensor]:
        """`images.batch`, with the next readable sample by number in place of a broken one, or none with `replace` off.

        What takes a broken sample's place depends on the data alone: not on the batch, nor on who reads it.
        """
        while True:
            known = self.of(images)
            if replace:
                asked = [self._readable(images, sample) for sample in samples.tolist()]
            else:
                asked = [sample for sample in samples.tolist() if sample not in known]
            try:
                return images.batch(torch.tensor(asked, dtype=torch.int64), augment=augment, key=key)
            except CorruptImage as error:
                self.add(images, error.found)

    def _readable(self, images, sample: int) -> int:
        """The sample, or the next by number that can be read."""
        known = self.of(images)
        while sample in known:
            sample = (sample + 1) % len(images)
            if sample not in known:
                try:  # here, as finding out in the batch would read the whole batch again for each
                    images.raw([sample])
                except CorruptImage as error:
                    self.add(images, error.found)
        return sample
