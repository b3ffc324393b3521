"""What happens to training images: which augmentation (`Augment`), the transforms themselves, and mixing."""

from .policy import Augment

__all__ = ["Augment"]
