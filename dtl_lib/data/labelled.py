"""Images whose classes are known before any is opened: those of class folders and of shards."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from ..paths import require
from .files import ImageFiles
from .images import Sets
from .splits import cut, origins

log = logging.getLogger("dtl_lib")
NOTHING = hashlib.sha256().digest()  # of an image that cannot be read
HASHED = 1_000  # images whose bytes the fingerprint reads
SIZED = 10_000  # images whose length in bytes it knows


class LabelledFiles(ImageFiles):
    """`ImageFiles` whose classes are known before any image is opened.

    The source has `targets`; `listing(numbers)`, what the samples are called; `sizes(numbers)`, their lengths in
    bytes; and `locations()`, the folders or files that it reads, by device and inode.
    """

    def __init__(self, name, classes, source, members, config=None, image_size=None):
        super().__init__(name, classes, source, members, config, image_size)
        self._targets = torch.tensor([source.targets[number] for number in members.tolist()], dtype=torch.int64)

    def identity(self):
        return *super().identity(), self.source.listing(self.members.tolist())

    def contents(self):
        """A hash of files' lengths and bytes, whatever their dates.

        Of up to 1,000 images every byte is read, and of more than that those of 1,000 at even distances; lengths are
        those of up to 10,000. In a larger set, a change to an image that keeps its length can therefore go unseen:
        reading all of ImageNet would take minutes at every start.
        """
        return (self._contents,)

    @cached_property
    def _contents(self) -> bytes:
        digest = hashlib.sha256(repr(self.source.sizes(_spread(self.members.tolist(), SIZED))).encode())
        digest.update(b"".join(self.hashes.values()))
        return digest.digest()

    @cached_property
    def hashes(self) -> dict[int, bytes]:
        """Of up to 1,000 images at even distances, by their number in the source."""
        return {
            number: hashlib.sha256(self._bytes(number)).digest() for number in _spread(self.members.tolist(), HASHED)
        }

    def _bytes(self, number: int) -> bytes:
        """An image's bytes; none if it cannot be read, which is reported when the image is needed."""
        try:
            file = self.source(number)[0]
            if hasattr(file, "getvalue"):
                return file.getvalue()
            require(file, "a file", "an image was expected")  # a pipe would be waited for
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


def warn_of_shared(sets: Sets) -> None:
    """Warn where images to train on are also among those that say how good the model is, by a link or as copies.

    All are known by the folders and shards they lie in, and up to 1,000 of a part by their bytes.
    """
    train = sets.train
    for part in (sets.held_out, sets.test):
        if not (isinstance(train, LabelledFiles) and isinstance(part, LabelledFiles)):
            continue
        if part.source is not train.source and part.source.locations() & train.source.locations():
            what = "images lie in folders or shards that are"
        else:
            known = {*train.hashes.values()} - {NOTHING}
            shared = [number for number, digest in part.hashes.items() if digest in known]
            if not shared:
                continue
            name = part.source(shared[0])[1]
            what = f"{len(shared):,} of {len(part.hashes):,} images looked at, such as {name}, are"
        log.warning("%s: %s also in %s: accuracy there says nothing about unseen images", part.name, what, train.name)


def _spread(numbers: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of the numbers, at even distances, the first and the last among them."""
    if len(numbers) <= most:
        return numbers
    return [numbers[place * (len(numbers) - 1) // (most - 1)] for place in range(most)]
