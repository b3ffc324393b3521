"""What is timed: a forward pass or a training step, on a batch of noise that lies on the device."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...checks import whole
from ...config import ViTConfig
from ...data import Augment
from ...data.images import InMemory
from ...host import find_device
from ...models import ViT
from ...train.device import HALVES, autocast, precision
from ...train.loss import Objective, compile_once
from ...train.optim import make_optimizer
from ...train.recipe import AMP, Recipe

CLASSES = 1000


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
        whole("batch_size", self.batch_size)
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


def make_step(config: ViTConfig, how: BenchConfig, model: nn.Module | None = None) -> Callable[[], Tensor]:
    """A function that makes one step, or one forward pass, and gives its loss, or the logits.

    Args:
        config: says what images the model takes, and of how many classes.
        how: how it is run.
        model: what is run; a `ViT` with fresh weights where None.
    """
    model, images = build_inputs(config, how, model)
    runs = Objective(model, how.recipe) if how.training else model
    if how.compiled:
        compile_once(runs, backend=how.compiled if isinstance(how.compiled, str) else "inductor")
    if how.training:
        return training_step(runs, config, how, lambda: images)

    def forward() -> Tensor:
        with torch.inference_mode(), autocast(how.place, how.amp):
            return runs(images)

    return forward


def build_inputs(config: ViTConfig, how: BenchConfig, model: nn.Module | None = None) -> tuple[nn.Module, Tensor]:
    """The model and a batch of noise `(batch, channels, height, width)`, where and as they are wanted."""
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    model = (ViT(config) if model is None else model).to(how.place, memory_format=layout).train(how.training)
    images = torch.randn(how.batch_size, config.channels, *config.image_size, device=how.place)
    return model, images.to(memory_format=layout)


def training_step(
    objective: Objective, config: ViTConfig, how: BenchConfig, batch: Callable[[], Tensor],
    mark: Callable = lambda part: nullcontext(),
) -> Callable[[], Tensor]:  # fmt: skip
    """A function that makes one step as the training loop makes it, and gives its loss.

    Args:
        objective: the model with its loss.
        config, how: as in `work`; the labels are the classes in turn.
        batch: gives images.
        mark: a context around "data" and "update".
    """
    optimizer, parameters = make_optimizer(objective.model, how.recipe), list(objective.model.parameters())
    scaler = torch.amp.GradScaler(how.place.type, enabled=how.precision == "fp16")
    labels = torch.arange(how.batch_size, device=how.place) % config.classes

    def step() -> Tensor:
        with mark("data"):
            images = batch()
        with autocast(how.place, how.amp):
            loss = objective(images, labels)
        scaler.scale(loss).backward()
        with mark("update"):
            scaler.unscale_(optimizer)
            if how.recipe.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, how.recipe.clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return loss.detach()

    return step


def augmented(config: ViTConfig, how: BenchConfig, made_on: str | None = None) -> Callable[[], Tensor]:
    """Batches as training makes them: images in memory, cropped, flipped and normalised, brought to the device.

    Args:
        config, how: as in `work`; there are as many images as a batch takes, which are noise.
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
