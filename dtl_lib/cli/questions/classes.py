"""What a model's classes are called, and which one a user means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .chosen import Chosen

if TYPE_CHECKING:
    from ...models import ViT


def names_of_classes(model: ViT, images: Chosen) -> list[str] | None:
    """As a reader calls them; of a card without names those of its own data set; None where nothing says so."""
    from ...train.classes import class_names, shown_names

    names = class_names(model) if model.config.classes else None
    if names is None and images.note and len(images.images.classes) == model.config.classes:
        names = images.images.class_ids
    return shown_names(names) if names else None


def class_number(text: str, classes: int, names: Sequence[str] | None) -> int:
    """The class that a user means, by number or by name.

    Args:
        text: as it was given.
        classes: how many there are.
        names: of them, where they are known.

    Raises:
        ValueError: where it is no class of the model's, or could be several.
    """
    names = names or []
    if not classes:
        raise ValueError("--class: this model has no classes")
    if text.isdecimal() and text not in names:
        if int(text) >= classes:
            raise ValueError(f"--class: the model has classes 0 … {classes - 1}, not {text}")
        return int(text)
    wanted = text.casefold()
    for alike in (wanted.__eq__, lambda name: name.split(",")[0].split(" (")[0] == wanted, lambda name: wanted in name):
        found = [number for number, name in enumerate(names) if alike(name.casefold())]
        if len(found) == 1:
            return found[0]
    if found:
        some = ", ".join(f"{number} {names[number]}" for number in found[:5]) + ", …" * (len(found) > 5)
        raise ValueError(f"--class: {text!r} is in the names of {len(found)} classes: give the number ({some})")
    raise ValueError(f"--class: no class of the model is called {text!r}: give its number, 0 … {classes - 1}")
