"""A value of each image, over any number of images: its mean and how sure that is, in memory that does not grow."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..checks import check_finite
from ..hooks import evaluating
from ..models import ViT
from ..tape import Tape, record

Name = TypeVar("Name", bound=Hashable)
CONTROL = 64  # images on which an untrained model is measured, whose attention hardly differs between images


@dataclass(frozen=True)
class Estimate:
    """A mean over images with Student's 95 % interval, float64; of one image the interval is unknown, NaN.

    Attributes:
        mean, low, high: `(…)`, the shape of one image's values.
        n: images.
    """

    mean: Tensor
    low: Tensor
    high: Tensor
    n: int


class RunningMean:
    """The mean and variance of values that come in batches (Chan et al. 1983, Algorithms for computing the sample
    variance, eq. 1.5): no value is kept, and nothing is lost where the mean is large.
    """

    def __init__(self):
        self.n = 0
        self._mean: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """Count a batch, `(batch, …)`."""
        values = values.detach().double().cpu()
        if not len(values):
            return
        more, mean = len(values), values.mean(dim=0)
        away, n = mean - self._mean, self.n + more
        self._squares = self._squares + (values - mean).square().sum(dim=0) + away.square() * (self.n * more / n)
        self._mean, self.n = self._mean + away * (more / n), n

    def estimate(self) -> Estimate:
        """What is known by now.

        Raises:
            ValueError: where nothing was counted, or what was is non-finite.
        """
        from scipy.stats import t

        if not self.n:
            raise ValueError("there are no images to measure on")
        mean = torch.as_tensor(self._mean)
        check_finite(mean)
        factor = float(t.ppf(0.975, self.n - 1)) / (self.n - 1) ** 0.5 if self.n > 1 else float("nan")
        half = factor * (torch.as_tensor(self._squares) / self.n).sqrt()
        return Estimate(mean, mean - half, mean + half, self.n)


def over_images(
    model: ViT, batches: Iterable, measure: Callable[[Tape], Mapping[Name, Tensor]], stream: bool = True
) -> dict[Name, Estimate]:
    """What a probe finds, averaged over images: of each value its mean with a 95 % interval.

    A batch is forgotten before the next one is read.

        >>> from dtl_lib import data, load_pretrained, probes
        >>> model, test = load_pretrained("zoo/shapes_depth6_reg4"), data.load("shapes").test
        >>> batches = (test.batch(range(start, start + 50))[0] for start in (0, 50))
        >>> found = probes.over_images(model, batches, lambda tape: {"on registers": probes.share(tape, 5, on="reg")})
        >>> found["on registers"].n, tuple(found["on registers"].mean.shape)  # by head
        (100, (4,))

    Args:
        model: a `ViT`.
        batches: images `(batch, channels, height, width)`, normalised as the model expects, or pairs of images and
            labels, which are not looked at.
        measure: a function of the tape of one batch; values `(batch, …)` by name.
        stream: as in `record`; False takes less memory where attention alone is looked at.

    Raises:
        ValueError: where there are no images, or a value is non-finite.
    """
    found: dict[Name, RunningMean] = {}
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for images in images_of(batches):
            with record(model, stream=stream) as tape:
                model(images.to(device))
            for name, values in measure(tape).items():
                found.setdefault(name, RunningMean()).add(values)
    if not found:
        raise ValueError("there are no images to measure on")
    return {name: mean.estimate() for name, mean in found.items()}


def with_control(
    model: ViT, batches: Iterable, measure: Callable, control: int = CONTROL, seed: int = 0, stream: bool = True
) -> tuple[dict, dict]:
    """`over_images`, and the same of the untrained model on the first images.

    Args:
        model, batches, measure, stream: as in `over_images`; the batches are read once.
        control: how many images the untrained model is shown; 0: none, and what is found of it is empty.
        seed: of its weights.
    """
    first: list[Tensor] = []

    def kept() -> Iterator[Tensor]:
        for images in images_of(batches):
            if (missing := control - sum(map(len, first))) > 0:
                first.append(images[:missing])
            yield images

    found = over_images(model, kept(), measure, stream)
    return found, over_images(untrained(model, seed), first, measure, stream) if first else {}


def images_of(batches: Iterable) -> Iterator[Tensor]:
    """The images of batches that may have labels."""
    for batch in batches:
        images = batch[0] if isinstance(batch, list | tuple) and batch else batch
        if not isinstance(images, Tensor):
            raise ValueError("a batch is images, a tensor, or a pair of images and labels")
        yield images


def untrained(model: ViT, seed: int = 0) -> ViT:
    """The control: the same configuration with fresh weights, on the model's device and in its precision.

    Args:
        model: a `ViT`.
        seed: of the weights; the random state of everything else stays as it was.
    """
    like = next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = ViT(model.config)
    return fresh.to(like.device, like.dtype).eval()
