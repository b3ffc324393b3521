"""The interface of every data set: images by index."""

import copy
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import as_whole, is_whole, shortened
from ..config import grey_values
from ..hashing import of_parts
from .augment import transforms as augmentation
from .augment.transforms import Augment
from .augment.trivial import trivial

HASHED_TOGETHER = 4096  # images in memory whose pixels are copied for the fingerprint
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def plain_name(name: str) -> str:
    """A class's name as a card can hold it, and as two file systems agree on it: composed, without stray bytes."""
    text = (
        os.fsencode(name).decode("utf-8", "backslashreplace") if any("\ud800" <= c <= "\udfff" for c in name) else name
    )
    return unicodedata.normalize("NFC", text)


class CorruptImage(ValueError):
    """An image that cannot be opened or decoded.

    Args:
        name: of its file, or of its place in a larger file.
        why: the rest of the sentence.
        names: by sample number, of all corrupt images of a batch; filled in by the data set.
    """

    def __init__(self, name, why: str, names: Mapping[int, str] | None = None):
        super().__init__(name, why)
        self.name, self.names = str(name), dict(names or {})

    def __str__(self):
        return " ".join(map(str, self.args))


class Images:
    """Images and their classes, by index; a data set defines `raw`, `labels`, `__len__` and `identity`.

    Attributes:
        name: of data set and part, such as `cifar10 train`.
        classes: names, in the order of the labels.
        mean, std: a channel, of pixels in 0 … 1.
        channels: of a batch: 3, or 1 for grey, which is made last, after augmentation in colour.
        image_size: (height, width) in pixels.
        device: where batches are made.
        identities: of the classes, where their names are for readers: WordNet ids; None where the names do.
        origin: where the images are from, for a log.
    """

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: tuple[int, int]
    channels: int = 3
    device: torch.device = torch.device("cpu")
    identities: tuple[str, ...] | None = None
    origin: str = ""

    def __len__(self) -> int:
        raise NotImplementedError

    def labels(self, indices) -> torch.Tensor:
        """Classes of the samples, int64 (batch,)."""
        raise NotImplementedError

    def raw(self, indices) -> torch.Tensor:
        """Pixels before augmentation and normalisation, uint8 (batch, 3, height, width)."""
        raise NotImplementedError

    def identity(self) -> Sequence:
        """What distinguishes this data from other data, for the fingerprint, apart from `contents`."""
        raise NotImplementedError

    def contents(self) -> Sequence[bytes]:
        """A hash of the pixels, for the fingerprint; none where `identity` decides them."""
        return ()

    def present(self) -> torch.Tensor | None:
        """The classes that have images, sorted; None where it would take opening the images to know."""
        return None

    @property
    def class_ids(self) -> tuple[str, ...]:
        """The classes' names on a model's card, by index, as plain text; two folders' classes are matched by them."""
        return tuple(map(plain_name, self.identities or self.classes))

    def batch(self, indices, augment: Augment | None = None, key: Sequence[int] | None = None):
        """Images for the model and their classes.

        Args:
            indices: the samples, 1-D integers.
            augment: None for evaluation.
            key: (seed, epoch); with the sample's index it decides the augmentation.

        Returns:
            x, float32 (batch, channels, height, width), normalised; y, int64 (batch,).

        Raises:
            ValueError: for an index out of range, or augmentation without a key.
        """
        if augment is None:
            return self.normalised(self.raw(indices)), self.labels(indices)
        if key is None:
            raise ValueError("augmentation needs key=(seed, epoch): it is a function of seed, epoch and sample")
        pixels, on_device = self.cropped(indices, augment, key), self.checked(indices)
        if augment.flip:
            pixels = augmentation.flip(pixels, key, on_device)
        if augment.trivial:
            pixels = trivial(pixels, key, indices)
        pixels = augmentation.recolour(pixels, augment, key, on_device)
        x = self.normalised(pixels)
        if augment.erase:
            x = augmentation.erase(x, augment.erase, key, indices)
        return x, self.labels(indices)

    def cropped(self, indices: torch.Tensor, augment: Augment, key: Sequence[int]) -> torch.Tensor:
        """Pixels after the random crop, uint8 (batch, 3, height, width)."""
        pixels = self.raw(indices)
        if not augment.crop:
            return pixels
        bordered, indices = augmentation.padded(pixels, augment.crop), self.checked(indices)
        return augmentation.crop(bordered, torch.arange(len(indices), device=self.device), augment.crop, key, indices)

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 (batch, channels, height, width), (pixels/255 − mean)/std in one multiply and add."""
        if self.channels == 1:
            pixels = grey(pixels)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        scale, shift = (part.to(pixels.device, non_blocking=True) for part in (1 / (255 * std), mean / std))
        return pixels.float().mul_(scale).sub_(shift)

    def checked(self, indices) -> torch.Tensor:
        """`indices` as int64 on the device; raises ValueError where one is out of range.

        They are checked where they lie: on the CPU nothing waits for a GPU.
        """
        try:
            indices = torch.as_tensor(indices)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"indices are 1-D integers, not {shortened(indices)}") from None
        if indices.ndim != 1 or (indices.numel() and indices.dtype not in INTEGERS):
            raise ValueError(f"indices are 1-D integers; these are {indices.dtype} with shape {tuple(indices.shape)}")
        indices = indices.long()
        if len(indices) and not len(self):
            raise ValueError(f"{self.name} holds no images")
        if len(indices) and not (0 <= indices.min() and indices.max() < len(self)):
            raise ValueError(
                f"{self.name} holds samples 0 to {len(self) - 1}; "
                f"asked for {indices.min().item()} to {indices.max().item()}"
            )
        return indices.to(self.device, non_blocking=True)

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with the data: its name, length, size, classes, order, and pixels.

        Of images in memory every pixel counts; of those in files what `LabelledFiles.contents` reads, or for the
        readers of other libraries none. Generated images are as their name, seed and range say.
        """
        return of_parts((*self._known_by_name(), *self.contents()))

    def has_fingerprint(self, fingerprint) -> bool:
        """Whether that is this data's, as it is now or as it was before it changed with every pixel."""
        return fingerprint in (of_parts(self._known_by_name()), self.fingerprint())

    def _known_by_name(self) -> tuple:
        grey = ("grey",) if self.channels == 1 else ()
        return self.name, len(self), self.image_size, self.classes, *self.identity(), *grey

    def describe(self) -> str:
        """One line for a log."""
        (height, width), classes, present = self.image_size, f"{len(self.classes)}", self.present()
        if present is not None and 0 < len(present) < len(self.classes):
            classes = f"{len(present):,} of {len(self.classes):,}"
        origin = f", from {self.origin}" if self.origin and len(self) else ""
        size = f"{height}×{width}" + ", grey" * (self.channels == 1)
        return f"{self.name}: {len(self):,} images, {size}, {classes} classes, {self.fingerprint()}{origin}"


class InMemory(Images):
    """Images held as one uint8 tensor; a batch is cropped from a padded copy by one indexing operation.

    Args:
        name, classes, mean, std: as in `Images`.
        pixels: uint8 (images, 3, height, width).
        targets: int64 (images,).
        image_size: (height, width) that batches are resized to, or None for the size they have.
    """

    def __init__(self, name, classes, mean, std, pixels: torch.Tensor, targets: torch.Tensor, image_size=None):
        self.name, self.classes, self.mean, self.std = name, tuple(classes), mean, std
        self.image_size = image_size or tuple(pixels.shape[-2:])
        self.targets, self._bordered, self._border = targets, pixels, 0
        self._size, self.device = tuple(pixels.shape[-2:]), pixels.device

    def __len__(self):
        return len(self.targets)

    def to(self, device) -> "InMemory":
        """Moves the images to a device, where batches are then made."""
        self.targets, self._bordered = self.targets.to(device), self._bordered.to(device)
        self.device = self._bordered.device
        return self

    def labels(self, indices):
        return self.targets[self.checked(indices)]

    def raw(self, indices):
        return self._resized(self._pixels[self.checked(indices)])

    def cropped(self, indices, augment, key):
        if not augment.crop:
            return self.raw(indices)
        if augment.crop != self._border:
            self._bordered, self._border = augmentation.padded(self._pixels, augment.crop), augment.crop
        indices = self.checked(indices)
        return self._resized(augmentation.crop(self._bordered, indices, augment.crop, key, indices))

    def identity(self):
        sampled = torch.linspace(0, len(self) - 1, min(len(self), 64)).long().to(self.device)
        return self.targets.cpu().numpy().tobytes(), self._pixels[sampled].cpu().numpy().tobytes()

    def contents(self):
        return (of_parts(part.cpu().numpy().tobytes() for part in self._pixels.split(HASHED_TOGETHER)).encode(),)

    @property
    def _pixels(self) -> torch.Tensor:
        border, (height, width) = self._border, self._size
        return self._bordered[:, :, border : border + height, border : border + width]

    def _resized(self, pixels):
        if self.image_size == self._size:
            return pixels
        resized = F.interpolate(pixels.float(), self.image_size, mode="bicubic", antialias=True)
        return resized.round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Sets:
    """The parts of a data set; `held_out`, cut from the training data, never from `test`, picks the best weights."""

    train: Images
    held_out: Images
    test: Images

    def describe(self) -> str:
        """Three lines for a log."""
        return "\n".join(images.describe() for images in (self.train, self.held_out, self.test))


def size_of(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of an int or a pair; raises ValueError for anything else."""
    size = (image_size, image_size) if is_whole(image_size) else image_size
    size = tuple(map(as_whole, size)) if isinstance(size, Sequence) else ()
    if len(size) != 2 or not all(length is not None and length > 0 for length in size):
        raise ValueError(f"image_size is {image_size!r}; it is one number of pixels or (height, width)")
    return size


def grey(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (…, 3, height, width) as (…, 1, height, width): luma as Pillow's mode L has it (ITU-R BT.601)."""
    red, green, blue = pixels.int().unbind(-3)
    return ((19_595 * red + 38_470 * green + 7_471 * blue + 2**15) >> 16).to(torch.uint8).unsqueeze(-3)


def with_channels(images: Images, channels: int) -> Images:
    """The same images with so many channels; a ValueError where that is neither 1 (grey) nor 3."""
    if images.channels == channels:
        return images
    if images.channels == 1:
        raise ValueError(
            f"{images.name} was loaded in grey, and the model takes {channels} channels: load it for this model "
            "(config=model.config)"
        )
    if channels not in (1, 3):
        raise ValueError(f"{images.name} has {images.channels} channels or 1, grey, and the model takes {channels}")
    images = copy.copy(images)
    images.channels = channels
    images.mean, images.std = (grey_values(values) for values in (images.mean, images.std))
    return images


def sets_with_channels(sets: Sets, channels: int) -> Sets:
    """The same parts with so many channels: 3, or 1 for grey."""
    if channels == 3:
        return sets
    return Sets(*(with_channels(images, channels) for images in (sets.train, sets.held_out, sets.test)))
