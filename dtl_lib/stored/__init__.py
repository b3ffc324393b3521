"""What pretrained weights give on real photos, stored in `ledger/` for readers without the weights.

One question a file, each with its own `load`: `stored.knows.load`. That of `attention.py` is `stored.load` too.
`python -m dtl_lib.stored.NAME make` computes a file's results anew, where the weights are.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
