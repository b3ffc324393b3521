"""Some images of a data set, each labelled by its number among them: which image a value is of stays known."""

import torch

from .files import ImageFiles
from .images import CorruptImage, Images


class Numbered(Images):
    """Images whose labels are their own numbers, from 0.

    Args:
        images: part of a data set.
        numbers: of those that are kept.
    """

    def __init__(self, images: Images, numbers):
        self.images, self.numbers = images, torch.as_tensor(numbers, dtype=torch.int64)
        self.name, self.classes, self.image_size = images.name, images.classes, images.image_size
        self.mean, self.std, self.channels, self.origin = images.mean, images.std, images.channels, images.origin
        self.in_files = isinstance(images, ImageFiles)

    def __len__(self):
        return len(self.numbers)

    def labels(self, indices):
        return self.checked(indices)

    def raw(self, indices):
        indices = self.checked(indices)
        try:
            return self.images.raw(self.numbers[indices])
        except CorruptImage as error:
            own = {int(number): index for index, number in zip(indices.tolist(), self.numbers[indices].tolist())}
            raise CorruptImage(*error.args, {own[number]: name for number, name in error.names.items()}) from None

    def identity(self):
        return *self.images.identity(), self.numbers.numpy().tobytes()


class Part(Numbered):
    """Some of the images, with their own labels. Args: as `Numbered`'s."""

    def __init__(self, images: Images, numbers):
        super().__init__(images, numbers)
        self.identities = images.identities

    def labels(self, indices):
        return self.images.labels(self.numbers[self.checked(indices)])

    def present(self):
        known = self.images.present()
        return known if known is None else self.labels(torch.arange(len(self))).unique()
