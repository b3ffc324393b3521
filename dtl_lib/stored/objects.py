"""PCA maps and LOST's boxes of real weights on bundled photos, stored with the library for readers without the weights.

`python -m dtl_lib.stored.objects make` recomputes them with weights from under DTL_DATA.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__
from ..models import ViT
from ..tape import record
from .files import LEDGER, make_files, opened
from .probes import ORIGINS, pretrained

FOLDER = LEDGER / "objects"
PHOTOS = ("chelsea", "coffee", "astronaut", "rocket")
SIZES = {16: 384, 14: 378}  # pixels, by patch size
CELLS = (("k", "keep"), ("k", "drop"), ("k", "centre"), ("v", "centre"), ("token", "keep"), ("token", "centre"))
LONG = 3.0  # times the median length of the image's patches, before the last block


@dataclass(frozen=True)
class StoredObjects:
    """What one model's last block makes of the photos `PHOTOS`.

    Attributes:
        joint: the first three components of the tokens of all photos together as colours, uint8 `(photos, rows,
            columns, 3)`.
        own: those of each photo alone.
        first: scores on the first joint component, float32 `(photos, rows, columns)`.
        shares, margins: of the joint components, as in `probes.PCAMap`, `(3,)`.
        boxes: LOST's, in patches, `(photos, cells, 4)`; the cells are `CELLS`.
        long: patches longer than three times their image's median before the last block, bool `(photos, rows,
            columns)`.
        source: weights, photos, their licences, the library's version and the command.
    """

    joint: Tensor
    own: Tensor
    first: Tensor
    shares: Tensor
    margins: Tensor
    boxes: Tensor
    long: Tensor
    source: dict[str, str]


TENSORS = ("joint", "own", "first", "shares", "margins", "boxes", "long")


def load(name: str = "vit_small_saliency", folder: Path = FOLDER) -> StoredObjects:
    """A stored result; scores are float16.

    Raises:
        ValueError: for a name that is not stored, or a file that is damaged.
    """
    with opened(Path(folder) / f"{name}.safetensors", "python -m dtl_lib.stored.objects make") as content:
        found = {key: content.get_tensor(key) for key in TENSORS}
        source = json.loads(content.metadata()["source"])
        return StoredObjects(**found | {"first": found["first"].float(), "boxes": found["boxes"].long()}, source=source)


def pictures(model: ViT) -> Tensor:
    """The photos as a model takes them, `(photos, 3, height, width)`."""
    from .. import data

    size = SIZES[model.config.patch_size]
    return torch.cat([data.prepare(data.photo(name), size=size, crop=1.0, config=model.config) for name in PHOTOS])


def compute(name: str) -> StoredObjects:
    """The result computed from weights and photos, not rounded.

    Raises:
        ValueError: for a name of unknown origin, or where the weights cannot be had.
    """
    from .. import probes
    from ..data.photos import PHOTOS as ABOUT

    if name not in ORIGINS:
        raise ValueError(f"nothing is stored as {name!r}; there are {', '.join(ORIGINS)}")
    weights, licence = ORIGINS[name]
    model = pretrained(weights)
    last = model.plan.blocks - 1
    with torch.no_grad(), record(model) as tape:
        model(pictures(model))
    patches = {cell: probes.features(model, tape, last, *cell)["patches"] for cell in CELLS}
    tokens = patches["token", "keep"]
    joint, own = (probes.pca_map(tokens, joint=together) for together in (True, False))
    lengths = tape.norms(last - 1)["patches"]
    shown = [ABOUT[photo] for photo in PHOTOS]
    return StoredObjects(
        joint=probes.as_colours(joint.maps),
        own=probes.as_colours(own.maps, joint=False),
        first=joint.maps[:, 0].float(),
        shares=joint.shares.float(),
        margins=joint.margins.float(),
        boxes=torch.stack([probes.lost(patches[cell]).boxes for cell in CELLS], dim=1),
        long=lengths > LONG * lengths.flatten(1).median(dim=1).values[:, None, None],
        source={
            "weights": weights,
            "weights_licence": licence,
            "photos": "; ".join(f"scikit-image's {photo.file}, {photo.source}, {photo.licence}" for photo in shown),
            "library": f"dtl_lib {__version__}",
            "command": f"python -m dtl_lib.stored.objects make {name}",
        },
    )


def save(result: StoredObjects, name: str, folder: Path = FOLDER) -> Path:
    """Write a result; returns the file."""
    tensors = {key: getattr(result, key) for key in TENSORS}
    tensors |= {"first": result.first.half(), "boxes": result.boxes.short()}
    file = Path(folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    save_file(tensors, file, metadata={"source": json.dumps(result.source)})
    return file


def main(arguments: list[str]) -> int:
    """`make [NAME …]`: recompute results and write them; all of them where no name is given."""
    jobs = {name: lambda name=name: save(compute(name), name) for name in ORIGINS}
    return make_files("dtl_lib.stored.objects", jobs, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
