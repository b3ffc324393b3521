"""The augmentation of training images, keyed by (seed, epoch, sample)."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from einops import rearrange

from .. import keyed
from .policy import LARGEST_MAGNITUDE, Augment

ERASED_AREA = 0.02, 1 / 3
ERASED_ASPECT = 0.3, 1 / 0.3
GREY = (124, 116, 104)


def padded(pixels: torch.Tensor, by: int) -> torch.Tensor:
    """(batch, 3, height, width) with a mirrored border of `by` pixels; raises ValueError for a border too wide."""
    if by >= min(pixels.shape[-2:]):
        height, width = pixels.shape[-2:]
        raise ValueError(
            f"crop is {by}, but an image of {height}×{width} can be mirrored by at most {min(height, width) - 1} pixels"
        )
    rows, columns = (_mirrored(length, by).to(pixels.device) for length in pixels.shape[-2:])
    return pixels.index_select(-2, rows).index_select(-1, columns)


def crop(bordered: torch.Tensor, which: torch.Tensor, by: int, key: Sequence[int], indices) -> torch.Tensor:
    """Cuts windows at keyed places out of rows `which` of images that have a border of `by` pixels.

    Returns:
        (batch, 3, height − 2·by, width − 2·by).
    """
    channels, tall, wide = bordered.shape[1:]
    height, width = tall - 2 * by, wide - 2 * by
    top, left = (keyed.uniform((2,), key, indices, "crop") * (2 * by + 1)).long().unbind(1)
    channel, row = (torch.arange(n, device=bordered.device) for n in (channels, height))
    line = ((which * channels)[:, None, None] + channel[:, None]) * tall + top[:, None, None] + row
    starts = line * wide + left[:, None, None]
    runs = bordered.flatten().unfold(
        0, width, 1
    )  # a view of every run of `width` pixels: nothing is copied before the pick
    picked = runs.index_select(0, starts.flatten())
    return rearrange(picked, "(batch channel row) column -> batch channel row column", channel=channels, row=height)


def flip(pixels: torch.Tensor, key: Sequence[int], indices) -> torch.Tensor:
    """Mirrors a keyed half of (batch, 3, height, width) left to right."""
    mirrored = keyed.uniform((), key, indices, "flip") < 0.5
    both = torch.cat([pixels, pixels.flip(-1)])
    pick = torch.arange(len(pixels), device=pixels.device) + len(pixels) * mirrored
    return both.index_select(0, pick)


def recolour(pixels: torch.Tensor, augment: Augment, key: Sequence[int], indices) -> torch.Tensor:
    """torchvision's RandAugment, 3-Augment and colour jitter on uint8 (batch, 3, height, width), image by image."""
    transform = _recolouring(augment)
    if transform is None:
        return pixels
    out = torch.empty_like(pixels)
    with keyed.borrowed_generator() as seed_generator:
        for row, seed in enumerate(keyed.seeds(key, indices, "policy")):
            seed_generator(seed)
            out[row] = transform(pixels[row])
    return out


def erase(images: torch.Tensor, probability: float, key: Sequence[int], indices) -> torch.Tensor:
    """A keyed box of normalised images (batch, 3, height, width) becomes normal noise (Zhong et al. 2020, §3)."""
    height, width = images.shape[-2:]
    indices = torch.as_tensor(indices, dtype=torch.int64).cpu()  # decided on the CPU: a GPU would have to be waited for
    chosen, area, aspect, top, left = keyed.uniform((5,), key, indices, "erase").double().unbind(1)
    hit = (chosen < probability).nonzero().squeeze(1)
    if not len(hit):
        return images
    area = _between(area[hit], *ERASED_AREA) * height * width
    aspect = _between(aspect[hit], *map(math.log, ERASED_ASPECT)).exp()
    tall = (area * aspect).sqrt().round().clamp(1, height - 1)
    wide = (area / aspect).sqrt().round().clamp(1, width - 1)
    box = (part.to(images.device, non_blocking=True) for part in (top[hit], tall, left[hit], wide, hit, indices[hit]))
    top, tall, left, wide, hit, samples = box
    inside = _span(top, tall, height)[:, None, :, None] & _span(left, wide, width)[:, None, None, :]
    noisy = _noisy_everywhere if images.device.type == "cuda" else _noisy_inside
    noisy(images, hit, inside.expand(-1, images.shape[1], -1, -1), key, samples)
    return images


def _noisy_inside(images: torch.Tensor, rows: torch.Tensor, inside: torch.Tensor, key, samples: torch.Tensor) -> None:
    """Noise for the boxes alone: drawing it is the slowest part of erasing."""
    size = inside[0].numel()
    row, place = inside.flatten(1).nonzero().unbind(1)
    images.view(len(images), size)[rows[row], place] = _normal(place, size, key, samples[row]).to(images.dtype)


def _noisy_everywhere(
    images: torch.Tensor, rows: torch.Tensor, inside: torch.Tensor, key, samples: torch.Tensor
) -> None:
    """The same, without counting the pixels inside, which would mean waiting for the device."""
    size = inside[0].numel()
    places = torch.arange(size, device=images.device).repeat(len(rows))
    noise = _normal(places, size, key, samples.repeat_interleave(size)).to(images.dtype)
    images[rows] = torch.where(inside, noise.view_as(inside), images[rows])


def _span(start, length, whole: int) -> torch.Tensor:
    """Which of 0 … whole−1 lie in a run of `length` that starts at the fraction `start` of the room left for it."""
    place = torch.arange(whole, device=start.device)
    start = (start * (whole - length + 1)).floor()[:, None]
    return (place >= start) & (place < start + length[:, None])


def _normal(places: torch.Tensor, size: int, key: Sequence[int], indices) -> torch.Tensor:
    """One of each sample's `size` standard normal numbers, by place: Box and Muller's transform of keyed uniforms."""
    radius, angle = (keyed.uniform_at(places + start, key, indices, "noise") for start in (0, size))
    return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)


def _between(share: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * share


def _mirrored(length: int, by: int) -> torch.Tensor:
    return (torch.arange(-by, length + by).abs() + 1 - length).abs().neg() + length - 1


@lru_cache
def _recolouring(augment: Augment):
    """The transforms that need a generator, as one, or None."""
    from torchvision.transforms import v2

    steps = []
    if augment.randaugment:
        bins = LARGEST_MAGNITUDE + 1
        steps.append(v2.RandAugment(2, augment.randaugment, bins, v2.InterpolationMode.BILINEAR, fill=GREY))
    if augment.three_augment:
        steps.append(v2.RandomChoice([v2.Grayscale(3), v2.RandomSolarize(128, p=1.0), v2.GaussianBlur(5, (0.1, 2.0))]))
    if augment.color_jitter:
        steps.append(v2.ColorJitter(*3 * (augment.color_jitter,)))
    return v2.Compose(steps) if steps else None
