"""Attention as files to show: pages with the maps of a photo, numbers, and video."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
