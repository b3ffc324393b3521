"""Vision Transformers whose tokens enter and leave where you say: build them, look inside them, train them.

The core lies flat in this folder: `tokens`, `config`, `layers`, `models`, `tape`, `pretrained`, with `probes/`,
`figures/` and `exercises/`. The machinery around it has rooms of its own: `data/`, `train/`, `stored/`, `lab/`, `cli/`.
`README.md` beside this file says where everything is. The names here load what they need when they are first used.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
