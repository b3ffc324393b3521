"""Learned LayerScale factors of pretrained weights, and what their branches add on a bundled photo, stored for readers
without the weights.

`python -m dtl_lib.stored.scales make` recomputes them from the weights under DTL_DATA.
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
from .files import LEDGER, make_files, opened
from .probes import ORIGINS, pretrained

FOLDER = LEDGER / "scales"
NAME, PHOTO, SIZE = "vit_small_saliency", "chelsea", 224
TENSORS = ("attention", "mlp", "stream", "before", "added")


@dataclass(frozen=True)
class Scales:
    """One model's factors and branches, float32. Lengths are medians over the tokens of one photo; of a block's two
    branches, attention is first.

    Attributes:
        attention, mlp: the factor of each channel, `(blocks, dim)`.
        stream: length of what the branch is added to, `(blocks, 2)`.
        before: length of what the branch computes, before its factors, `(blocks, 2)`.
        added: length of what it adds, `(blocks, 2)`.
        source: weights, photo, their licences, the library's version and the command.
    """

    attention: Tensor
    mlp: Tensor
    stream: Tensor
    before: Tensor
    added: Tensor
    source: dict[str, str]


def load(name: str = NAME, folder: Path = FOLDER) -> Scales:
    """A stored result, as float16 keeps it.

    Raises:
        ValueError: for a name that is not stored, or a file that is damaged.
    """
    with opened(Path(folder) / f"{name}.safetensors", "python -m dtl_lib.stored.scales make") as content:
        tensors = {key: content.get_tensor(key).float() for key in TENSORS}
        return Scales(**tensors, source=json.loads(content.metadata()["card"]))


def compute(name: str = NAME) -> Scales:
    """The result computed from the weights and the photo.

    Raises:
        ValueError: for a name of unknown origin, or where the weights are missing.
    """
    from .. import data
    from ..data.photos import PHOTOS

    if name not in ORIGINS:
        raise ValueError(f"nothing is stored as {name!r}; there is {NAME}")
    weights, licence = ORIGINS[name]
    model, about = pretrained(weights), PHOTOS[PHOTO]
    source = {
        "weights": weights,
        "weights_licence": licence,
        "photo": f"scikit-image's {about.file}, {about.source}, {about.licence}",
        "library": f"dtl_lib {__version__}",
        "command": f"python -m dtl_lib.stored.scales make {name}",
    }
    return measure(model, data.prepare(data.photo(PHOTO), size=SIZE, config=model.config), source)


def measure(model: ViT, image: Tensor, source: dict[str, str]) -> Scales:
    """The factors of a model with LayerScale, and what its branches do to one image `(1, channels, height, width)`."""
    streams: list[Tensor] = []
    rows: list[tuple[float, ...]] = []

    def branch(_, args: tuple, added: Tensor) -> None:
        before, stream = args[0], streams.pop()
        rows.append(tuple(part.norm(dim=-1).median().item() for part in (stream, before, added)))
        streams.append(stream + added)

    def enter(_, args: tuple) -> None:
        streams[:] = [args[0]]

    handles = [block.register_forward_pre_hook(enter) for block in model.blocks]
    handles += [getattr(b, name).register_forward_hook(branch) for b in model.blocks for name in ("scale1", "scale2")]
    try:
        with torch.no_grad():
            model.eval().features(image)
    finally:
        for handle in handles:
            handle.remove()
    stream, before, added = torch.tensor(rows).unflatten(0, (-1, 2)).unbind(dim=-1)
    attention, mlp = (torch.stack([getattr(b, s).factor.detach() for b in model.blocks]) for s in ("scale1", "scale2"))
    return Scales(attention, mlp, stream, before, added, source)


def save(scales: Scales, name: str, folder: Path = FOLDER) -> Path:
    """Write a result, float16; returns the file."""
    file = Path(folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: getattr(scales, key).half().contiguous() for key in TENSORS}
    save_file(tensors, file, metadata={"card": json.dumps(scales.source)})
    return file


def main(arguments: list[str]) -> int:
    """`make [NAME]`: recompute the result and write it."""
    return make_files("dtl_lib.stored.scales", {NAME: lambda: save(compute(), NAME)}, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
