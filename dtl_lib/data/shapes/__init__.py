"""Generated images of ten shapes on textured grounds, with exact masks: a data set that needs no download."""

from .generator import Level, Shapes

__all__ = ["Level", "Shapes"]
