"""Augmentation of training images: its settings (`Augment`), the transforms, and mixing of images and labels."""

from .policy import Augment

__all__ = ["Augment"]
