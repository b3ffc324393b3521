"""What a model attains on images it has not seen, and how sure that is."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..checks import whole
from ..data import loader
from ..data.corrupt import CorruptImages
from ..data.images import Sets, with_channels
from ..hooks import evaluating
from ..progress import progress_bar
from .classes import match_classes
from .device import autocast, device_of, precision
from .distributed.processes import Processes
from .distributed.sharding import is_sharded
from .distributed.signals import StopRequest
from .recipe import AMP

Z = 1.959964  # 95 % of a normal distribution lie within ± this many standard deviations
LARGEST = 1e18  # of a weight's values: a float32 cannot hold the square of what is much larger
TOP5_FROM = 11  # with ten classes or fewer the best five say little


class EvaluationStopped(Exception):
    """An evaluation that was asked to stop before its end."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy with its uncertainty.

    Attributes:
        accuracy: share of images whose class the largest logit names.
        low, high: Wilson's 95 % interval for it.
        n: images.
        loss: mean cross-entropy, nats.
        seconds: wall time.
        top5: share of images whose class is among the five largest logits; None for ten classes or fewer.
    """

    accuracy: float
    low: float
    high: float
    n: int
    loss: float
    seconds: float
    top5: float | None = None

    def __str__(self) -> str:
        top5 = "" if self.top5 is None else f", top-5 {self.top5:.1%}"
        return f"{self.accuracy:.1%} ± {100 * (self.high - self.low) / 2:.1f} (n = {self.n:,}){top5}"

    def to_dict(self) -> dict:
        """Plain values for a log row or a card."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `right` in `n` (Wilson 1927, Probable inference)."""
    share, z2 = right / n, Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def evaluate(
    model, images, batch_size: int = 256, amp: str = "auto", workers: int | None = None, progress: bool = False,
    *, processes: Processes | None = None, corrupt: CorruptImages | None = None,
    stop_request: StopRequest | None = None, classes: Sequence[str] | None = None,
    kept: loader.KeptWorkers | None = None,
) -> Evaluation:  # fmt: skip
    """Top-1 (and top-5 where there are more than ten classes) on every image, on the model's device.

    Args:
        model: a `ViT`; its configuration says how images are normalised.
        images: one part of a data set, such as `sets.test`.
        batch_size: images at a time, 1 or more.
        amp: as in `Recipe`.
        workers: as in `fit`.
        progress: whether to show a bar.
        processes: those that share the work: each looks at some of the images, all get the result.
        corrupt: counts images that cannot be read, which are then left out; None raises.
        stop_request: says whether to stop on the way.
        classes: what the model's classes are called, by index; as its card says where None. The data's are found among
            them by name.
        kept: worker processes from an earlier evaluation on the same images, and for the next.

    Raises:
        ValueError: where the data has a class that the model does not have, there is no image, or weights or logits are
            non-finite, which no accuracy can be measured with.
        EvaluationStopped: where it was asked to stop.
    """
    batch_size = whole("batch_size", batch_size)
    if amp not in AMP:
        raise ValueError(f"amp is one of {', '.join(AMP)}, not {amp!r}")
    check_not_empty(images)
    numbers = match_classes(model, images, classes).numbers
    check_weights(model)
    processes = processes or Processes()
    device = device_of(model)
    start = time.perf_counter()
    batches = loader.evaluation_batches(
        as_expected(model, images), batch_size, workers, device=device, corrupt=corrupt, rank=processes.rank,
        world_size=processes.world_size, cores=processes.cores, kept=kept,
    )  # fmt: skip
    if numbers is not None:
        batches = ((x, numbers.to(y.device)[y]) for x, y in batches)
    if is_sharded(model):
        batches = _pad_batches(batches, -(-len(images) // processes.world_size), batch_size, model.config)
    sums = torch.zeros(5, device=device, dtype=torch.float64)
    bar = progress_bar(len(images), "img", shown=progress, leave=False)
    with evaluating(model), _no_gradients(model):
        for x, y in batches:
            stop = stop_request is not None and stop_request.stop
            if processes.any_rank(stop) if is_sharded(model) else stop:
                break
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            with autocast(device, amp):
                logits = model(x)
            sums += _batch_sums(logits[: len(y)].float(), y)
            bar.update(len(y) * processes.world_size)
    bar.close()
    stopped = sums.new_tensor([stop_request is not None and stop_request.stop])
    n, right, right5, loss, bad, stopped = processes.sum(torch.cat([sums, stopped])).tolist()
    if stopped:
        raise EvaluationStopped
    if corrupt is not None:
        processes.merge_corrupt(corrupt, images)
    if not n:
        raise ValueError(f"none of the {len(images)} images of {images.name} can be read")
    n, right = int(n), int(right)
    if bad:
        raise ValueError(
            f"the logits are non-finite for {int(bad):,} of {n:,} images, so that no accuracy can be told: the weights "
            f"are damaged, or too large for their precision (amp {precision(device, amp)}; off computes in float32)"
        )
    low, high = wilson(right, n)
    top5 = right5 / n if model.config.classes >= TOP5_FROM else None
    return Evaluation(right / n, low, high, n, loss / n, time.perf_counter() - start, top5)


def _no_gradients(model):
    """The context for a model that is only evaluated."""
    if is_sharded(model):
        return torch.no_grad()  # fully_shard keeps its buffers, and tensors of inference_mode cannot be trained with
    return torch.inference_mode()


def _pad_batches(batches: Iterator, images: int, batch_size: int, config) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, and after them images without labels, until there are as many batches as `images` take.

    Every process has to call a sharded model as often as the others, and some have fewer images.
    """
    missing = -(-images // batch_size)
    for batch in batches:
        yield batch
        missing -= 1
    for _ in range(missing):
        yield torch.zeros(1, config.channels, *config.image_size), torch.zeros(0, dtype=torch.int64)


def _batch_sums(logits: Tensor, y: Tensor) -> Tensor:
    """Sums over a batch: images, those right, those right in the top 5 (if counted), losses, non-finite logits."""
    loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
    right, right5 = (logits.argmax(dim=1) == y).sum(), torch.zeros_like(loss)
    if logits.shape[1] >= TOP5_FROM:
        right5 = (logits.topk(5, dim=1).indices == y[:, None]).sum()
    bad = (~logits.isfinite()).any(dim=1).sum()
    return torch.stack([torch.full_like(loss, len(y)), right, right5, loss, bad]).double()


def as_expected(model, images):
    """The same images, normalised as the model's configuration says."""
    return normalised_as(model.config, images)


def normalised_as(config, images):
    """The same images with the mean and standard deviation of a configuration."""
    images = with_channels(images, getattr(config, "channels", 3))
    if (tuple(images.mean), tuple(images.std)) == (config.mean, config.std):
        return images
    images = copy.copy(images)
    images.mean, images.std = config.mean, config.std
    return images


def normalised(sets, config) -> Sets:
    """The parts of a data set, each with the mean and standard deviation of a configuration."""
    return Sets(*(normalised_as(config, part) for part in (sets.train, sets.held_out, sets.test)))


def check_not_empty(images) -> None:
    """A ValueError where there is nothing to look at."""
    if not hasattr(images, "classes"):
        kind = type(images).__name__
        raise ValueError(f"images are part of a data set, such as data.load('shapes').test, not a {kind}")
    if not len(images):
        raise ValueError(f"{images.name} holds no images")


def check_classes(model, images) -> None:
    """A ValueError where the labels go beyond the model's classes, or there is nothing to look at."""
    check_not_empty(images)
    if model.config.classes < len(images.classes):
        raise ValueError(
            f"the model has {model.config.classes} classes and {images.name} {len(images.classes)}: "
            f"build it with classes={len(images.classes)}"
        )


def check_weights(model) -> None:
    """A ValueError that names the first tensor with values that are non-finite, or too large to be squared."""
    if is_sharded(model):  # no process holds it whole; its logits are looked at
        return
    floats = {name: value for name, value in model.state_dict().items() if value.is_floating_point() and value.numel()}
    if any(value.is_meta for value in floats.values()):
        raise ValueError("the model is on the meta device, which holds no weights: give it its weights first")
    largest = torch.stack([value.abs().amax().float() for value in floats.values()]).tolist()
    for name, value in zip(floats, largest):
        if not value <= LARGEST:
            what = f"values as large as {value:.2g}" if math.isfinite(value) else "non-finite values"
            raise ValueError(f"{name} of the model holds {what}, with which its logits are non-finite or mean nothing")


def token_norms(model, x: Tensor) -> dict[str, float]:
    """Median length of each group's tokens after the last block, before the norm; of patches the 98th percentile too.

    High-norm patches show here first (Vision Transformers Need Registers, Darcet et al. 2024, §2).

    Args:
        model: a `ViT`.
        x: `(batch, channels, height, width)`, a light sample.
    """
    if is_sharded(model):
        model.unshard()  # what lies outside of the blocks: `encode` does not ask for it
    with evaluating(model), _no_gradients(model):
        tokens, _ = model.encode(x)
        lengths = tokens.float().norm(dim=-1)
    layout = model.plan.layout(model.plan.blocks - 1)
    norms = {name: lengths[:, where].median().item() for name, where in layout.items()}
    return norms | {"patches_98": lengths[:, layout["patches"]].quantile(0.98).item()}
