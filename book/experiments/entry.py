"""Where do two trained models need their class token? `probes.measure_entry` on ImageNet photos.

    python -m book.experiments.entry --photos DIR

The class token enters before each of some blocks, in four ways, the blocks before run without it or with it; or it
leaves there. The weights are read from `DTL_DATA/weights`; the photos lie in `DIR/train` and `DIR/val`, in folders
named by WordNet ids, and all are used, of whichever part. Nothing is trained. A row that has a record is not measured
again, so an interrupted command continues where it stopped. What was expected is in `book/predictions.md`, committed
before the first run.

One model is ViT-Ti/16 (How to train your ViT?, Steiner et al. 2022), fine-tuned on ImageNet. The other is a ViT-S/14
that began as DINOv2's and was then fine-tuned by others to predict saliency. It has no classes, so only what it reads
can be compared, and it is not DINOv2.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from dtl_lib import data, ledger
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.pretrained import from_timm, load_pretrained
from dtl_lib.probes import measure_entry
from dtl_lib.probes.entry import BEFORE, WAYS

EXPERIMENT, SIZE, BATCH = "entry", 224, 40
VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
SALIENCY = "vit_small_patch14_dinov2.saliency"
BLOCKS = {VIT: (10, 8, 6, 4, 2, 1), SALIENCY: (10, 8, 4, 2)}
PHOTOS = {VIT: None, SALIENCY: 80}  # None: all


def load(name: str) -> ViT:
    """One of the two models, for images of `SIZE` pixels."""
    if name == VIT:
        return load_pretrained(name)
    import timm
    from safetensors.torch import load_file

    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    weights = load_file(data_folder() / "weights" / f"{name}.safetensors")
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    return from_timm(model).eval()


def photos(folder: str, model: ViT, most: int | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of every photo below a folder, or of `most` of them at even distances, with their ImageNet classes."""
    sets, x, y = data.load("imagenet", folder, SIZE, config=model.config), [], []
    for part in (sets.train, sets.held_out, sets.test):
        pixels, labels = part.batch(range(len(part)))
        x.append(pixels)
        y.append(labels)
    x, y = torch.cat(x), torch.cat(y)
    chosen = torch.linspace(0, len(x) - 1, min(len(x), most or len(x))).round().long()
    return list(zip(x[chosen].split(BATCH), y[chosen].split(BATCH)))


def what(name: str, way: str, before: str, block: int) -> str:
    """What a record is called."""
    return f"{name}: {way}, {before} before block {block}"


def rows(name: str, blocks: Sequence[int], folder: str, records: str | None) -> None:
    """Measure, block by block, what has no record."""
    done = {record.what for record in ledger.read(EXPERIMENT, records, missing_ok=True)}
    kinds = [(way, before) for way in WAYS for before in BEFORE if (way, before) != ("leave", "absent")]
    left = [block for block in blocks if any(what(name, *kind, block) not in done for kind in kinds)]
    if not left:
        return
    model = load(name)
    batches = photos(folder, model, PHOTOS[name])
    if not model.config.classes:
        batches = [x for x, _ in batches]
    config = replace(model.config, image_size=SIZE).to_dict()
    for block in left:
        result = measure_entry(model, batches, [block])
        for row in result.rows:
            if (title := what(name, row.way, row.before, block)) in done:
                continue
            values = row.values() | {"between": result.between}
            values |= {} if result.accuracy is None else {"untouched": result.accuracy.value}
            command = "python -m book.experiments.entry"
            ledger.add(EXPERIMENT, title, command, "cpu", values, n=result.n, seed=0, config=config, folder=records)
            share = row.similarity if row.accuracy is None else row.accuracy
            print(f"{title}: {share.value:.3f}", flush=True)


def each_model(measure: Callable[[str, str, str | None], None], about: str, arguments: Sequence[str] | None) -> None:
    """Read the flags of these experiments, and call `measure` with each model, the photos' folder and the records'."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--photos", metavar="DIR", help="the folder of the photos (default: imagenet under DTL_DATA)")
    parser.add_argument("--models", nargs="+", choices=BLOCKS, default=list(BLOCKS))
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.models:
        measure(name, options.photos or str(data_folder() / "imagenet"), options.folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Every row of these models that has no record."""
    measure = lambda name, photos, folder: rows(name, BLOCKS[name], photos, folder)  # noqa: E731
    each_model(measure, __doc__.splitlines()[0], arguments)


if __name__ == "__main__":
    main()
