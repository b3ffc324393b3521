"""Photos rebuilt from single tokens of real weights, stored with the library for readers without the weights.

`python -m dtl_lib.stored.knows make` recomputes them with weights from under DTL_DATA, and probes that are fitted to
the photos of `DTL_DATA/imagenet`.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange, reduce
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__
from ..host import data_folder
from ..models import ViT
from ..registers import RegisterNeuron, find_register_neurons, test_time_registers
from ..tape import Tape, record
from .files import LEDGER, make_files, opened

FOLDER = LEDGER / "knows"
ORIGINS = {"vit_tiny": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0")}
PHOTOS = ("chelsea", "coffee")
SIZE, BATCH, SAMPLE = 320, 20, 16  # pixels; photos; normal patches of each photo that probes are fitted to
BLOCKS = ("input", 5, 11)
KINDS = ("true", "from its token", "neuron moved")


@dataclass(frozen=True)
class StoredKnows:
    """What ridge regression makes of one token's 192 numbers: the pixels of its own patch.

    Attributes:
        photos: as the model gets them, at half the size, uint8 `(photos, height, width, 3)`.
        rebuilt: each patch from its own token, before block 0 and after blocks 5 and 11, `(photos, 3, height, width,
            3)`; after block 11 long tokens by a probe that is fitted to long tokens.
        long: the patches that are outliers after any block, bool `(photos, rows, columns)`.
        patches: each of these, photo by photo and row by row, uint8 `(patches, kinds, 16, 16, 3)`: the true one; from
            its token after block 11; and the same where the neuron that makes it long is moved to a new token.
        n: photos that the probes are fitted to.
        source: weights, photos, their licences, the library's version and the command.
    """

    photos: Tensor
    rebuilt: Tensor
    long: Tensor
    patches: Tensor
    n: int
    source: dict[str, str]


TENSORS = ("photos", "rebuilt", "long", "patches")


def load(name: str = "vit_tiny", folder: Path = FOLDER) -> StoredKnows:
    """A stored result.

    Raises:
        ValueError: for a name that is not stored, or a file that is damaged.
    """
    with opened(Path(folder) / f"{name}.safetensors", "python -m dtl_lib.stored.knows make") as content:
        found, card = {key: content.get_tensor(key) for key in TENSORS}, json.loads(content.metadata()["card"])
        return StoredKnows(**found, n=card["n"], source=card["source"])


def compute(name: str = "vit_tiny") -> StoredKnows:
    """The result computed from weights and photos.

    Raises:
        ValueError: for a name of unknown origin, or where weights or photos are missing.
    """
    from .. import data, probes
    from ..data.photos import PHOTOS as ABOUT
    from ..pretrained import load_pretrained

    if name not in ORIGINS:
        raise ValueError(f"nothing is stored as {name!r}; there are {', '.join(ORIGINS)}")
    weights, licence = ORIGINS[name]
    model, folder = load_pretrained(weights).eval(), data_folder() / "imagenet"
    files = sorted(folder.glob("*/n*/*.JPEG"), key=lambda file: file.name)
    if len(files) < BATCH:
        raise ValueError(f"there are no photos in {folder}: train and val, with folders named by WordNet ids")

    def prepare(picture) -> Tensor:
        return data.prepare(picture, size=SIZE, crop=1.0, config=model.config)

    starts = range(0, len(files), BATCH)
    batches = (torch.cat([prepare(data.open_image(file)) for file in files[at : at + BATCH]]) for at in starts)
    bundled = torch.cat([data.prepare(data.photo(one), config=model.config) for one in ABOUT])
    with torch.no_grad(), record(model) as tape:
        model(bundled)
    block = model.plan.depth - 2
    neurons = find_register_neurons(model, bundled, probes.find_outliers(tape).mask(block), block)[:1]
    shown = torch.cat([prepare(data.photo(one)) for one in sorted(ABOUT, key=lambda one: one not in PHOTOS)])
    source = {
        "weights": weights,
        "weights_licence": licence,
        "photos": "; ".join(
            f"scikit-image's {one.file}, {one.source}, {one.licence}" for one in map(ABOUT.get, PHOTOS)
        ),
        "probes": f"fitted to {len(files)} photos of ImageNet",
        "library": f"dtl_lib {__version__}",
        "command": f"python -m dtl_lib.stored.knows make {name}",
    }
    return measure(model, neurons, batches, shown, source, keep=len(PHOTOS))


def measure(
    model: ViT,
    neurons: Sequence[RegisterNeuron],
    batches: Iterable[Tensor],
    shown: Tensor,
    source: dict[str, str],
    blocks: Sequence = BLOCKS,
    keep: int | None = None,
) -> StoredKnows:
    """What is stored, of any model that has outliers in these images.

    Args:
        model: with patches of a size that 2 divides.
        neurons: that make patches long, to be moved.
        batches: images that the probes are fitted to, `(batch, 3, height, width)`.
        shown: those that are rebuilt, of the same size; outliers are looked for in all of them together.
        source: what the result says of itself.
        blocks: after which photos are rebuilt; the last of them for the long patches.
        keep: how many of those shown are kept, the first ones; all if None.

    Raises:
        ValueError: where no patch of what is kept is long.
    """
    from .. import probes

    rows, count, keep = _Rows(blocks), 0, len(shown) if keep is None else keep
    tape, moved, long = _look(model, neurons, shown, _Rows(blocks), 0)
    long[keep:] = False
    if not long.any():
        raise ValueError("no patch of the photos that are shown is long")
    for images in batches:
        _look(model, neurons, images, rows, count)
        count += len(images)
    fitted = {kind: probes.fit_probe(*rows.of(kind)) for kind in rows.found}
    last, rebuilt = blocks[-1], []
    lengthy = _predict(fitted["long"], probes.one_token(tape, last, where=long)[0])
    for block in blocks:
        pixels = _predict(fitted[f"normal {block}"], probes.one_token(tape, block)[0])
        if block == last:
            pixels[long.flatten()] = lengthy
        whole = probes.pictures_of(pixels.view(len(shown), *tape.grid, -1)[:keep], tape.patch_size)
        rebuilt.append(_halved(_uint8(whole, model)))
    twins = _predict(fitted["twin"], probes.one_token(moved, last, where=long)[0])
    kinds = torch.stack([probes.patch_pixels(shown, tape.patch_size)[long].float(), lengthy, twins], dim=1)
    patches = _uint8(rearrange(kinds, "n kinds (h w c) -> n kinds c h w", h=tape.patch_size, w=tape.patch_size), model)
    photos = _halved(_uint8(shown[:keep], model))
    return StoredKnows(photos, torch.stack(rebuilt, dim=1), long[:keep], patches, count, source)


class _Rows:
    """Tokens, pixels and images by kind, as they come."""

    def __init__(self, blocks: Sequence):
        self.blocks = blocks
        self.found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}

    def add(self, kind: str, tape: Tape, block, where: Tensor, images: Tensor, first: int) -> None:
        from .. import probes

        features, number = probes.one_token(tape, block, where=where)
        pixels = probes.patch_pixels(images, tape.patch_size)[where]
        self.found.setdefault(kind, []).append((features, pixels, number + first))

    def of(self, kind: str) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*self.found[kind]))


def _look(model: ViT, neurons: Sequence[RegisterNeuron], images: Tensor, rows: _Rows, first: int):
    """Tapes without and with the neurons moved, the long patches, and normal ones to fit to; kept in `rows`."""
    from .. import probes

    tapes = []
    for changed in (nullcontext(), test_time_registers(model, neurons)):
        with changed, torch.no_grad(), record(model) as tape:
            model(images)
        tapes.append(tape)
    found = probes.find_outliers(tapes[0])
    long = torch.stack([found.mask(block) for block in range(model.plan.depth)]).any(dim=0)
    drawn = probes.draw_places(~long, SAMPLE, seed=first)
    for block in rows.blocks:
        rows.add(f"normal {block}", tapes[0], block, drawn, images, first)
    rows.add("long", tapes[0], rows.blocks[-1], long, images, first)
    rows.add("twin", tapes[1], rows.blocks[-1], long, images, first)
    return *tapes, long


def _predict(probe, features: Tensor) -> Tensor:
    return torch.from_numpy(probe.predict(features.double().numpy())).float()


def _uint8(images: Tensor, model: ViT) -> Tensor:
    from .. import data

    return torch.from_numpy(data.undo(images, model.config.mean, model.config.std))


def _halved(images: Tensor) -> Tensor:
    shape = "batch (h two) (w deux) c -> batch h w c"
    return reduce(images.float(), shape, "mean", two=2, deux=2).round().to(torch.uint8)


def save(result: StoredKnows, name: str, folder: Path = FOLDER) -> Path:
    """Write a result; returns the file."""
    file = Path(folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: getattr(result, key).contiguous() for key in TENSORS}
    save_file(tensors, file, metadata={"card": json.dumps({"n": result.n, "source": result.source})})
    return file


def main(arguments: list[str]) -> int:
    """`make [NAME …]`: recompute results and write them; all of them where no name is given."""
    jobs = {name: lambda name=name: save(compute(name), name) for name in ORIGINS}
    return make_files("dtl_lib.stored.knows", jobs, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
