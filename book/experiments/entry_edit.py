"""A trained model whose class token enters late, without any training: its weights are edited.

    python -m book.experiments.entry_edit --photos DIR

Before block k the patches are alone. In those blocks the output projection gives them what the class token gave them on
average: what it reads of a head is scaled by 1 − the patches' mean share on the token, and its bias gets that share of
the token's mean value. The token enters as its mean state. Photos, weights and folds are those of
`book.experiments.entry_finetune`: the means are over two folds, the third is judged. What was expected is in
`book/predictions.md`, committed before the first run.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from book.experiments.entry import BATCH, SIZE, VIT
from book.experiments.entry_finetune import FOLDS, fold
from book.experiments.entry_why import Study
from dtl_lib import data, ledger
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.pretrained import load_pretrained
from dtl_lib.probes.entry_rows import PRESENT, Tally
from dtl_lib.tokens import TokenPlan

EXPERIMENT, COMMAND = "entry_edit", "python -m book.experiments.entry_edit"
PLACES = (1, 2, 4, 6)  # before which block the token enters


def edited(study: Study, place: int, blocks: Sequence[int]) -> ViT:
    """The study's model with a class token that enters late.

    Args:
        study: of an untouched model on the photos whose means are used; has the streams before `place`.
        place: before which block.
        blocks: those whose projection is edited.
    """
    model = study.model
    late = ViT(model.config.with_plan(TokenPlan.of(model.plan.depth, place)))
    late.to(model.norm.weight.dtype).eval()
    late.load_state_dict(model.state_dict())
    late.tokens["cls"].copy_(torch.cat(study.streams[place])[:, study.cls].mean(dim=0))
    for block in blocks:
        share, value = (study.usual[block].all(name).mean(dim=0) for name in ("share", "value"))
        project = late.blocks[block].attention.project
        project.bias += project.weight @ (share[:, None] * value).flatten()
        project.weight *= (1 - share).repeat_interleave(value.shape[1])
    return late


def batches_of(photos) -> list[tuple[Tensor, Tensor]]:
    """All photos and their classes, in batches."""
    return [photos.batch(numbers) for numbers in torch.arange(len(photos)).split(BATCH)]


def read(model: ViT, images: Tensor) -> Tensor:
    """What the classifier reads, `(batch, 1, dim)`."""
    return model.norm(model.encode(images, model.head_tokens)[0])


def measure(sets: data.Sets, model: ViT, places: Sequence[int] = PLACES) -> dict[str, Tally]:
    """Each place with nothing edited, block 0, and every block before it; judged on every photo once."""
    tallies: dict[str, Tally] = {}
    for number in range(FOLDS):
        learns, judged = fold(sets, number, model.config)
        study = Study(model, batches_of(learns.train), places, long_after=max(places) - 1)
        held_out = [(images, labels, read(model, images)) for images, labels in batches_of(judged)]
        for place in places:
            before = tuple(range(place))
            for blocks, name in {(): "nothing", (0,): "block 0", before: f"blocks before {place}"}.items():
                late = edited(study, place, blocks)
                tally = tallies.setdefault(f"enters before block {place}, edited: {name}", Tally())
                for images, labels, usual in held_out:
                    found = read(late, images)
                    logits = [model.classify("cls", tokens[:, 0]) for tokens in (found, usual)]
                    tally.add(found, usual, *logits, labels, True)
    return tallies


def main(arguments: Sequence[str] | None = None) -> None:
    """All of it, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", metavar="DIR", help="the folder of the photos (default: imagenet under DTL_DATA)")
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    options = parser.parse_args(arguments)
    if ledger.read(EXPERIMENT, options.folder, missing_ok=True):
        return
    torch.set_num_threads(1)
    sets = data.load("imagenet", options.photos or str(data_folder() / "imagenet"), SIZE)
    model = load_pretrained(VIT)
    with torch.no_grad():
        tallies = measure(sets, model)
    for what, tally in tallies.items():
        values = {k: v for k, v in tally.row(0, "", PRESENT, 1.0).values().items() if k not in ("block", "cost")}
        about = {"n": tally.n, "seed": 0, "config": model.config.to_dict(), "folder": options.folder}
        ledger.add(EXPERIMENT, what, COMMAND, "cpu", values, **about)


if __name__ == "__main__":
    main()
