"""What a group of tokens has become before each block, over many images, in memory that does not grow with them."""

import random
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..models import ViT
from .entry_route import Route

DONORS = 512  # images whose states are kept
CHANGED = 0.01  # relative difference of a state that no rounding explains


class States:
    """The sum of the group's states, and those of some images drawn at random (Vitter 1985, Random sampling with a
    reservoir, algorithm R); first `keep` all images, then for each batch `draw` and `check_same`.

    Args:
        route: of the model and group.
        blocks: before which states are wanted, in rising order.
        seed: of what is drawn.
    """

    def __init__(self, route: Route, blocks: Sequence[int], seed: int):
        self.route, self.blocks, self.n = route, list(blocks), 0
        self._random = random.Random(seed)
        self._sum: Tensor | float = 0.0
        self._numbers, self._donors, self._reads = [], [], []
        self._drawn, self._seen = [], 0

    def keep(self, images: Tensor) -> None:
        """First pass: a batch of images in the untouched model."""
        own, x = [], images
        for block, x in enumerate(self.route.sequences(images)):
            if block in self.blocks:
                own.append(self.route.state(x, block))
        read, own = self.route.finish(x, self.route.last), torch.stack(own, dim=1)
        self._sum = self._sum + own.double().sum(dim=0)
        for state, reads in zip(own, read):
            place = self.n if self.n < DONORS else self._random.randrange(self.n + 1)
            self.n += 1
            if place < DONORS:
                for kept, value in zip(
                    (self._numbers, self._donors, self._reads), (self.n - 1, state.clone(), reads.clone())
                ):
                    kept[place : place + 1] = [value]

    def check(self, needing_others: Iterable[str]) -> None:
        """A ValueError where there are too few images."""
        if not self.n:
            raise ValueError("there are no images to measure on")
        if self.n < 2 and (ways := sorted(needing_others)):
            need = " and ".join(ways) + (" needs" if len(ways) == 1 else " need")
            raise ValueError(f"{need} another image, and there is one: give two or more")

    def between(self) -> float | None:
        """Mean cosine between what is read of an image and of another, over those kept; None with one image."""
        if self.n < 2:
            return None
        reads = torch.stack(self._reads).flatten(1).double()
        return float(torch.cosine_similarity(reads, reads.roll(1, dims=0), dim=1).mean())

    def draw(self, images: int) -> None:
        """Second pass: another image for each of the next ones."""
        self._drawn = []
        for number in range(self._seen, self._seen + images if self.n > 1 else self._seen):
            place = self._random.randrange(len(self._numbers))
            if self._numbers[place] == number:
                place = (place + self._random.randrange(1, len(self._numbers))) % len(self._numbers)
            self._drawn.append(place)

    def of_another(self, block: int) -> Tensor:
        """The states of the images drawn, `(batch, moved, dim)`."""
        at = self.blocks.index(block)
        return torch.stack([self._donors[place][at] for place in self._drawn])

    def mean_of_others(self, own: Tensor, block: int) -> Tensor:
        """The mean state before a block over all images but each one, `(batch, moved, dim)`."""
        return (self._sum[self.blocks.index(block)] - own.double()) / (self.n - 1)

    def check_same(self, own: Sequence[Tensor]) -> None:
        """A ValueError where a batch holds other images than in the first pass, as far as their states are kept."""
        places = {number: place for place, number in enumerate(self._numbers)}
        for state in torch.stack(list(own), dim=1):
            place = places.get(self._seen)
            self._seen += 1
            if self._seen > self.n or (place is not None and _differ(state, self._donors[place])):
                self._refuse()

    def check_all_seen(self) -> None:
        """A ValueError where the second pass had fewer images than the first."""
        if self._seen != self.n:
            self._refuse()

    def _refuse(self) -> None:
        raise ValueError(
            "the batches held other images the second time: give the same images in the same order each time, without "
            "shuffling and without random augmentation"
        )


def images_and_labels(model: ViT, batches: Iterable) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The batches on the model's device; labels are None where there are none, or the model has no classes.

    Raises:
        ValueError: for what is neither images nor a pair, and labels that are not one class of the model's an image.
    """
    device, labelled = next(model.parameters()).device, None
    for batch in batches:
        pair = (batch, None) if isinstance(batch, Tensor) else tuple(batch) if isinstance(batch, list | tuple) else ()
        if len(pair) != 2 or not isinstance(pair[0], Tensor):
            raise ValueError("a batch is images, a tensor, or a pair of images and labels")
        images, labels = pair
        if labelled not in (None, labels is not None):
            raise ValueError("some batches have labels and some do not: give labels to all of them, or to none")
        labelled = labels is not None
        if labels is not None:
            _check_labels(labels, len(images), model.config.classes)
        yield images.to(device), labels.to(device) if labels is not None and model.config.classes else None


def _check_labels(labels: Tensor, images: int, classes: int) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or tuple(labels.shape) != (images,):
        raise ValueError(f"labels are whole numbers, ({images},) for {images} images")
    if classes and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels are 0 … {classes - 1}, the model's classes, and they reach {int(labels.max())}")


def _differ(state: Tensor, kept: Tensor) -> bool:
    return bool((state - kept).norm() > CHANGED * kept.norm())
