"""The class token's attention maps of every trained cell of an atlas, computed once and stored with the library."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ... import __version__, checkpoint, ledger
from ...data.photos import PHOTOS, photo, prepare
from ...models import ViT
from ...stored.files import quantise
from ...tape import record
from .grid import Cell, weights_name

FOLDER = ledger.FOLDER / "maps"
PHOTOGRAPHS = ("chelsea", "rocket", "coffee")
COMMAND = "python -m book.experiments.atlas_maps"


@dataclass(frozen=True)
class Maps:
    """The class token's maps in the last block, of one model a cell.

    Attributes:
        photos: names of bundled photos, in the order of the maps.
        by_cell: the share of its attention that each patch gets, `(photos, heads, rows, columns)`; cells without a
            class token are left out.
        seed: which of each cell's models.
        source: the library's version and the command.
    """

    photos: tuple[str, ...]
    by_cell: dict[Cell, Tensor]
    seed: int
    source: Mapping[str, str]


def trained(folder: str | Path, seed: int = 0) -> dict[Cell, ViT]:
    """The models of one seed that an atlas's run has kept in a folder, by cell.

    Raises:
        ValueError: where there is none.
    """
    files = sorted(Path(folder).glob(weights_name("*", seed)))
    if not files:
        raise ValueError(
            f"{folder} holds no weights of seed {seed}: give the folder that the atlas's run wrote them to"
        )
    models = [checkpoint.load_model(file) for file in files]
    return {Cell.from_config(model.config): model for model in models}


@torch.inference_mode()
def maps_of(models: Mapping[Cell, ViT], photos: Sequence[str] = PHOTOGRAPHS, seed: int = 0) -> Maps:
    """The maps of trained models on bundled photos, each resized to the model's input.

    Args:
        models: by cell, as `trained` gives them.
        photos: names that `dtl_lib.data.photos.photo` knows.
        seed: to note where the models are from.
    """
    by_cell = {}
    for cell, model in models.items():
        last = model.plan.blocks - 1
        if "cls" not in model.plan.layout(last):
            continue
        with record(model.eval(), stream=False) as tape:
            model(torch.cat([prepare(photo(name), config=model.config) for name in photos]))
        by_cell[cell] = tape.maps(last)
    source = {
        "library": f"dtl_lib {__version__}",
        "command": COMMAND,
        "photos": "; ".join(f"{PHOTOS[name].file}, {PHOTOS[name].source}, {PHOTOS[name].licence}" for name in photos),
    }
    return Maps(tuple(photos), by_cell, seed, source)


def save(maps: Maps, experiment: str, folder: str | Path | None = None) -> Path:
    """Write maps as `<experiment>.safetensors`: roots as uint8 with one scale a map, and a card; returns the file."""
    codes, scales = zip(*map(quantise, maps.by_cell.values()))
    cells = [[cell.cls, cell.reg, cell.num_reg] for cell in maps.by_cell]
    card = {"cells": cells, "photos": maps.photos, "seed": maps.seed, "source": dict(maps.source)}
    file = Path(folder or FOLDER) / f"{experiment}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"maps": torch.stack(codes), "maps_scale": torch.stack(scales)}
    save_file(tensors, file, metadata={"card": json.dumps(card)})
    return file


def load(experiment: str, folder: str | Path | None = None) -> Maps:
    """Maps that `save` has written; the root of each is exact to half of 1/255 of its largest.

    Raises:
        ValueError: where there are none of that experiment, or the file is damaged.
    """
    file = Path(folder or FOLDER) / f"{experiment}.safetensors"
    if not file.is_file():
        raise ValueError(
            f"no maps of {experiment} are stored in {file.parent}: `{COMMAND}` makes them from the weights"
        )
    try:
        with safe_open(file, "pt") as opened:
            maps = (opened.get_tensor("maps") * opened.get_tensor("maps_scale")).square()
            card = json.loads(opened.metadata()["card"])
        by_cell = {Cell(*cell): cell_maps for cell, cell_maps in zip(card["cells"], maps, strict=True)}
        return Maps(tuple(card["photos"]), by_cell, card["seed"], card["source"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}): `{COMMAND}` writes it again") from None
