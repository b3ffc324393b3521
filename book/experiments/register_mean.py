"""Registers averaged with the patches of a real model: what the mean of an image's tokens loses by it.

    python -m book.experiments.register_mean

ViT-Ti/16, which has no registers, gets some without training, as in chapter 17; the neurons are found on scikit-image's
photos. The images are CIFAR-10's, enlarged to 224 pixels: of each image the mean of its patches, and that of its
registers and patches, is given the class whose mean is nearest. It needs `DTL_DATA` with the weights and CIFAR-10. A
record that is there is not made again. What was expected is in `book/predictions.md`, committed before the first run.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from book.experiments.entry import VIT
from book.experiments.knows_states import enlarged
from book.experiments.test_time import at_random, bundled, compare, find, interval
from dtl_lib import data, ledger
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.pretrained import load_pretrained
from dtl_lib.probes.entry_rows import wilson
from dtl_lib.registers import NAME, RegisterNeuron, test_time_registers
from dtl_lib.tape import record
from dtl_lib.tokens import PATCHES

EXPERIMENT, COMMAND = "register_mean", "python -m book.experiments.register_mean"
IMAGES = 1000  # that say where the classes lie, and as many that are put in one
STAGES = ("before the norm", "after the norm")
NEAREST = {"distance": torch.cdist, "cosine": lambda x, means: -(unit(x) @ unit(means).T)}
Batches = Sequence[tuple[Tensor, Tensor]]


def unit(x: Tensor) -> Tensor:
    """The same directions, of length 1."""
    return x / x.norm(dim=-1, keepdim=True)


def ways(model: ViT, found: Sequence[RegisterNeuron]) -> dict:
    """Models with registers, by the record's name."""
    moved = partial(test_time_registers, model)
    return {
        "1 neuron moved": partial(moved, found[:1]),
        "1 neuron moved, 4 tokens": partial(moved, found[:1], n=4),
        "10 neurons moved": partial(moved, found[:10]),
        "10 neurons moved, 4 tokens": partial(moved, found[:10], n=4),
        "1 random neuron moved": partial(moved, at_random(model, found, 1, 0)),
        "10 random neurons moved, 4 tokens": partial(moved, at_random(model, found, 10, 0), n=4),
    }


@torch.inference_mode()
def means(model: ViT, batches: Batches) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Of each stage the means of every image, `(images, dim)`: of patches, registers, and all; and their lengths."""
    found, lengths = {stage: {"patches": [], "registers": [], "all": []} for stage in STAGES}, {}
    last = model.plan.blocks - 1
    for images, _ in batches:
        with record(model) as tape:
            model(images)
        patches, registers = (tape.plan.layout(last)[name] for name in (PATCHES, NAME))
        for stage, tokens in zip(STAGES, (tape.tokens(last), model.norm(tape.tokens(last)))):
            of = {"patches": tokens[:, patches], "registers": tokens[:, registers]}
            found[stage]["all"].append(torch.cat([*of.values()], dim=1).mean(dim=1))
            for name, some in of.items():
                found[stage][name].append(some.mean(dim=1))
                lengths.setdefault(f"{name}, {stage}", []).append(some.norm(dim=-1).median(dim=1).values)
    pooled = {stage: {name: torch.cat(parts) for name, parts in of.items()} for stage, of in found.items()}
    return pooled, {name: torch.cat(parts) for name, parts in lengths.items()}


def nearest(fit: Tensor, classes: Tensor, new: Tensor, how: str) -> Tensor:
    """The class whose mean is nearest to each new one, `(images,)`."""
    names = classes.unique()
    centres = torch.stack([fit[classes == name].mean(dim=0) for name in names])
    return names[NEAREST[how](new, centres).argmin(dim=1)]


def likeness(x: Tensor) -> float:
    """The mean cosine of two different images."""
    total = unit(x).sum(dim=0)
    return float((total @ total - len(x)) / (len(x) * (len(x) - 1)))


def values_of(model: ViT, fit: Batches, new: Batches) -> dict:
    """A record's values; differences are paired by image: registers and patches, less patches alone."""
    of_fit, _ = means(model, fit)
    of_new, lengths = means(model, new)
    classes, answers = (torch.cat([batch[1] for batch in batches]) for batches in (fit, new))
    values = {f"length: {name}": float(some.mean()) for name, some in lengths.items()}
    for stage in STAGES:
        right = {}
        for name, x in of_new[stage].items():
            values[f"likeness: {name}, {stage}"] = likeness(x)
            for how in NEAREST:
                right[name, how] = nearest(of_fit[stage][name], classes, x, how) == answers
                share = wilson(int(right[name, how].sum()), len(answers))
                values |= interval(f"right: {name}, {stage}, {how}", share)
        middles = (of_new[stage][name].mean(dim=0) for name in ("patches", "registers"))
        values[f"cosine of patches and registers, {stage}"] = float(torch.cosine_similarity(*middles, dim=0))
        for how in NEAREST:
            values |= interval(f"difference: {stage}, {how}", compare(right["all", how], right["patches", how]))
    return values


def measure(model: ViT, found: Sequence[RegisterNeuron], batches, folder: str | None) -> Iterator[ledger.Record]:
    """A record for each way that has none; `batches` gives the images that say where classes lie, and the others."""
    done = {one.what for one in ledger.read(EXPERIMENT, folder, missing_ok=True)}
    left = {what: way for what, way in ways(model, found).items() if what not in done}
    if not left:
        return
    fit, new = batches()
    for what, way in left.items():
        with way() as changed:
            values = values_of(changed, fit, new)
        n = sum(len(classes) for _, classes in new)
        about = {"n": n, "seed": 0, "config": model.config.to_dict(), "folder": folder}
        yield ledger.add(EXPERIMENT, what, COMMAND, "cpu", values, **about)


def main(arguments: Sequence[str] | None = None) -> None:
    """Every record that is not there."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    folder = parser.parse_args(arguments).folder
    torch.set_num_threads(1)
    model = load_pretrained(VIT)
    cifar = data.load("cifar10", data_folder())

    def batches() -> list[Batches]:
        return [[*enlarged(model, part, IMAGES)] for part in (cifar.train, cifar.test)]

    for one in measure(model, find(model, bundled(model)), batches, folder):
        shown = (f"{stage} {100 * one.get(f'difference: {stage}, distance'):+.1f}" for stage in STAGES)
        print(f"{one.what}:", *shown, flush=True)


if __name__ == "__main__":
    main()
