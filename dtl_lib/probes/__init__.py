"""One question a file, asked of a recorded forward pass, of maps and masks, or of a model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
