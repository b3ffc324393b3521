"""High-norm tokens in two pretrained models, at several image sizes: where, from which block on, and what for?

    python -m book.experiments.high_norm --photos DIR

The photos are an ImageNet folder's; each model and size has a record, and what has one is not measured again. At the
end come the claims of the registers paper that chapter 14 touches, as rows of `registers_paper`. What was expected is
in `book/predictions.md`, committed before the first run.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from book.experiments.entry import SALIENCY, VIT, load
from dtl_lib import data, ledger, probes, record
from dtl_lib.models import ViT
from dtl_lib.tokens import PATCHES

EXPERIMENT, PAPER, COMMAND = "high_norm", "registers_paper", "python -m book.experiments.high_norm"
SIZES = {VIT: (224, 160, 320), SALIENCY: (224, 448)}
PHOTOS, BINS = 80, 60


def what(name: str, size: int) -> str:
    """What a record is called."""
    return f"{name}: {size} pixels"


def measure(model: ViT, images: Tensor) -> dict:
    """Values of a record: lists have one entry a block, 0 where there is nothing; no start is −1, `kind` a place in
    `probes.sinks.KINDS`, or −1."""
    with torch.no_grad(), record(model) as tape:
        model(images)
    found, writers = probes.find_outliers(tape), probes.predict_direction(model)
    blocks, grid = range(tape.plan.depth), tape.grid
    lengths = {str(block): tape.norms(block)[PATCHES] for block in ("input", *blocks)}
    low, high = min(float(n.min()) for n in lengths.values()), max(float(n.max()) for n in lengths.values())
    edges = torch.tensor([low * 0.999, high * 1.001])
    border, corners = torch.ones(grid, dtype=torch.bool), torch.zeros(grid, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    values = {
        "rows": grid[0],
        "start": -1 if found.start is None else found.start,
        "kind": -1 if found.kind is None else probes.sinks.KINDS.index(found.kind),
        "p98": [float(n.flatten().double().quantile(0.98) / n.median()) for n in lengths.values()],
        "median": [float(n.median()) for n in lengths.values()],
        "edges": edges.tolist(),
        "gains of attention": writers.gains[:, 0].tolist(),
        "gains of mlp": writers.gains[:, 1].tolist(),
        "predicted block": writers.block,
    }
    for name, lengths_here in lengths.items():
        counts = torch.histc(lengths_here.log(), BINS, *edges.log().tolist())
        values[f"counts {name}"] = counts.long().tolist()
    rows = [of_block(found, block, corners, border, writers.direction, len(images)) for block in blocks]
    return values | {name: [row[name] for row in rows] for name in rows[0]}


def of_block(found, block: int, corners: Tensor, border: Tensor, predicted: Tensor, count: int) -> dict:
    """Numbers of one block: of the outliers after it, and of those that enter it as sinks."""
    mode, mask, sinks = found.modes[block], found.mask(block), found.sinks.get(block)
    channels = mode.channels() if mode else []
    return {
        "found": int(mask.sum()),
        "photos with four": int((mask.flatten(1).sum(dim=1) == 4).sum()),
        "on the corners": int((mask & corners).sum()),
        "on the border": int((mask & border).sum()),
        "cut": mode.cut if mode else 0,
        "ratio": mode.ratio if mode else 0,
        "alike": mode.alike if mode else 0,
        "channels": len(channels),
        "first channel": channels[0] if channels else -1,
        "cosine": abs(float(mode.direction @ predicted)) if mode else 0,
        "attention": float(sinks.attention.sum()) / count if sinks else 0,
        "output": float(sinks.output.median()) if sinks else 0,
        "no-op": sinks.kinds.count("no-op") if sinks else 0,
        "broadcast": sinks.kinds.count("broadcast") if sinks else 0,
        "sinks": len(sinks.kinds) if sinks else 0,
    }


def photos(folder: str, model: ViT, size: int) -> Tensor:
    """Photos at even distances over the folder's."""
    sets = data.load("imagenet", folder, size, config=model.config)
    parts = [part for part in (sets.train, sets.held_out, sets.test) if len(part)]
    total = sum(map(len, parts))
    chosen = torch.linspace(0, total - 1, min(PHOTOS, total)).round().long()
    pixels, start = [], 0
    for part in parts:
        mine = chosen[(chosen >= start) & (chosen < start + len(part))] - start
        if len(mine):
            pixels.append(part.batch(mine.tolist())[0])
        start += len(part)
    return torch.cat(pixels)


def claims(rows: dict[str, dict]) -> dict[str, tuple[int, dict]]:
    """What the registers paper says of high-norm tokens, as rows of the ledger: n and values by claim."""
    vit, saliency = rows[what(VIT, 224)], rows[what(SALIENCY, 224)]
    start, last = vit["start"], len(vit["found"]) - 1
    share = vit["found"][last] / (vit["n"] * vit["rows"] ** 2)
    return {
        "a few patch tokens have outlier norms, a second mode of the lengths (2.1): reproduced in ViT-Ti/16": (
            vit["n"],
            {"ratio after the last block": vit["ratio"][last], "share of patches": share},
        ),
        "they begin around the middle of the blocks (2.1, Fig. 4a): reproduced in ViT-Ti/16": (
            vit["n"],
            {"first block": start, "blocks": last + 1},
        ),
        "only large models have them (2.1, Fig. 4c): not so. ViT-Ti/16, with 5.7 million parameters, has them, and a "
        "ViT-S/14 that began as DINOv2's has none": (
            vit["n"],
            {"ViT-Ti/16, found": vit["found"][last], "ViT-S/14, found": sum(saliency["found"])},
        ),
        "they are where patches are like their neighbours (2.1, Fig. 5a): null in ViT-Ti/16, where they are the "
        "corners of any photo": (
            vit["n"],
            {"on the corners": vit["on the corners"][last] / max(vit["found"][last], 1)},
        ),
        "they appear after a third of training (2.1, Fig. 4b): out of reach. No checkpoints of a model that has them "
        "are here": (1, {"checkpoints": 0.0}),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", required=True, metavar="DIR", help="an ImageNet folder, with train/ and val/")
    parser.add_argument("--records", metavar="DIR", help="where records go: the library's ledger by default")
    flags = parser.parse_args(arguments)
    for name, sizes in SIZES.items():
        for size in sizes:
            have = {one.what for one in ledger.read(EXPERIMENT, flags.records, missing_ok=True)}
            if what(name, size) in have:
                continue
            model = load(name)
            images = photos(flags.photos, model, size)
            values = measure(model, images)
            ledger.add(
                EXPERIMENT, what(name, size), COMMAND, "cpu", values, n=len(images), seed=None, folder=flags.records
            )  # fmt: skip
            print(what(name, size), values["start"], values["kind"], values["found"])
    rows = {one.what: {**one.values, "n": one.n} for one in ledger.read(EXPERIMENT, flags.records)}
    done = {one.what for one in ledger.read(PAPER, flags.records, missing_ok=True)}
    for claim, (n, values) in claims(rows).items():
        if claim not in done:
            ledger.add(PAPER, claim, COMMAND, "cpu", values, n=n, seed=None, folder=flags.records)


if __name__ == "__main__":
    main()
