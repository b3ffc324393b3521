"""What `dtl probe` asks of the features of the last block: components as colours, and a box around one object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ... import probes
from ...tokens import PATCHES
from .answers import Answer
from .kinds import Pass

if TYPE_CHECKING:
    from torch import Tensor

KINDS, BIASES = ("q", "k", "v", "token"), ("keep", "drop", "centre")  # as in probes.qkv, which needs torch
CALLED = {"q": "queries", "k": "keys", "v": "values", "token": "normed tokens"}
BIASED = {"keep": "as learned", "drop": "without bias", "centre": "mean subtracted"}  # a token has no bias
COMPONENTS = 3
SIZE = 3.2  # inches


def _patches(of: Pass, default: str) -> tuple[Tensor, str, dict]:
    """The features asked for, of the last block in which every token asks; what they are, in words and for an NPZ."""
    block, kind, bias = of.model.plan.depth - 1, of.args.features or default, of.args.bias
    found = probes.features(of.model, of.tape, block, kind, bias)[PATCHES]
    how = f",\n{BIASED[bias]}" if kind != "token" or bias == "centre" else ""
    return found, f"{CALLED[kind]} of block {block}{how}", {"block": block, "features": kind, "bias": bias}


def pca(of: Pass) -> Iterator[Answer]:
    """Three components of each image alone."""
    from ... import figures

    patches, called, settings = _patches(of, "token")
    found = probes.pca_map(patches, COMPONENTS, joint=False)
    for number, colours in enumerate(probes.as_colours(found.maps, joint=False).numpy(force=True)):
        photo, shares = of.photos[number], found.shares[number]
        figure = figures.show_images([photo, colours], ["image", f"three components\n{called}"], size=2.4)
        arrays = {"maps": found.maps[number], "shares": shares, "margins": found.margins[number]}
        arrays = {name: value.numpy(force=True) for name, value in arrays.items()}
        said = f"the first three components hold {shares.sum():.0%} of the variance"
        yield Answer(figure, arrays | settings | {"colours": colours, "photo": photo}, lines=[said])


def lost(of: Pass) -> Iterator[Answer]:
    """LOST's box in each image."""
    from ... import figures

    patches, called, settings = _patches(of, "k")
    found = probes.lost(patches)
    boxes = found.boxes * of.tape.patch_size
    for number, box in enumerate(boxes.tolist()):
        photo = of.photos[number]
        figure = figures.show_boxes([photo], {"LOST": [box]}, [called], columns=1, size=SIZE)
        arrays = {"mask": found.masks[number], "degrees": found.degrees[number], "seed": found.seeds[number]}
        arrays = {name: value.numpy(force=True) for name, value in arrays.items()}
        top, left, bottom, right = box
        said = (
            f"rows {top} to {bottom} and columns {left} to {right} of the {photo.shape[0]} × {photo.shape[1]} pixels "
        )
        said += "that the model saw"
        arrays |= {"box": boxes[number].numpy(force=True), "photo": photo}
        yield Answer(figure, arrays | settings, lines=[said])
