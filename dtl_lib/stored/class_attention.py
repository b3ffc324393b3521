"""What class attention looks at in pretrained weights, stored with the library for readers without the weights.

`python -m dtl_lib.stored.class_attention make` recomputes it: a plain ViT whose last two blocks are turned into class
attention, with the weights they have. Nothing is trained.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..tape import record
from ..tokens import TokenPlan
from .attention import class_names
from .files import LEDGER, make_files, read_file, source_of, write_file

NAME, FOLDER = "vit_tiny_class_attention", LEDGER / "real" / "class_attention"
WEIGHTS, LICENCE = "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0"
PHOTOS = ("coffee", "rocket", "astronaut", "chelsea")
TRUNK = 10  # blocks that patches pass
MAPS, COMMAND = ("maps", "untouched"), "python -m dtl_lib.stored.class_attention make"


@dataclass(frozen=True)
class ClassMaps:
    """Where the class token looks in two blocks of class attention, float32.

    Attributes:
        maps: its attention to each patch in blocks 10 and 11, `(photos, blocks, heads, rows, columns)`; the rest of 1
            is on itself.
        untouched: the same in block 11 of the model as it was, `(photos, heads, rows, columns)`.
        probabilities: of the likeliest class, for the model as it was and with class attention, `(photos, 2)`.
        names: those classes, ImageNet's, photo by photo: two a photo.
        source: weights, photos, their licences, the library's version and the command.
    """

    maps: Tensor
    untouched: Tensor
    probabilities: Tensor
    names: tuple[str, ...]
    source: dict[str, str]


def load(name: str = NAME, folder: Path = FOLDER) -> ClassMaps:
    """The stored result, as exact as `stored.load`'s.

    Raises:
        ValueError: for a name that is not stored, or a file that is damaged.
    """
    return ClassMaps(**read_file(Path(folder) / f"{name}.safetensors", COMMAND, MAPS))


def compute() -> ClassMaps:
    """The result computed from weights and photos, not quantised.

    Raises:
        ValueError: where the weights cannot be had.
    """
    from ..data.photos import photo, prepare
    from ..models import ViT
    from ..pretrained import load_pretrained

    usual = load_pretrained(WEIGHTS)
    changed = ViT(usual.config.with_plan(TokenPlan.of(TRUNK, class_blocks=usual.plan.depth - TRUNK))).eval()
    changed.load_state_dict(usual.state_dict())
    images, logits, tapes = torch.cat([prepare(photo(name), config=usual.config) for name in PHOTOS]), [], []
    for model in (usual, changed):
        with torch.no_grad(), record(model) as tape:
            logits.append(model(images))
        tapes.append(tape)
    likeliest = torch.stack(logits, dim=1).softmax(dim=-1).max(dim=-1)
    return ClassMaps(
        maps=torch.stack([tapes[1].maps(block) for block in range(TRUNK, changed.plan.blocks)], dim=1),
        untouched=tapes[0].maps(usual.plan.depth - 1),
        probabilities=likeliest.values,
        names=class_names(likeliest.indices.flatten()),
        source=source_of(COMMAND, WEIGHTS, LICENCE, *PHOTOS),
    )


def save(result: ClassMaps, name: str = NAME, folder: Path = FOLDER) -> Path:
    """Write a result as `stored.save` does; returns the file."""
    return write_file(result, Path(folder) / f"{name}.safetensors", MAPS)


def main(arguments: list[str]) -> int:
    """`make`: recompute the result and write it."""
    return make_files("dtl_lib.stored.class_attention", {NAME: lambda: save(compute())}, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
