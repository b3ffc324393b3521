"""Training: a `Recipe` says how, `fit` is the loop, `evaluate` measures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
