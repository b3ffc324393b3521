"""A trained model that another learns from: any of timm's, or one of ours."""

import torch
from torch import Tensor, nn

from ..checks import first_line
from ..config import ViTConfig
from ..hashing import of_weights
from ..pretrained import is_ours, load_pretrained, timm_model


class Teacher:
    """A model in evaluation mode, without gradients, that is part of nothing: no student's parameters, state or card.

    Call it with the student's images `(batch, channels, height, width)` inside the student's autocast; it gives logits
    `(batch, classes)`.

    Args:
        name: what it is called on the card.
        model: gives logits.
        mean, std: what its images are normalised with.
        config: the student's; says how its images are.

    Attributes:
        card: the name, and a hash of the weights.
    """

    def __init__(self, name: str, model: nn.Module, mean, std, config: ViTConfig):
        self.model = model.eval().requires_grad_(False)
        self.card = {"name": name, "sha256": of_weights(model.state_dict())}
        (mean, std), (own_mean, own_std) = _columns(model, mean, std), _columns(model, config.mean, config.std)
        self._scale, self._shift = own_std / std, (own_mean - mean) / std

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self.model(torch.addcmul(self._shift, images, self._scale))


def load_teacher(name: str, device: torch.device, config: ViTConfig, model: nn.Module | None = None) -> Teacher:
    """A teacher with its own normalisation (Training data-efficient image transformers, Touvron et al. 2021, §3).

    Args:
        name: a timm model of any kind, such as regnety_160; zoo/…; or the path of a checkpoint of ours.
        device: where the student computes.
        config: the student's: its image size, normalisation and number of classes.
        model: the teacher itself, which takes images as the student does; the name is then any.

    Raises:
        ValueError: where there are no such weights, or the teacher does not take these images or tell these classes.
    """
    if model is not None:
        mean, std = config.mean, config.std
    elif is_ours(name):
        model = load_pretrained(name)
        mean, std = model.config.mean, model.config.std
    else:
        model = timm_model(name)
        mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    teacher = Teacher(name, model.to(device), mean, std, config)
    height, width = config.image_size
    try:
        if hasattr(model, "set_input_size"):  # timm's ViTs take images of one size; the others take any
            model.set_input_size(img_size=config.image_size)
        logits = teacher(torch.zeros(1, config.channels, height, width, device=device))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the teacher {name} does not take the student's {height}×{width} images ({first_line(error)}): "
            "choose another"
        ) from None
    if logits.ndim != 2 or logits.shape[1] != config.classes:
        raise ValueError(
            f"the teacher {name} tells {logits.shape[-1]} classes apart and the student {config.classes}: choose a "
            "teacher of the same classes"
        )
    return teacher


def _columns(model: nn.Module, *values) -> list[Tensor]:
    """One number a channel, on the model's device, as images have them."""
    device = next(model.parameters()).device
    return [torch.tensor(value, dtype=torch.float32, device=device)[:, None, None] for value in values]
