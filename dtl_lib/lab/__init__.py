"""Experiments on the library itself: the location atlas, and the timing of training steps."""
