"""Patterns for grounds and objects: values in 0 … 1 over (batch, height, width), from coordinates in periods."""

import torch
import torch.nn.functional as F

GRID = 9


def wave(x):
    """A smooth wave of period 1 between −1 and 1, of parabolas, which round alike everywhere (see `outlines`)."""
    x = x - x.floor()
    half = 2 * x
    half = half - half.floor()
    arch = 4 * half * (1 - half)
    return torch.where(x < 0.5, arch, -arch)


def ramp(x, y, grid):
    return (0.5 + 0.25 * x).clamp(0, 1)


def stripes(x, y, grid):
    return (0.5 + wave(x)).clamp(0, 1)


def checks(x, y, grid):
    return (0.5 + 2 * wave(x / 2) * wave(y / 2)).clamp(0, 1)


def dots(x, y, grid):
    x, y = x - x.floor() - 0.5, y - y.floor() - 0.5
    return (3.2 - 10 * (x * x + y * y).sqrt()).clamp(0, 1)


def clouds(x, y, grid):
    """Random values on a coarse grid, drawn smooth."""
    soft = F.interpolate(grid[:, None], x.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
    return (1.6 * soft - 0.3).clamp(0, 1)


TEXTURES = (ramp, stripes, checks, dots, clouds)
