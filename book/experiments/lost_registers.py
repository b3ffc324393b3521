"""LOST with registers that nobody trained: boxes of two real models, untouched, with a neuron moved, and controls.

    python -m book.experiments.lost_registers

ViT-Ti/16, in which neurons write long patches, and the saliency ViT-S/14, which has none and *has been shown saliency
masks*; DAVIS frames and `shapes` at 224 pixels, with true boxes. It needs `DTL_DATA` as `book.experiments.lost` does.
Neurons are found on scikit-image's photos. A record that is there is not made again; it keeps, for every image and
row, whether the box was right, so that another interval can be computed. What was expected is in
`book/predictions.md`, committed before the first run.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from book.experiments import lost
from book.experiments.test_time import at_random, bundled, compare, find, interval, long_patches, with_empty
from dtl_lib import data, ledger, probes
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.probes.entry_rows import wilson
from dtl_lib.registers import RegisterNeuron, test_time_registers
from dtl_lib.stored.probes import pretrained
from dtl_lib.tape import record
from dtl_lib.tokens import PATCHES
from dtl_lib.train.evaluation import as_expected

EXPERIMENT, PAPER, COMMAND = "lost_registers", "registers_paper", "python -m book.experiments.lost_registers"
CLAIM = "registers raise LOST's CorLoc (Table 3), without training, ViT-Ti/16, one neuron moved: "
TINY, SALIENCY = lost.REAL
UNTOUCHED, MOVED = "untouched", ("1 neuron moved", "10 neurons moved")
BLOCK, DRAWS, IMAGES, SIDE, LEVEL, BATCH = 7, 3, 100, 224, 2, 20
ROWS = {", ".join(cell): cell for cell in lost.CELLS}
Given = list[tuple[Tensor, Tensor]]  # images as the model takes them, the object's pixels
Ways = dict[tuple[str, int], Callable]


def davis(model: ViT) -> Given:
    """Every fifth frame of both videos."""
    return [lost.frames(video, model) for video in lost.VIDEOS]


def shapes(model: ViT) -> Given:
    """The first test images of `shapes`, as large as the model was trained on."""
    part = data.load("shapes", image_size=SIDE, level=LEVEL).test
    images = as_expected(model, part)
    numbers = torch.arange(IMAGES).split(BATCH)
    return [(images.batch(some)[0], part.masks(some) > 0.5) for some in numbers]


SETS: dict[str, Callable[[ViT], Given]] = {"DAVIS": davis, f"shapes, level {LEVEL}": shapes}


def ways(model: ViT, found: Sequence[RegisterNeuron]) -> Ways:
    """What is done to the model, by the record's name and seed; without neurons found only the controls."""
    moved = partial(test_time_registers, model)
    made: Ways = {(f"{n} neuron{'s' * (n > 1)} moved", 0): partial(moved, found[:n]) for n in (1, 10) if found}
    made |= {(f"idle token from block {at}", 0): partial(with_empty, model, at) for at in (BLOCK, 0)}
    some = found[:1] or [RegisterNeuron(BLOCK, -1, 1.0, 0.0, 0.0, 0.0)]
    return made | {
        ("1 random neuron moved", seed): partial(moved, at_random(model, found or some, 1, seed))
        for seed in range(DRAWS)
    }


@torch.no_grad()
def long_places(model: ViT, given: Given) -> list[Tensor]:
    """Which patches are long, by batch, before the last block of the model as it is."""
    found = []
    for images, _ in given:
        with record(model) as tape:
            model(images)
        found.append(long_patches(tape.norms(model.plan.depth - 2)[PATCHES]))
    return found


def boxes(model: ViT, given: Given, places: Sequence[Tensor]) -> dict[str, dict[str, list[float]]]:
    """Of each row and image: is the box right, how much it overlaps, and does LOST begin at one of the places."""
    rows: dict[str, dict[str, list[float]]] = {name: {} for name in ROWS}
    for (images, masks), there in zip(given, places):
        features, _ = lost.last_block(model, images)
        for name, cell in ROWS.items():
            found = probes.lost(features[cell][PATCHES])
            at = there[torch.arange(len(there)), *found.seeds.T].int().tolist()
            scored = lost.scored(model.config.patch_size * found.boxes, masks) | {"long": at}
            for key, values in scored.items():
                rows[name].setdefault(key, []).extend(values)
    return rows


def values_of(rows: dict[str, dict[str, list[float]]], before: ledger.Record | None) -> dict:
    """A record's values; differences to the untouched model are paired by image."""
    values = {}
    for name, row in rows.items():
        right = torch.tensor(row["right"]).bool()
        values |= interval(f"corloc: {name}", wilson(int(right.sum()), len(right)))
        values |= {f"right: {name}": right.int().tolist(), f"long seeds: {name}": sum(row["long"])}
        values[f"overlap: {name}"] = sum(row["overlap"]) / len(right)
        if before:
            values |= interval(f"difference: {name}", compare(right, right_of(before, name)))
    return values


def right_of(one: ledger.Record, row: str) -> Tensor:
    """Of each image whether a record's box was right, bool."""
    return torch.tensor(one.get(f"right: {row}")).bool()


def measure(name: str, model: ViT, found: Sequence[RegisterNeuron], folder: str | None) -> Iterator[ledger.Record]:
    """Every record of a model that is not there."""
    config = model.config.to_dict()
    for title, load in SETS.items():
        of = {(one.what, one.seed): one for one in ledger.read(EXPERIMENT, folder, missing_ok=True)}
        start = f"{name}, {title}: "
        made = {(UNTOUCHED, 0): None, **ways(model, found)}
        left = [way for way in made if (start + way[0], way[1]) not in of]
        if not left:
            continue
        given = load(model)
        places, before = long_places(model, given), of.get((start + UNTOUCHED, 0))
        for what, seed in left:
            if what == UNTOUCHED:
                rows = boxes(model, given, places)
            else:
                with made[what, seed]() as changed:
                    rows = boxes(changed, given, places)
            values = values_of(rows, before)
            if what == UNTOUCHED:
                values["long patches"] = sum(int(there.sum()) for there in places)
            n = sum(len(images) for images, _ in given)
            about = {"n": n, "seed": seed, "config": config, "folder": folder}
            row = ledger.add(EXPERIMENT, start + what, COMMAND, "cpu", values, **about)
            before = row if what == UNTOUCHED else before
            yield row


def controls(folder: str | None) -> Iterator[ledger.Record]:
    """Boxes that no model had a hand in, on the same images, cut as ViT-Ti/16 cuts them."""
    there = {one.what for one in ledger.read(EXPERIMENT, folder, missing_ok=True)}
    for title, load in SETS.items():
        if (what := f"no model, {title}") in there:
            continue
        model, right = pretrained(lost.REAL[TINY]), {}
        for images, masks in load(model):
            for name, box in lost.controls(images, masks, model.config.patch_size).items():
                right.setdefault(name, []).extend(lost.scored(box, masks)["right"])
        values = {}
        for name, row in right.items():
            values |= interval(f"corloc: {name}", wilson(int(sum(row)), len(row))) | {f"right: {name}": row}
        yield ledger.add(EXPERIMENT, what, COMMAND, "cpu", values, n=len(row), seed=0, folder=folder)


def best(one: ledger.Record) -> str:
    """The row with the highest CorLoc; the first of equals."""
    return max(ROWS, key=lambda row: one.get(f"corloc: {row}"))


def claim(folder: str | None) -> ledger.Record | None:
    """The registers paper's claim by the rule in `book/predictions.md`: the best row of each, on both sets."""
    known = ledger.read(PAPER, folder, missing_ok=True)
    if any(one.what.startswith(CLAIM) for one in known):
        return None
    signs, values, n = [], {}, 0
    for title in SETS:
        before, after = (
            ledger.find(EXPERIMENT, folder, what=f"{TINY}, {title}: {way}")[0] for way in (UNTOUCHED, MOVED[0])
        )
        apart = compare(right_of(after, best(after)), right_of(before, best(before)))
        values |= interval(f"best of eleven, moved less untouched, {title}", apart)
        signs.append((apart.low > 0) - (apart.high < 0))
        n += after.n
    said = {1: "reproduced", -1: "the opposite"}.get(signs[0] if len(set(signs)) == 1 else 0, "null at this scale")
    return ledger.add(PAPER, CLAIM + said, COMMAND, "cpu", values, n=n, seed=0, folder=folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Every record that is not there."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    folder = parser.parse_args(arguments).folder
    torch.set_num_threads(1)
    if not (data_folder() / "davis").is_dir():
        parser.error(f"DAVIS is not in {data_folder()}: set DTL_DATA to the folder that holds davis and weights")
    for row in controls(folder):
        print(row.what, flush=True)
    for name in (TINY, SALIENCY):
        model = pretrained(lost.REAL[name]).eval()
        found = find(model, bundled(model)) if name == TINY else ()
        for row in measure(name, model, found, folder):
            shown = (f"{each} {row.get(f'corloc: {each}'):.2f}" for each in ("k, keep", "k, drop", "k, centre"))
            print(f"{row.what}, seed {row.seed}:", *shown, flush=True)
    if row := claim(folder):
        print(row.what)


if __name__ == "__main__":
    main()
