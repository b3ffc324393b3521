"""Generated images of ten shapes on textured grounds, with exact masks: a data set that needs no download."""

from .generator import Level, Shapes, load

__all__ = ["Level", "Shapes", "load"]
