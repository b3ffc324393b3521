"""Generated images of ten shapes on textured grounds, with exact masks: a data set that needs no download."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .. import keyed
from ..images import Images, size_of
from .outlines import OUTLINES
from .textures import GRID, TEXTURES

VERSION = 1
MEAN, STD = (0.35, 0.35, 0.35), (0.25, 0.25, 0.25)
CHUNK = 256
PARTS = {"train": 0, "held_out": 10**9, "test": 2 * 10**9}
LENGTHS = {"train": 50_000, "held_out": 2_000, "test": 10_000}
SATURATION = 0.6
FULL_TURN = 6.283185307179586


@dataclass(frozen=True)
class Level:
    """How hard an image is.

    Args:
        radius: of the object, smallest and largest, as a share of the shorter side.
        wander: how far the object may lie from the centre, as a share of the room it has: 0 is the centre, 1 anywhere.
        turn: largest rotation either way, as a share of a full turn.
        ground, thing: range of the ground's and the object's colours.
        relief: largest difference between the two colours of a texture.
        gap: smallest difference, in every channel, between the object and the mean of the ground.
        brighter: whether the object is always the brighter one.
        periods: of the ground's texture along the shorter side, fewest and most.
    """

    radius: tuple[float, float]
    wander: float
    turn: float
    ground: tuple[float, float]
    thing: tuple[float, float]
    relief: float
    gap: float
    brighter: bool
    periods: tuple[float, float]


LEVELS = {
    1: Level((0.30, 0.40), 0.5, 0.05, (0.0, 0.45), (0.55, 1.0), 0.2, 0.25, True, (1.5, 3)),
    2: Level((0.22, 0.30), 0.8, 0.125, (0.0, 0.65), (0.35, 1.0), 0.35, 0.25, True, (2, 5)),
    3: Level((0.15, 0.22), 1.0, 0.5, (0.0, 1.0), (0.0, 1.0), 0.5, 0.3, False, (3, 7)),
}


class Shapes(Images):
    """Images of one shape each, a pure function of (seed, index).

    Args:
        size: pixels, an int or (height, width).
        level: 1 large, bright, near the centre, dark ground; 2 between; 3 small, anywhere, colours free, busy ground.
        seed: of the whole series.
        start: the first image's place in the series; parts of one series do not overlap.
        length: how many images.

    Raises:
        ValueError: for a level, size or range that does not exist.
    """

    classes = tuple(OUTLINES)
    mean, std = MEAN, STD

    def __init__(
        self,
        size=32,
        level: int = 1,
        seed: int = 0,
        start: int = 0,
        length: int = LENGTHS["train"],
        name: str | None = None,
    ):
        if level not in LEVELS:
            raise ValueError(f"level is {level}; shapes come in levels {', '.join(map(str, LEVELS))}")
        if start < 0 or length < 1:
            raise ValueError(f"start is {start} and length {length}; start is 0 or more and length at least 1")
        self.image_size = size_of(size)
        self.level, self.seed, self.start, self.length = level, seed, start, length
        self.name = name or f"shapes level {level}"

    def __len__(self):
        return self.length

    def labels(self, indices):
        draw = keyed.uniform((1,), (self.seed,), self.checked(indices) + self.start, "class")
        return (draw.squeeze(1) * len(self.classes)).long()

    def raw(self, indices):
        return self._chunked(indices, lambda chunk: self._paint(*self.layers(chunk)))

    def masks(self, indices) -> torch.Tensor:
        """How much of each pixel the object covers, float32 (batch, height, width) in 0 … 1."""
        return self._chunked(indices, self._cover)

    def layers(self, indices) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The ground and the object's surface, float32 (batch, 3, height, width) in 0 … 1, and the object's cover."""
        place = self.checked(indices) + self.start
        level, draws = LEVELS[self.level], self._draws(place, "colour", 12).unbind(1)
        dark, light = _colours(draws[0:3], draws[3:6], level.ground, level.relief)
        mean = (dark + light) / 2
        low, high = _colours(draws[6:9], draws[9:12], level.thing, level.relief / 2)
        low, high = _apart(low, high, mean, level)
        ground = _blend(dark, light, self._texture(place, "ground", level.periods))
        surface = _blend(low, high, self._texture(place, "surface", (1, 2)))
        return ground, surface, self._cover(indices)

    def identity(self) -> Sequence:
        return VERSION, self.level, self.seed, self.start

    def _chunked(self, indices, make) -> torch.Tensor:
        indices = self.checked(indices)
        if len(indices) <= CHUNK:
            return make(indices)
        return torch.cat([make(chunk) for chunk in indices.split(CHUNK)])

    def _draws(self, place, stream: str, count: int) -> torch.Tensor:
        return keyed.uniform((count, 1, 1), (self.seed,), place, stream)

    def _paint(self, ground, surface, cover) -> torch.Tensor:
        pixels = ground + (surface - ground) * cover[:, None]
        return pixels.mul_(255).add_(0.5).to(torch.uint8)

    def _cover(self, indices) -> torch.Tensor:
        place = self.checked(indices) + self.start
        level, shorter = LEVELS[self.level], min(self.image_size)
        size, turn, across, down = self._draws(place, "pose", 4).unbind(1)
        radius = (level.radius[0] + (level.radius[1] - level.radius[0]) * size) * shorter
        y, x = self._pixel_centres()
        height, width = self.image_size
        x = x - (2 * across - 1) * level.wander * (width / 2 - radius)
        y = y - (2 * down - 1) * level.wander * (height / 2 - radius)
        x, y = _rotated(x / radius, y / radius, (2 * turn - 1) * level.turn)
        distance = _by_kind(self.labels(indices), tuple(OUTLINES.values()), x, y)
        return (0.5 - distance * radius).clamp(0, 1)

    def _texture(self, place, stream: str, periods: tuple[float, float]) -> torch.Tensor:
        """One of the textures, turned, moved and scaled, (batch, height, width) in 0 … 1."""
        kind, turn, right, down, fine = self._draws(place, stream, 5).unbind(1)
        y, x = self._pixel_centres()
        frequency = (periods[0] + (periods[1] - periods[0]) * fine) / min(self.image_size)
        x, y = _rotated(x * frequency, y * frequency, turn)
        grid = keyed.uniform((GRID, GRID), (self.seed,), place, stream + " grid")
        return _by_kind((kind.flatten() * len(TEXTURES)).long(), TEXTURES, x + right, y + down, grid)

    def _pixel_centres(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(height, 1) and (width,), from the centre of the image, in pixels."""
        height, width = self.image_size
        return torch.arange(height)[:, None] - (height - 1) / 2, torch.arange(width) - (width - 1) / 2


def _rotated(x, y, turn):
    """Coordinates turned by `turn` full turns; sine and cosine in float64, so that float32 rounds alike everywhere."""
    angle = turn.double() * FULL_TURN
    cos, sin = angle.cos().float(), angle.sin().float()
    return x * cos + y * sin, y * cos - x * sin


def _by_kind(kind, functions, *arguments) -> torch.Tensor:
    """Row i is functions[kind[i]] of row i of the arguments, each function called once."""
    out = torch.empty_like(arguments[0])
    for number, function in enumerate(functions):
        rows = (kind == number).nonzero().squeeze(1)
        if len(rows):
            out[rows] = function(*(argument[rows] for argument in arguments))
    return out


def _colours(first, second, span: tuple[float, float], relief: float):
    """Two colours (batch, 3, 1, 1) inside `span`, at most `relief` apart in each channel."""
    low, high = span
    grey = (first[0] + first[1] + first[2]) / 3
    colour = low + (high - low) * torch.stack([grey + SATURATION * (channel - grey) for channel in first], 1)
    return colour, (colour + (2 * torch.stack(second, 1) - 1) * relief).clamp(low, high)


def _apart(low, high, ground, level: Level):
    """The object's two colours, pushed to one side of the ground's mean until each channel differs by the gap."""
    up = torch.ones_like(ground)
    if not level.brighter:
        roomy = torch.where(ground < 0.5, 1.0, -1.0)
        up = torch.where((low - ground).abs() >= level.gap, (low - ground).sign(), roomy)
    return tuple((ground + up * ((colour - ground) * up).clamp(min=level.gap)).clamp(0, 1) for colour in (low, high))


def _blend(first, second, share):
    return first + (second - first) * share[:, None]
