"""Images of many sizes, decoded from their files as batches ask for them."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image

from . import keyed
from .decoding import decode
from .images import CorruptImage, Images, size_of
from .photos import centre, preprocessing, resampling

ATTEMPTS = 10
ASPECT = 3 / 4, 4 / 3


class ImageFiles(Images):
    """Images decoded one by one: resized and centre-cropped for evaluation, a keyed random resized crop for training.

    Args:
        name, classes: as in `Images`.
        source: a function of a sample's number in it that returns what to decode (a path, a binary file or a PIL
            image), its name for errors, and its class.
        members: the numbers in the source that are samples here, int64 (images,).
        config: anything with attributes image_size, crop, interpolation, mean and std; ImageNet's where None.
        image_size: (height, width) in place of the config's.

    Attributes:
        upright: whether images are turned as their camera noted and laid on white, as `open_image` does.
    """

    upright = False

    def __init__(
        self, name: str, classes: Sequence[str], source: Callable, members: torch.Tensor, config=None, image_size=None
    ):
        settings = preprocessing(config, image_size=image_size)
        self.name, self.classes, self.source, self.members = name, tuple(classes), source, members
        self.image_size = size_of(settings["image_size"])
        self.mean, self.std = tuple(settings["mean"]), tuple(settings["std"])
        self.crop, self.interpolation = settings["crop"], settings["interpolation"]
        self._targets = torch.full((len(members),), -1)

    def __len__(self):
        return len(self.members)

    def labels(self, indices):
        indices = self.checked(indices)
        for index in indices[self._targets[indices] < 0].tolist():
            self._targets[index] = self.source(int(self.members[index]))[2]
        return self._targets[indices]

    def raw(self, indices):
        return self._decode(indices, lambda image, _: centre(image, self.image_size, self.crop, self.interpolation))

    def cropped(self, indices, augment, key):
        if not augment.crop:
            return self.raw(indices)
        draws = keyed.uniform((ATTEMPTS, 4), key, indices, "resized crop").tolist()
        filter_, (height, width) = resampling(self.interpolation), self.image_size

        def crop_and_resize(image: Image.Image, row: int) -> torch.Tensor:
            box = resized_crop(image.size, draws[row], augment.scale)
            return _to_tensor(image.resize((width, height), filter_, box=box))

        return self._decode(indices, crop_and_resize)

    def identity(self):
        return self.members.numpy().tobytes(), self.crop, self.interpolation

    def _decode(self, indices, transform: Callable) -> torch.Tensor:
        """transform(image, row) of every image, stacked; in threads, as Pillow releases the GIL while it decodes."""
        indices, corrupt = self.checked(indices).tolist(), {}
        with torch.inference_mode(False):  # the mode is per thread: the pool's threads may not write inference tensors
            out = torch.empty(len(indices), 3, *self.image_size, dtype=torch.uint8)

        def decode_row(row: int) -> None:
            try:
                file, name, target = self.source(int(self.members[indices[row]]))
                self._targets[indices[row]] = target
                out[row] = transform(decode(file, name, self.upright), row)
            except CorruptImage as error:
                corrupt[row] = error

        if torch.utils.data.get_worker_info() is not None:  # a loader's worker: its siblings keep the other cores busy
            list(map(decode_row, range(len(indices))))
        else:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                list(pool.map(decode_row, range(len(indices))))
        if corrupt:
            names = {indices[row]: corrupt[row].name for row in sorted(corrupt)}
            raise CorruptImage(*corrupt[min(corrupt)].args, names)
        return out


def resized_crop(size: tuple[int, int], draws: Sequence[Sequence[float]], smallest: float) -> tuple[float, ...]:
    """A box of random area and aspect ratio inside an image (Szegedy et al. 2015, Going Deeper with Convolutions, §6).

    Args:
        size: (width, height) of the image.
        draws: attempts, each four numbers in [0, 1): area, aspect, left, top. The first that fits is taken, or the
            largest centred box of an allowed aspect where none does.
        smallest: share of the area that is kept at least.

    Returns:
        left, top, right, bottom.
    """
    width, height = size
    for area, aspect, left, top in draws:
        area = (smallest + (1 - smallest) * area) * width * height
        aspect = math.exp(math.log(ASPECT[0]) + (math.log(ASPECT[1]) - math.log(ASPECT[0])) * aspect)
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(left * (width - wide + 1)), int(top * (height - tall + 1))
            return left, top, left + wide, top + tall
    wide, tall = min(width, height * ASPECT[1]), min(height, width / ASPECT[0])
    return (width - wide) / 2, (height - tall) / 2, (width + wide) / 2, (height + tall) / 2


def _to_tensor(image: Image.Image) -> torch.Tensor:
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(image)
