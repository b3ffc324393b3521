"""What training makes small: the loss of a model on a batch, as one module that can be copied, sharded or compiled."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .recipe import Recipe


class Objective(nn.Module):
    """A model with the loss of a recipe: its own, from labels, and where there is a teacher also the teacher's.

    Args:
        model: a `ViT`, the only submodule.
        recipe: says which losses, how they are weighed, and how labels are smoothed.
    """

    def __init__(self, model: nn.Module, recipe: Recipe):
        super().__init__()
        self.model, self.recipe = model, recipe

    def forward(self, images: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
        """The mean loss of a batch.

        With a teacher it is (1 − w) · own + w · teacher's (Training data-efficient image transformers, Touvron et al.
        2021, §3): the class token's head learns from labels and the distillation token's from the teacher; a model with
        one head learns both with it. Without one, the mean of the heads learns from labels.

        Args:
            images: `(batch, channels, height, width)`.
            targets: classes `(batch,)`, or shares of classes `(batch, classes)` of mixed images.
            teacher_logits: the teacher's logits `(batch, classes)`.
        """
        if teacher_logits is None:
            return self.from_labels(self.model(images), targets)
        heads, weight = self.model.heads(images), self.recipe.distill_weight
        own, from_teacher = self.from_labels(heads[0], targets), self.from_teacher(heads[-1], teacher_logits)
        return (1 - weight) * own + weight * from_teacher

    def from_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, or binary cross-entropy: the mean over images and classes of as many yes-or-no questions.

        Asked this way, a class that is in a mixed image is in it, whatever its share (DeiT III, Touvron et al. 2022,
        §3; ResNet strikes back, Wightman et al. 2021, §3). The mean over the classes, not the sum, is what the learning
        rates of these papers go with. Smoothing moves targets as it does in cross-entropy.
        """
        logits, smoothing = _single(logits), self.recipe.smoothing
        if targets.ndim == 2:
            targets = targets.to(logits.dtype)
        if self.recipe.loss == "ce":
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        classes = logits.shape[1]
        present = (targets > 0 if targets.ndim == 2 else F.one_hot(targets, classes)).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, present * (1 - smoothing) + smoothing / classes)

    def from_teacher(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """`distillation_loss` as the recipe says, in float32 at least."""
        recipe = self.recipe
        return distillation_loss(
            _single(logits), _single(teacher_logits), recipe.distill == "hard", recipe.distill_temperature
        )


def distillation_loss(logits: Tensor, teacher_logits: Tensor, hard: bool, temperature: float = 1.0) -> Tensor:
    """Cross-entropy with the class the teacher names (hard), or how far its shares of the classes are (soft).

    Soft: KL divergence at temperature τ, times τ², so that the gradient does not shrink with τ (Distilling the
    knowledge in a neural network, Hinton et al. 2015, §2), summed over classes; the mean over images.

    Args:
        logits: the student's, `(batch, classes)`.
        teacher_logits: `(batch, classes)`.
        hard: whether the class alone counts (Training data-efficient image transformers, Touvron et al. 2021, §4).
        temperature: that both logits are divided by; without effect on a hard target.
    """
    if hard:
        return F.cross_entropy(logits, teacher_logits.argmax(dim=1))
    ours, theirs = (F.log_softmax(values / temperature, dim=1) for values in (logits, teacher_logits))
    divergence = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def compile_once(module: nn.Module, backend: bool | str | Callable = True) -> None:
    """Have a module compiled in place at its first call (`torch.compile`), and not again at its second.

    Args:
        backend: as of `torch.compile`; True is its default, inductor.

    """
    # einops lists the types it has met, and PyTorch compiles again where that list has grown: so it meets them before
    for met in (torch.zeros(1), nn.Parameter(torch.zeros(1))):
        rearrange(met, "one -> one")
    module.compile(backend="inductor" if backend is True else backend)


def _single(logits: Tensor) -> Tensor:
    """In float32 at least: what autocast has made in half precision is too coarse for a logarithm."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
