"""Dynamic Token Location: Vision Transformers whose tokens enter and leave where you say."""

__version__ = "0.1.0"
