"""Two images and their classes in one: mixup and CutMix."""

import torch
from torch import Tensor


def mixer(mixup: float, cutmix: float, classes: int):
    """A function (images, labels) → (images, class shares) that mixes each image with the one before it in the batch.

    With `neighbour=True` the first image is there only for the second to be mixed with, and is not returned: a process
    that holds a slice of a batch and the image before it then computes what one process would.

    Mixup (Zhang et al. 2018, §2) blends, CutMix (Yun et al. 2019, §3.1) pastes a box; torchvision's, which draw from
    torch's generator: the loop has keyed it by (seed, step). None where both strengths are 0.
    """
    if not (mixup or cutmix):
        return None
    from torchvision.transforms import v2

    alphas = {v2.MixUp: mixup, v2.CutMix: cutmix}
    choices = [transform(alpha=alpha, num_classes=classes) for transform, alpha in alphas.items() if alpha]

    def mix(images: Tensor, labels: Tensor, neighbour: bool = False) -> tuple[Tensor, Tensor]:
        chosen = choices[int(torch.rand(()) * len(choices))]
        return tuple(mixed[int(neighbour) :] for mixed in chosen(images, labels))

    return mix
