"""Attention, norms and predictions of pretrained weights on bundled photos, and maps through all their blocks, stored
with the library for readers without the weights.

`python -m dtl_lib.stored.attention make` recomputes them with weights from under DTL_DATA or the hub.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..tape import record
from .files import LEDGER, make_files, read_file, source_of, write_file

FOLDER = LEDGER / "real"
COMMAND = "python -m dtl_lib.stored.attention make"
EYE = (4, 4)  # the patch the book follows: row, column
MAPS = ("class_maps", "patch_maps", "eye_maps")
HALVES = ("patch_norms", "class_norms", "position_similarity")


@dataclass(frozen=True)
class Origin:
    """What a stored result is computed from: a timm name, the licence of its weights, and a bundled photo."""

    weights: str
    licence: str
    photo: str


ORIGINS = {
    "vit_tiny_chelsea": Origin("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0", "chelsea"),
}


@dataclass(frozen=True)
class Stored:
    """One model's attention, norms and prediction on one photo, float32.

    Attributes:
        class_maps: attention of the class token to each patch, `(blocks, heads, rows, columns)`; the rest of 1 goes to
            itself.
        patch_maps: attention of each patch to each patch, mean over heads, `(blocks, query, rows, columns)`.
        eye_maps: attention of the patch on the cat's eye, `EYE`, to each patch, `(blocks, heads, rows, columns)`.
        patch_norms: length of each patch token after each block, `(blocks, rows, columns)`.
        class_norms: length of the class token after each block, `(blocks,)`.
        position_similarity: cosine of every two learned positions, `(rows, columns, rows, columns)`.
        probabilities: of the five likeliest classes, `(5,)`.
        names: of those classes, ImageNet's.
        source: weights, photo, their licences, the library's version and the command.
    """

    class_maps: Tensor
    patch_maps: Tensor
    eye_maps: Tensor
    patch_norms: Tensor
    class_norms: Tensor
    position_similarity: Tensor
    probabilities: Tensor
    names: tuple[str, ...]
    source: dict[str, str]

    @property
    def top5(self) -> tuple[tuple[str, float], ...]:
        """The five likeliest classes, `((name, probability), …)`."""
        return tuple(zip(self.names, self.probabilities.tolist()))


@dataclass(frozen=True)
class Asked:
    """Where maps through all blocks come from: a timm name, its licence, bundled photos side by side, classes asked
    for."""

    weights: str
    licence: str
    photos: tuple[str, ...]
    classes: tuple[int, ...]


ASKED = {
    "vit_tiny_coffee": Asked("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0", ("coffee",), (967,)),
    "vit_tiny_cat_and_coffee": Asked(
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0", ("chelsea", "coffee"), (285, 967)
    ),
}


@dataclass(frozen=True)
class Routes:
    """One model's maps through all blocks on one image, float32; those that ask have one map for each class.

    Attributes:
        last_block: the class token's attention in the last block, mean over heads, `(rows, columns)`.
        rollout: `probes.rollout`, `(rows, columns)`.
        gradient_rollout, relevance: `probes.gradient_rollout` and `probes.relevance`, `(classes, rows, columns)`.
        probabilities: of the classes, `(classes,)`.
        names: of the classes, ImageNet's.
        source: as in `Stored`.
    """

    last_block: Tensor
    rollout: Tensor
    gradient_rollout: Tensor
    relevance: Tensor
    probabilities: Tensor
    names: tuple[str, ...]
    source: dict[str, str]


ROUTES = ("last_block", "rollout", "gradient_rollout", "relevance")


def load(name: str = "vit_tiny_chelsea", folder: Path = FOLDER) -> Stored:
    """A stored result.

    The square root of each map is exact to half of 1/255 of its largest value, so that small values survive beside
    large ones; norms are float16.

    Raises:
        ValueError: for a name that is not stored, or a file that is damaged.
    """
    return Stored(**read_file(Path(folder) / f"{name}.safetensors", COMMAND, MAPS, HALVES))


def load_routes(name: str = "vit_tiny_coffee", folder: Path = FOLDER / "routes") -> Routes:
    """Stored maps through all blocks, as exact as those of `load`.

    Raises:
        ValueError: as `load`.
    """
    return Routes(**read_file(Path(folder) / f"{name}.safetensors", COMMAND, ROUTES))


def compute(name: str = "vit_tiny_chelsea") -> Stored:
    """The result computed from the weights and the photo, not quantised.

    Raises:
        ValueError: for a name of unknown origin, or where the weights cannot be had.
    """
    from ..data.photos import photo, prepare
    from ..pretrained import load_pretrained

    if name not in ORIGINS:
        raise ValueError(f"nothing is stored as {name!r}; there are {', '.join(ORIGINS)}")
    origin = ORIGINS[name]
    model = load_pretrained(origin.weights)
    with record(model) as tape, torch.no_grad():
        logits = model(prepare(photo(origin.photo), config=model.config))
    likeliest = logits.softmax(dim=-1)[0].topk(5)
    return Stored(
        **_measure(tape),
        position_similarity=_cosines(model.positions.detach()),
        probabilities=likeliest.values,
        names=class_names(likeliest.indices),
        source=source_of(f"{COMMAND} {name}", origin.weights, origin.licence, origin.photo),
    )


def compute_routes(name: str = "vit_tiny_coffee") -> Routes:
    """The maps computed from the weights and the photos side by side, not quantised; positions are interpolated.

    Raises:
        ValueError: as `compute`.
    """
    from .. import probes
    from ..data.photos import photo, prepare
    from ..pretrained import load_pretrained

    if name not in ASKED:
        raise ValueError(f"nothing is stored as {name!r}; there are {', '.join(ASKED)}")
    asked = ASKED[name]
    model = load_pretrained(asked.weights)
    images = torch.cat([prepare(photo(one), config=model.config) for one in asked.photos], dim=-1)
    of_class: dict[str, list[Tensor]] = {"gradient_rollout": [], "relevance": []}
    for number in asked.classes:
        with record(model, grad=True) as tape:
            logits = model(images)
            logits[:, number].sum().backward()
        for probe, maps in of_class.items():
            maps.append(getattr(probes, probe)(tape)[0])
    return Routes(
        last_block=tape.maps(tape.plan.blocks - 1)[0].mean(dim=0),
        rollout=probes.rollout(tape)[0],
        **{probe: torch.stack(maps) for probe, maps in of_class.items()},
        probabilities=logits.detach().softmax(dim=-1)[0, list(asked.classes)],
        names=class_names(torch.tensor(asked.classes)),
        source=source_of(f"{COMMAND} {name}", asked.weights, asked.licence, *asked.photos),
    )


def save(stored: Stored, name: str, folder: Path = FOLDER) -> Path:
    """Write a result, roots of maps as uint8 with one scale a map, norms as float16; returns the file."""
    return write_file(stored, Path(folder) / f"{name}.safetensors", MAPS, HALVES)


def save_routes(routes: Routes, name: str, folder: Path = FOLDER / "routes") -> Path:
    """Write maps through all blocks as `save` does; returns the file."""
    return write_file(routes, Path(folder) / f"{name}.safetensors", ROUTES)


def _measure(tape) -> dict[str, Tensor]:
    rows, _ = tape.grid
    blocks = range(tape.plan.depth)
    slices = [tape.plan.layout(block)["patches"] for block in blocks]
    patches = [tape.attention(block)[0].mean(dim=0)[part, part] for block, part in zip(blocks, slices)]
    norms = [tape.norms(block) for block in blocks]
    return {
        "class_maps": torch.cat([tape.maps(block) for block in blocks]),
        "patch_maps": rearrange(torch.stack(patches), "b query (rows columns) -> b query rows columns", rows=rows),
        "eye_maps": torch.cat([tape.maps(block, of=("patch", *EYE)) for block in blocks]),
        "patch_norms": torch.cat([norm["patches"] for norm in norms]),
        "class_norms": torch.cat([norm["cls"] for norm in norms]),
    }


def _cosines(positions: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(positions, dim=-1)
    return torch.einsum("r s d, t u d -> r s t u", unit, unit)


def class_names(indices: Tensor) -> tuple[str, ...]:
    """ImageNet's names of classes."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_description(index) for index in indices.tolist())


def main(arguments: list[str]) -> int:
    """`make [NAME …]`: recompute results and write them; all of them where no name is given."""
    jobs = {name: lambda name=name: save(compute(name), name) for name in ORIGINS}
    jobs |= {name: lambda name=name: save_routes(compute_routes(name), name) for name in ASKED}
    return make_files("dtl_lib.stored.attention", jobs, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
