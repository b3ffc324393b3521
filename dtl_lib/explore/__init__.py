"""The explorer: what a reader looks at, as a value, and what is then seen, as arrays; and the widget that shows it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
