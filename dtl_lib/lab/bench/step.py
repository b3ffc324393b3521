"""What is timed: a forward pass or a training step, on a batch of noise that lies on the device."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from ...checks import whole
from ...config import ViTConfig
from ...data import Augment
from ...data.images import InMemory
from ...host import find_device
from ...models import ViT
from ...train.device import HALVES, autocast, precision
from ...train.learner import Learner, make_learner
from ...train.loop import train_step
from ...train.loss import compile_once
from ...train.optim import Schedule
from ...train.recipe import AMP, Recipe

CLASSES = 1000
ENDLESS = 2**40  # steps of a schedule that has not begun to fall


@dataclass(frozen=True)
class BenchConfig:
    """How a model is run; each field is independent of the others.

    Args:
        batch_size: images a step.
        training: a training step (forward, cross-entropy, backward, the gradient's norm, optimiser), or a forward pass
            without gradients.
        amp: as in `Recipe`.
        compiled: whether to compile forward and backward pass with `torch.compile`; a string names the backend.
        channels_last: whether images and weights lie in memory with the channels innermost.
        device: "cuda", "cpu", …; None takes the GPU where there is one.
        recipe: optimiser, clip and smoothing of the step.

    Raises:
        ValueError: for a batch without images, a precision or a device that is not there.
    """

    batch_size: int
    training: bool = True
    amp: str = "auto"
    compiled: bool | str = False
    channels_last: bool = False
    device: str | None = None
    recipe: Recipe = Recipe()

    def __post_init__(self):
        object.__setattr__(self, "batch_size", whole("batch_size", self.batch_size))
        if self.amp not in AMP:
            raise ValueError(f"amp is one of {', '.join(AMP)}, not {self.amp!r}")
        object.__setattr__(self, "device", str(find_device(self.device)))

    @property
    def place(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    @property
    def precision(self) -> str:
        """ "off" (float32), "bf16" or "fp16"."""
        return precision(self.place, self.amp)

    @property
    def dtype(self) -> torch.dtype:
        """What the model's products are made in."""
        return HALVES.get(self.precision, torch.float32)

    def __str__(self) -> str:
        words = ["float32" if self.precision == "off" else self.precision]
        words += ["compiled"] if self.compiled else []
        words += ["channels last"] if self.channels_last else []
        return ", ".join([f"batches of {self.batch_size:,}", *words])


def make_step(
    config: ViTConfig, how: BenchConfig, model: nn.Module | None = None, batch: Callable[[], Tensor] | None = None
) -> Callable[[], Tensor]:
    """A function that takes one training step, the loop's own `train_step`, or makes one forward pass.

    It gives the loss, or the logits.

    Args:
        config: says what images the model takes, and of how many classes.
        how: it is run.
        model: what is run; a `ViT` with fresh weights where None.
        batch: gives the images of each training step; the same noise for all where None.
    """
    model, images = build_inputs(config, how, model)
    if how.training:
        return training_step(make_bench_learner(model, how), config, how, batch or (lambda: images))
    if how.compiled:
        compile_once(model, how.compiled)

    def forward() -> Tensor:
        with torch.inference_mode(), autocast(how.place, how.amp):
            return model(images)

    return forward


def build_inputs(config: ViTConfig, how: BenchConfig, model: nn.Module | None = None) -> tuple[nn.Module, Tensor]:
    """The model and a batch of noise `(batch, channels, height, width)`, where and as they are wanted."""
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    model = (ViT(config) if model is None else model).to(how.place, memory_format=layout).train(how.training)
    images = torch.randn(how.batch_size, config.channels, *config.image_size, device=how.place)
    return model, images.to(memory_format=layout)


def make_bench_learner(model: nn.Module, how: BenchConfig) -> Learner:
    """What `train_step` works on; its learning rate stays the recipe's highest once it is warm."""
    recipe = replace(how.recipe, batch_size=how.batch_size, amp=how.amp)
    return make_learner(model, recipe, Schedule(recipe, ENDLESS, 1), how.place, compiled=how.compiled)


def training_step(
    learner: Learner, config: ViTConfig, how: BenchConfig, batch: Callable[[], Tensor]
) -> Callable[[], Tensor]:
    """A function that takes one `train_step` on images that `batch` gives, and gives its loss.

    The labels are the classes in turn.
    """
    labels, steps = torch.arange(how.batch_size, device=how.place) % config.classes, count()

    def step() -> Tensor:
        with record_function("part: data"):
            images = batch()
        return train_step(learner, images, labels, next(steps)).loss

    return step


def augmented(config: ViTConfig, how: BenchConfig, made_on: str | None = None) -> Callable[[], Tensor]:
    """Batches as training makes them: images in memory, cropped, flipped and normalised, brought to the device.

    Args:
        config, how: as in `make_step`; there are as many images as a batch takes, which are noise.
        made_on: the device they lie on; where training happens if None.
    """
    place = how.place if made_on is None else torch.device(made_on)
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    shape = (how.batch_size, config.channels, *config.image_size)
    pixels, order = torch.randint(256, shape, dtype=torch.uint8), torch.arange(how.batch_size)
    images = InMemory("noise", ("any",), config.mean, config.std, pixels, torch.zeros_like(order)).to(place)
    augment = Augment(crop=4 * (min(config.image_size) > 4))
    return lambda: images.batch(order, augment, (0, 0))[0].to(how.place, memory_format=layout, non_blocking=True)


def trainable(config: ViTConfig) -> ViTConfig:
    """The configuration, with ImageNet's thousand classes where it has none to learn."""
    return config if config.classes else replace(config, classes=CLASSES)
