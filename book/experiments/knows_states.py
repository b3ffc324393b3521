"""The tokens that `book.experiments.knows` asks: which, of which images, and what is true of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from book.experiments.test_time import bundled, find
from dtl_lib import data, load_pretrained, probes, record
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.registers import NAME, test_time_registers
from dtl_lib.tokens import PATCHES

VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
BLOCKS = ("input", 1, 3, 5, 6, 7, 8, 9, 10, 11, "norm")
OWN = ("input", 0, 1, 2, 3, 4, 5)  # of our own models
SIZE, WHOLE, BATCH, ANIMALS, FURTHER = 320, 448, 40, 398, 5
States = dict[str, Tensor]  # kind → (places or images, blocks, dim)


def eight(rows: int, columns: int) -> list[tuple[int, int]]:
    """The neighbours of the corners along the border."""
    last, right = rows - 1, columns - 1
    ends = [(0, 1), (1, 0), (0, right - 1), (1, right), (last - 1, 0), (last, 1), (last, right - 1), (last - 1, right)]
    return ends


def further(place: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """The place five rows and columns towards the middle."""
    row, column = place
    down, right = (1 if row < rows / 2 else -1), (1 if column < columns / 2 else -1)
    return row + FURTHER * down, column + FURTHER * right


def views(model: ViT) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of two windows of each photo, at opposite corners; the photos' numbers; whether they show an animal."""
    folder, order = data_folder() / "imagenet", {}
    files = sorted(folder.glob("*/n*/*.JPEG"), key=lambda file: file.name)
    for number, (wnid, _) in _classes(folder).items():
        order[wnid] = number
    at = (0, WHOLE - SIZE)
    for start in range(0, len(files), BATCH // 2):
        images, photos, animals = [], [], []
        for number, file in enumerate(files[start : start + BATCH // 2], start):
            whole = data.prepare(data.open_image(file), size=WHOLE, crop=1.0, config=model.config)
            images += [whole[..., begin : begin + SIZE, begin : begin + SIZE] for begin in at]
            photos += [number] * 2
            animals += [order[file.parent.name] < ANIMALS] * 2
        yield torch.cat(images), torch.tensor(photos), torch.tensor(animals).long()


def _classes(folder: Path) -> dict[int, tuple[str, str]]:
    import json

    return {
        int(number): tuple(names) for number, names in json.loads((folder / "class_index.json").read_text()).items()
    }


def enlarged(model: ViT, images: data.Images, count: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the first of CIFAR-10's images at the model's size, and their classes."""
    for start in range(0, count, BATCH):
        pixels, classes = images.batch(range(start, min(start + BATCH, count)))
        small = data.undo(pixels, images.mean, images.std)
        yield torch.cat([data.prepare(one, size=224, crop=1.0, config=model.config) for one in small]), classes


@torch.inference_mode()
def after(model: ViT, images: Tensor, neurons: Sequence = ()):
    """Every token after each of `BLOCKS`, `(batch, tokens, blocks, dim)` by group, and the tape."""
    changed = test_time_registers(model, neurons) if neurons else nullcontext()
    with changed, record(model) as tape:
        model(images)
        last, found = model.plan.blocks - 1, {}
        for block in BLOCKS:
            tokens = model.norm(tape.tokens(last)) if block == "norm" else tape.tokens(block)
            layout = tape.plan.layout({"input": 0, "norm": last}.get(block, block))
            for group, where in layout.items():
                found.setdefault(group, []).append(tokens[:, where])
    return {group: torch.stack(values, dim=2) for group, values in found.items()}, tape


def of_photos(model: ViT, neurons: Sequence) -> States:
    """All tokens at the eight places and further inside, with and without the neuron moved, of all views."""
    found: dict[str, list[Tensor]] = {}
    for images, photos, animals in views(model):
        plain, tape = after(model, images)
        moved, _ = after(model, images, neurons)
        outliers, (rows, columns) = probes.find_outliers(tape), tape.grid
        places = eight(rows, columns)
        flat = [row * columns + column for row, column in places]
        inner = [row * columns + column for row, column in (further(place, rows, columns) for place in places)]
        ever = torch.stack([outliers.mask(block) for block in range(model.plan.depth)]).any(dim=0).flatten(1)
        pixels = probes.patch_pixels(images, model.config.patch_size).flatten(1, 2)
        now = {
            "long": outliers.mask(model.plan.depth - 2).flatten(1)[:, flat],
            "ever": ever[:, flat],
            "border": plain[PATCHES][:, flat],
            "twin": moved[PATCHES][:, flat],
            "inside": plain[PATCHES][:, inner],
            "inside moved": moved[PATCHES][:, inner],
            "class token": plain["cls"][:, 0],
            "new token": moved[NAME][:, 0],
            "pixels": pixels[:, flat],
            "inner pixels": pixels[:, inner],
            "photo": photos,
            "animal": animals,
        }
        collect(found, now)
        print(f"views: {sum(map(len, found['photo']))}", flush=True)
    return {name: torch.cat(values) for name, values in found.items()}


def of_cifar(model: ViT, neurons: Sequence) -> States:
    """The class token, one corner that is long, its twin, one patch inside, and the new token, of all images."""
    found: dict[str, list[Tensor]] = {}
    for number, (images, classes) in enumerate(enlarged(model, data.load("cifar10", data_folder()).test)):
        plain, tape = after(model, images)
        moved, _ = after(model, images, neurons)
        rows, columns = tape.grid
        mask = probes.find_outliers(tape).mask(model.plan.depth - 2)
        corners = torch.zeros_like(mask)
        corners[:, [0, 0, -1, -1], [0, -1, 0, -1]] = True
        mask &= corners
        some = mask.flatten(1).any(dim=1)
        at = probes.draw_places(mask[some], 1, seed=number).nonzero()
        flat = at[:, 1] * columns + at[:, 2]
        inner = [further((row, column), rows, columns) for row, column in at[:, 1:].tolist()]
        inside = torch.tensor([row * columns + column for row, column in inner])
        rows_of = torch.arange(len(at))
        now = {
            "class token": plain["cls"][some, 0],
            "outlier": plain[PATCHES][some][rows_of, flat],
            "twin": moved[PATCHES][some][rows_of, flat],
            "inside": plain[PATCHES][some][rows_of, inside],
            "inside moved": moved[PATCHES][some][rows_of, inside],
            "new token": moved[NAME][some, 0],
            "class": classes[some],
            "colour": images[some].mean(dim=(2, 3)),
        }
        collect(found, now)
        print(f"images: {sum(map(len, found['class']))}", flush=True)
    return {name: torch.cat(values) for name, values in found.items()}


def collect(found: dict[str, list[Tensor]], now: States) -> None:
    for name, values in now.items():
        found.setdefault(name, []).append(values.clone())


@torch.inference_mode()
def of_shapes(name: str, count: int = 2000) -> States:
    """The class token, each register, one patch at random and one in the middle of the object, of our own models."""
    model, test = load_pretrained(f"zoo/{name}"), data.load("shapes").test
    images, classes = test.batch(range(count))
    masks = test.masks(torch.arange(count)) > 0.5
    middle = torch.stack([mask.nonzero().double().mean(dim=0) for mask in masks]).float()
    with record(model) as tape:
        model(images)
    states = torch.stack([tape.tokens(block) for block in OWN], dim=2)
    layout, size, (rows, columns) = tape.plan.layout(0), tape.patch_size, tape.grid
    patches, which = states[:, layout[PATCHES]], torch.arange(count)
    drawn = torch.randint(rows * columns, (count,), generator=torch.Generator().manual_seed(0))
    there = (middle // size).long()
    found = {"class token": states[:, layout["cls"].start], "patch at random": patches[which, drawn]}
    found["patch on the object"] = patches[which, there[:, 0] * columns + there[:, 1]]
    for number in range(layout["reg"].stop - layout["reg"].start if "reg" in layout else 0):
        found[f"register {number}"] = states[:, layout["reg"].start + number]
    return found | {"class": classes, "middle": middle}


def kept(file: Path | None, make: Callable[[], States]) -> States:
    """From the file where it is there; else made, and kept in it."""
    if file and file.is_file():
        return torch.load(file)
    found = make()
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, file)
    return found


def real(folder: Path | None) -> tuple[States, States]:
    """Of the photos and of CIFAR-10, from ViT-Ti/16."""
    model = load_pretrained(VIT)
    neurons = find(model, bundled(model))[:1]
    photos = kept(folder and folder / "photos.pt", lambda: of_photos(model, neurons))
    return photos, kept(folder and folder / "cifar.pt", lambda: of_cifar(model, neurons))
