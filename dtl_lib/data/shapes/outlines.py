"""Outlines of the ten shapes as signed distances: negative inside, in units of the shape's own radius.

A distance takes x to the right and y down, each (batch, height, width), around the shape's centre. Every outline is its
own mirror image, so flipping an image keeps its class. Only additions, products, roots and comparisons are used: these
round the same way wherever a number stands in a batch, which transcendental functions do not promise.
"""

import math

import torch

COS_36, SIN_36 = math.cos(math.pi / 5), math.sin(math.pi / 5)


def length(x, y):
    return (x * x + y * y).sqrt()


def box(x, y, half_width: float, half_height: float):
    """Exact distance to a rectangle."""
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return length(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def half_plane(x, y, through: tuple[float, float], towards: tuple[float, float]):
    """Distance from the line through two points, positive to the right of it where it points down."""
    dx, dy = towards[0] - through[0], towards[1] - through[1]
    size = math.hypot(dx, dy)
    return ((x - through[0]) * dy - (y - through[1]) * dx) / size


def disc(x, y):
    return length(x, y) - 0.88


def ring(x, y):
    return (length(x, y) - 0.72).abs() - 0.23


def square(x, y):
    return box(x, y, 0.7, 0.7)


def triangle(x, y):
    x = x.abs()
    return torch.maximum(half_plane(x, y, (0.0, -0.98), (0.85, 0.49)), y - 0.49)


def cross(x, y):
    return torch.minimum(box(x, y, 0.95, 0.28), box(x, y, 0.28, 0.95))


def star(x, y):
    """Five points: two reflections fold the plane onto one of them, then one edge is measured."""
    x, y = x.abs(), -y
    for side in (1, -1):
        nx, ny = side * COS_36, -SIN_36
        beyond = 2 * (x * nx + y * ny).clamp(min=0)
        x, y = x - beyond * nx, y - beyond * ny
    return half_plane(x.abs(), y, (0.42 * SIN_36, 0.42 * COS_36), (0.0, 1.0))


def heart(x, y):
    """A square on its corner, and a disc as wide as the square on each upper side."""
    half, y = 0.53, y - 0.08
    x, middle = x.abs(), half / math.sqrt(2)
    return torch.minimum((x + y.abs()) / math.sqrt(2), length(x - middle, y + middle)) - half


def crescent(x, y):
    return torch.maximum(length(x, y) - 0.95, 0.78 - length(x - 0.5, y))


def bar(x, y):
    return box(x, y, 0.95, 0.26)


def hourglass(x, y):
    x, y = x.abs(), y.abs()
    return torch.maximum(half_plane(x, y, (0.1, 0.0), (0.63, 0.76)), y - 0.76)


SHAPES = (disc, ring, square, triangle, cross, star, heart, crescent, bar, hourglass)
OUTLINES = {outline.__name__: outline for outline in SHAPES}
