"""LOST and PCA maps against true boxes: what is asked (q, k, v, token) × bias, for real weights and for our own.

    python -m book.experiments.lost

It needs `DTL_DATA` with the weights of both real models, DAVIS (`davis/JPEGImages`, `davis/Annotations`) and
ImageNet's photos (`imagenet/val`); predictions are in `book/predictions.md`. A record that is there is not made again.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image
from torch import Tensor

from dtl_lib import data, ledger, load_pretrained, probes, record
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.stored.probes import pretrained

EXPERIMENT, PAPER, COMMAND = "lost", "registers_paper", "python -m book.experiments.lost"
REAL = {
    "ViT-Ti/16": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "saliency ViT-S/14": "vit_small_patch14_dinov2.saliency",
}
OURS = {"shapes, no registers": "zoo/shapes_depth6", "shapes, four registers": "zoo/shapes_depth6_reg4"}
TRAINED = {
    "ViT-Ti/16": "labels of ImageNet-21k and ImageNet-1k",
    "saliency ViT-S/14": "without labels as DINOv2, then saliency masks",
    **dict.fromkeys(OURS, "labels of shapes"),
}
VIDEOS, EVERY, LONG = ("blackswan", "dog"), 5, 3.0
SIZES = {16: (240, 432), 14: (238, 420)}
CELLS = tuple(
    (of, bias) for of in ("q", "k", "v", "token") for bias in probes.qkv.BIASES if (of, bias) != ("token", "drop")
)
SHAPES, BATCH = 1000, 100


def frames(video: str, model: ViT) -> tuple[Tensor, Tensor]:
    """Frames as the model takes them, whole, and the object's pixels, bool `(batch, height, width)`."""
    size, folder = SIZES[model.config.patch_size], data_folder() / "davis"
    files = sorted((folder / "JPEGImages" / video).glob("*.jpg"))[::EVERY]
    if not files:
        raise ValueError(f"there are no frames in {folder / 'JPEGImages' / video}")
    images, masks = [], []
    for file in files:
        whole = Image.open(file).convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)
        images.append(data.prepare(np.asarray(whole), size=size, crop=1.0, config=model.config))
        mask = Image.open(folder / "Annotations" / video / f"{file.stem}.png")
        masks.append(torch.from_numpy(np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST)) > 0))
    return torch.cat(images), torch.stack(masks)


def photos(model: ViT) -> Iterator[Tensor]:
    """ImageNet's validation photos, one by one."""
    for file in sorted((data_folder() / "imagenet" / "val").glob("n*/*.JPEG")):
        yield data.prepare(data.open_image(file), size=224, config=model.config)


def shapes(model: ViT) -> Iterator[tuple[Tensor, Tensor]]:
    test = data.load("shapes").test
    for start in range(0, SHAPES, BATCH):
        yield test.batch(range(start, start + BATCH))[0], test.masks(torch.arange(start, start + BATCH)) > 0.5


def last_block(model: ViT, images: Tensor, cells: Sequence[tuple[str, str]] = CELLS):
    """Each cell's features by group, and which patches are long before the last block."""
    with torch.no_grad(), record(model) as tape:
        model(images)
    lengths = tape.norms(model.plan.blocks - 2)["patches"]
    long = lengths > LONG * lengths.flatten(1).median(dim=1).values[:, None, None]
    return {cell: probes.features(model, tape, model.plan.blocks - 1, *cell) for cell in cells}, long


def pixels(images: Tensor, patch_size: int) -> Tensor:
    """The patches' own pixels, mean subtracted: what there is before any model."""
    shape = "b c (rows h) (columns w) -> b rows columns (c h w)"
    patches = rearrange(images, shape, h=patch_size, w=patch_size)
    return patches - patches.mean(dim=(1, 2), keepdim=True)


def of_objects(masks: Tensor, patch_size: int) -> Tensor:
    """Patches with more than half of their pixels on the object, bool `(batch, rows, columns)`."""
    shape = "b (rows h) (columns w) -> b rows columns"
    return reduce(masks.double(), shape, "mean", h=patch_size, w=patch_size) > 0.5


def scored(boxes: Tensor, masks: Tensor) -> dict[str, list[float]]:
    """Of each image whether the box is right, and its overlap."""
    true = probes.boxes_of(masks)
    return {"right": probes.corloc(boxes, true).double().tolist(), "overlap": probes.box_iou(boxes, true).tolist()}


def controls(images: Tensor, masks: Tensor, patch_size: int) -> dict[str, Tensor]:
    """Boxes in pixels that no model had a hand in."""
    height, width = masks.shape[-2:]
    whole = torch.tensor([0, 0, height, width])
    middle = torch.tensor([height // 4, width // 4, height - height // 4, width - width // 4])
    return {
        "whole image": whole.expand(len(masks), 4),
        "middle": middle.expand(len(masks), 4),
        "pixels": patch_size * probes.lost(pixels(images, patch_size)).boxes,
        "best of whole patches": patch_size * probes.boxes_of(_some(of_objects(masks, patch_size), masks, patch_size)),
    }


def _some(patches: Tensor, masks: Tensor, patch_size: int) -> Tensor:
    """The patches; where none is the object's by half, those that hold any of it."""
    shape = "b (rows h) (columns w) -> b rows columns"
    any_of = reduce(masks.double(), shape, "max", h=patch_size, w=patch_size) > 0
    return torch.where(patches.flatten(1).any(dim=1)[:, None, None], patches, any_of)


def signs(patches: Tensor, objects: Tensor) -> dict[str, float]:
    """How often the first component of each image has the object on its positive side, by three rules."""
    maps = probes.pca_map(patches, components=1, joint=False).maps[:, 0]
    turns = {
        "border": torch.ones(len(maps), dtype=maps.dtype),
        "largest score": maps.flatten(1).gather(1, maps.flatten(1).abs().argmax(dim=1, keepdim=True)).squeeze(1).sign(),
        "longer tail": maps.flatten(1).pow(3).mean(dim=1).sign(),
    }
    on = (maps * objects).sum(dim=(1, 2)) / objects.sum(dim=(1, 2))
    off = (maps * ~objects).sum(dim=(1, 2)) / (~objects).sum(dim=(1, 2))
    return {f"sign by {name}": float((turn * (on - off) > 0).double().mean()) for name, turn in turns.items()}


def on_video(model: ViT, video: str) -> dict[str, dict]:
    """A record's values for each cell and control."""
    images, masks = frames(video, model)
    size = model.config.patch_size
    features, _ = last_block(model, images)
    found = {cell: probes.lost(groups["patches"]) for cell, groups in features.items()}
    rows = {", ".join(cell): scored(size * one.boxes, masks) for cell, one in found.items()}
    rows |= {name: scored(boxes, masks) for name, boxes in controls(images, masks, size).items()}
    changed = (found["k", "keep"].boxes != found["k", "drop"].boxes).any(dim=1).double()
    objects = of_objects(masks, size)
    rows["boxes and signs"] = {
        "another box without the keys' bias": float(changed.mean()),
        **signs(features["token", "centre"]["patches"], objects),
    }
    return rows


def on_photos(model: ViT) -> dict[str, dict]:
    """How often LOST begins with a long patch."""
    hits: dict[str, list[float]] = {}
    shares = []
    for images in photos(model):
        features, long = last_block(model, images)
        shares.append(float(long.double().mean()))
        for cell, groups in features.items():
            row, column = probes.lost(groups["patches"]).seeds[0].tolist()
            hits.setdefault(", ".join(cell), []).append(float(long[0, row, column]))
    rows = {f"seeds, {cell}": {"long": sum(values) / len(values)} for cell, values in hits.items()}
    return rows | {"long patches": {"share": sum(shares) / len(shares)}}


def on_shapes(model: ViT) -> dict[str, dict]:
    """CorLoc of each cell and control; and the first joint component with registers counted and without."""
    rows: dict[str, dict[str, list[float]]] = {}
    kept: dict[str, list[Tensor]] = {"patches": [], "reg": [], "masks": []}
    size = model.config.patch_size
    for images, masks in shapes(model):
        features, _ = last_block(model, images)
        boxes = {", ".join(cell): size * probes.lost(groups["patches"]).boxes for cell, groups in features.items()}
        for name, one in (boxes | controls(images, masks, size)).items():
            for key, values in scored(one, masks).items():
                rows.setdefault(name, {}).setdefault(key, []).extend(values)
        kept["masks"].append(masks)
        for name in ("patches", "reg"):
            kept[name] += [features["token", "keep"][name]] if name in features["token", "keep"] else []
    patches, masks = torch.cat(kept["patches"]), torch.cat(kept["masks"])
    ways = {"patches alone": None} | ({"registers counted": torch.cat(kept["reg"])} if kept["reg"] else {})
    for name, others in ways.items():
        maps = probes.pca_map(patches, components=1, others=others).maps[:, 0]
        rows[f"first joint component, {name}"] = {"overlap": probes.iou((maps > 0).double(), masks, mass=1.0).tolist()}
    return rows


def means(rows: dict[str, dict]) -> dict[str, float]:
    """One record's values: lists over images as their means, which of hits is CorLoc."""
    names = {"right": "corloc"}
    mean = lambda value: sum(value) / len(value) if isinstance(value, list) else value  # noqa: E731
    return {f"{names.get(key, key)}: {what}": mean(value) for what, row in rows.items() for key, value in row.items()}


def jobs() -> Iterator[tuple[str, Callable[[], ViT], Callable[[ViT], dict], int]]:
    """What is measured, of which model, and on how many images."""
    counts = {"blackswan": 10, "dog": 12}
    for name in REAL:
        for kind, change in (("trained", lambda model: model), ("untrained", probes.untrained)):
            load = lambda name=name, change=change: change(pretrained(REAL[name]))  # noqa: E731
            for video in VIDEOS:
                yield f"{name}, {kind}, {video}", load, lambda model, video=video: on_video(model, video), counts[video]
        yield f"{name}, trained, ImageNet", lambda name=name: pretrained(REAL[name]), on_photos, 80
    for name, zoo in OURS.items():
        yield f"{name}, trained", lambda zoo=zoo: load_pretrained(zoo), on_shapes, SHAPES
        yield f"{name}, untrained", lambda zoo=zoo: probes.untrained(load_pretrained(zoo)), on_shapes, SHAPES


def claims(records: dict[str, dict]) -> dict[str, tuple[int, dict[str, float]]]:
    """What the registers paper says of LOST, as rows of the ledger's `registers_paper`: n and values by claim."""
    none, four = (records[f"{name}, trained"] for name in OURS)
    seeds = records["ViT-Ti/16, trained, ImageNet"]
    best = lambda values: max(values[f"corloc: {of}, {bias}"] for of, bias in CELLS)  # noqa: E731
    pair = {
        "no registers, keys as learned": none["corloc: k, keep"],
        "four registers, keys as learned": four["corloc: k, keep"],
        "no registers, best of eleven": best(none),
        "four registers, best of eleven": best(four),
        "pixels, no model": none["corloc: pixels"],
    }
    long = {
        f"LOST begins with one: {cell}": seeds[f"long: seeds, {cell}"] for cell in ("k, keep", "k, drop", "k, centre")
    }
    return {
        "registers raise LOST's CorLoc (Table 3): null at this scale. Two models of six blocks, one seed each: "
        "on shapes it is lower with registers, and pixels alone do better than most": (SHAPES, pair),
        "artefacts keep LOST from working (abstract): reproduced in part. In ViT-Ti/16, LOST on keys begins with a "
        "high-norm patch on most photos; subtracting the image's mean mends that, without registers": (
            80,
            long | {"share of high-norm patches": seeds["share: long patches"]},
        ),
        "Table 3's rows, DeiT-III, OpenCLIP and DINOv2 on VOC and COCO: out of reach. Neither those weights nor those "
        "images are here": (1, {"rows measured": 0.0}),
    }


def add_claims(folder: Path | None) -> None:
    """Each claim once, from the records that are there."""
    records = {entry.what: dict(entry.values) for entry in ledger.read(EXPERIMENT, folder)}
    known = {entry.what for entry in ledger.read(PAPER, folder, missing_ok=True)}
    for what, (n, values) in claims(records).items():
        if what not in known:
            ledger.add(PAPER, what, COMMAND, "cpu", values, n=n, seed=0, folder=folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Every record that is not there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the records go; the library's ledger where left out")
    folder = parser.parse_args(arguments).folder
    torch.set_num_threads(1)
    there = {entry.what for entry in ledger.read(EXPERIMENT, folder, missing_ok=True)}
    for what, load, measure, n in jobs():
        if what in there:
            continue
        model = load().eval()
        about = {"n": n, "seed": 0, "config": model.config.to_dict(), "folder": folder}
        ledger.add(EXPERIMENT, what, COMMAND, "cpu", means(measure(model)), **about)
        print(what, flush=True)
    add_claims(folder)


if __name__ == "__main__":
    main()
