"""Pictures whose classes are known before any is opened: those of class folders and of shards."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from ..paths import require
from .files import ImageFiles
from .images import Sets
from .splits import cut, origins

HASHED = 1_000  # pictures whose bytes the fingerprint reads
SIZED = 10_000  # pictures whose length in bytes it knows


class LabelledFiles(ImageFiles):
    """`ImageFiles` whose classes are known before any image is opened.

    The source has `targets`; `listing(numbers)`, what the samples are called; and `sizes(numbers)`, their lengths in
    bytes.
    """

    def __init__(self, name, classes, source, members, config=None, image_size=None):
        super().__init__(name, classes, source, members, config, image_size)
        self._targets = torch.tensor([source.targets[number] for number in members.tolist()], dtype=torch.int64)

    def identity(self):
        return *super().identity(), self.source.listing(self.members.tolist())

    def contents(self):
        """A hash of files' lengths and bytes, whatever their dates.

        Of up to 1,000 pictures every byte is read, and of more than that those of 1,000 at even distances; lengths are
        those of up to 10,000. A picture of a larger set that is changed without changing its length can so go unseen:
        reading all of ImageNet would take minutes at every start.
        """
        return (self._contents,)

    @cached_property
    def _contents(self) -> bytes:
        numbers, digest = self.members.tolist(), hashlib.sha256()
        digest.update(repr(self.source.sizes(_spread(numbers, SIZED))).encode())
        for number in _spread(numbers, HASHED):
            digest.update(hashlib.sha256(self._bytes(number)).digest())
        return digest.digest()

    def _bytes(self, number: int) -> bytes:
        """A picture's bytes; none where it cannot be read, which is for whoever needs the picture to say."""
        try:
            file = self.source(number)[0]
            if hasattr(file, "getvalue"):
                return file.getvalue()
            require(file, "a file", "a picture was expected")  # a pipe would be waited for
            return Path(file).read_bytes()
        except (OSError, ValueError):
            return b""

    def present(self):
        return self._targets.unique()


def labelled_sets(
    name: str, classes: Sequence[str], sources: Mapping, folders: Mapping, samples: int | None, config, image_size,
    identities: Sequence[str] | None = None,
) -> Sets:  # fmt: skip
    """A data set's three parts.

    Args:
        name: what they are called, before the part.
        classes, identities: as in `Images`.
        sources, folders, samples: as in `splits.cut`.
        config, image_size: as in `ImageFiles`.
    """
    sets, where = {}, origins(folders)
    for part, (source, members) in cut(sources, folders, samples).items():
        images = LabelledFiles(f"{name} {part}", classes, source, members, config, image_size)
        images.origin, images.identities = where.get(part, ""), identities and tuple(identities)
        sets[part] = images
    return Sets(**sets)


def _spread(numbers: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of the numbers, at even distances, the first and the last among them."""
    if len(numbers) <= most:
        return numbers
    return [numbers[place * (len(numbers) - 1) // (most - 1)] for place in range(most)]
