"""Images to train on and to look at: generated shapes, bundled photos, CIFAR, class folders, shards, timm's readers.

`data.load(name)` gives the parts of a data set; `sources/` has one file for each kind. The names below load what they
need when they are first used, so that the command line lists data sets without importing torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
