"""The settings of augmentation, as one value. Imports no torch: recipes are checked with it."""

from dataclasses import dataclass

LARGEST_MAGNITUDE = 10


@dataclass(frozen=True)
class Augment:
    """Augmentation of training images.

    Args:
        crop: pixels of mirrored border (`reflect`) around an image, out of which the image's own size is cut at random.
            Where photos of many sizes are read from disk, any value above 0 means a random resized crop.
        flip: mirror left and right with probability ½.
        randaugment: magnitude 1 … 10 of RandAugment (Cubuk et al. 2020), two operations an image; 10 is torchvision's
            strongest; 0 is off.
        erase: probability of random erasing with noise (Zhong et al. 2020), 2 % to a third of the image.
        three_augment: one of grey scale, solarisation and blur an image (DeiT III, Touvron et al. 2022, §3).
        color_jitter: strength of random brightness, contrast and saturation; 0 is off.
        scale: smallest share of the area that a random resized crop keeps.
        trivial: one random operation of random strength an image (TrivialAugment, Müller and Hutter 2021).

    Raises:
        ValueError: where a value is out of range or two policies are asked for at once.
    """

    crop: int = 4
    flip: bool = True
    randaugment: int = 0
    erase: float = 0.0
    three_augment: bool = False
    color_jitter: float = 0.0
    scale: float = 0.08
    trivial: bool = False

    def __post_init__(self):
        if self.crop < 0:
            raise ValueError(f"crop is {self.crop}; it counts pixels of border, 0 or more")
        if not 0 <= self.randaugment <= LARGEST_MAGNITUDE:
            raise ValueError(f"randaugment is {self.randaugment}; a magnitude is 1 to {LARGEST_MAGNITUDE}, 0 is off")
        if not 0 <= self.erase <= 1:
            raise ValueError(f"erase is {self.erase}; it is a probability, 0 to 1")
        if not 0 <= self.color_jitter <= 1:
            raise ValueError(f"color_jitter is {self.color_jitter}; it is a strength, 0 to 1")
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale is {self.scale}; it is a share of the area, above 0 and at most 1")
        policies = [name for name in ("trivial", "randaugment", "three_augment") if getattr(self, name)]
        if len(policies) > 1:
            raise ValueError(f"{' and '.join(policies)} exclude each other; choose one")
