"""Registers without training: what one neuron's work, moved to an empty token, does to a trained ViT.

    python -m book.experiments.test_time --photos DIR

Model and photos are those of `book.experiments.entry`: ViT-Ti/16 and 200 ImageNet photos. The neurons are found on
scikit-image's photos, so no photo that counts has chosen them. What has a record is not measured again. What was
expected is in `book/predictions.md`, committed before the first run.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from book.experiments.entry import VIT, photos
from book.experiments.int8 import int8
from dtl_lib import data, ledger
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.pretrained import load_pretrained
from dtl_lib.probes.entry_rows import mean, paired, wilson
from dtl_lib.registers import NAME, RegisterNeuron, find_register_neurons, test_time_registers
from dtl_lib.tape import record
from dtl_lib.tokens import PATCHES, Group, TokenPlan

EXPERIMENT, COMMAND = "test_time", "python -m book.experiments.test_time"
LONG, FOUND, DRAWS = 2.0, 10, 5  # a long patch has so many medians; neurons; random draws
COMPARED = (
    ("1 neuron moved", "1 neuron zeroed, no token"),
    ("1 neuron moved", "empty token from the neuron's block"),
    ("1 neuron moved", "1 neuron moved, token from block 0"),
    ("3 neurons moved", "1 neuron moved"),
    ("1 neuron moved, 4 tokens", "1 neuron moved"),
    ("1 neuron moved, leaves after 1 block", "1 neuron moved"),
)
QUANTISED = (  # scales of int8, and what is done to the model
    ("weights", "untouched"),
    ("image", "untouched"),
    ("token", "untouched"),
    ("image", "1 neuron moved"),
    ("own", "1 neuron moved"),
    ("token", "1 neuron moved"),
    ("own", "1 neuron moved, leaves after 1 block"),
)
Ways = dict[tuple[str, int], Callable]


@dataclass(frozen=True)
class Seen:
    """What a pass over all photos shows, one value a photo but for those by block."""

    classes: Tensor
    long: Tensor
    ratio: Tensor
    longest: Tensor
    token: Tensor
    at_long: Tensor  # (blocks, photos): the class token's attention at the places long in the untouched model
    at_token: Tensor  # (blocks, photos)


def bundled(model: ViT) -> Tensor:
    """scikit-image's photos, as the model expects them."""
    return torch.cat([data.prepare(data.photo(name), config=model.config) for name in data.photos.PHOTOS])


def find(model: ViT, images: Tensor) -> tuple[RegisterNeuron, ...]:
    """The ten that write most of the patches long at the last block but one."""
    block = model.plan.depth - 2
    with torch.inference_mode(), record(model) as tape:
        model(images)
    return find_register_neurons(model, images, long_patches(tape.norms(block)[PATCHES]), block, 1.0, FOUND)


def long_patches(norms: Tensor) -> Tensor:
    """Which are longer than twice their image's median: `(batch, rows, columns)` → bool."""
    return norms > LONG * norms.flatten(1).median(dim=1).values[:, None, None]


@contextmanager
def with_empty(model: ViT, enter: int) -> Iterator[ViT]:
    """The model with one more token, 0 as it enters; nothing is moved."""
    plan = TokenPlan(model.plan.depth, (*model.plan.groups, Group(NAME, 1, enter)))
    wider = ViT(model.config.with_plan(plan)).eval()
    wider.load_state_dict(model.state_dict() | {f"tokens.{NAME}": torch.zeros(1, model.config.dim)}, assign=True)
    yield wider


@contextmanager
def zeroed(model: ViT, neurons: Sequence[RegisterNeuron]) -> Iterator[ViT]:
    """The model in which the neurons write nothing."""
    changed = copy.deepcopy(model)
    for one in neurons:
        changed.blocks[one.block].mlp.contract.weight[:, one.neuron] = 0
    yield changed


def at_random(model: ViT, found: Sequence[RegisterNeuron], count: int, seed: int) -> list[RegisterNeuron]:
    """Others of the same blocks as the first `count`."""
    drawn, taken = torch.Generator().manual_seed(seed), {(one.block, one.neuron) for one in found}
    others = []
    for one in found[:count]:
        while True:
            number = int(torch.randint(model.blocks[one.block].mlp.contract.in_features, (1,), generator=drawn))
            if (one.block, number) not in taken:
                break
        taken.add((one.block, number))
        others.append(RegisterNeuron(one.block, number, 1.0, 0.0, 0.0, 0.0))
    return others


def ways(model: ViT, found: Sequence[RegisterNeuron]) -> Ways:
    """What is done to the model, by the record's name and seed."""
    block, moved = found[0].block, partial(test_time_registers, model)
    made: Ways = {
        ("untouched", 0): lambda: nullcontext(model),
        ("1 neuron moved", 0): lambda: moved(found[:1]),
        ("1 neuron zeroed, no token", 0): lambda: zeroed(model, found[:1]),
        ("empty token from the neuron's block", 0): lambda: with_empty(model, block),
        ("empty token from block 0", 0): lambda: with_empty(model, 0),
        ("1 neuron moved, token from block 0", 0): lambda: moved(found[:1], enter=0),
        ("1 neuron moved, leaves after 1 block", 0): lambda: moved(found[:1], leave=block + 1),
    }
    if block + 2 < model.plan.depth:
        made["1 neuron moved, leaves after 2 blocks", 0] = partial(moved, found[:1], leave=block + 2)
    for count in (2, 3, FOUND):
        made[f"{count} neurons moved", 0] = partial(moved, found[:count])
    for count in (2, 4):
        made[f"1 neuron moved, {count} tokens", 0] = partial(moved, found[:1], n=count)
    for seed in range(DRAWS):
        made["1 random neuron moved", seed] = partial(moved, at_random(model, found, 1, seed))
    made[f"{FOUND} random neurons moved", 0] = partial(moved, at_random(model, found, FOUND, 0))
    return made


def look(model: ViT, batches: Sequence, places: Tensor | None = None) -> tuple[Seen, Tensor]:
    """A pass over all photos; `places` are the long patches of the untouched model, `(photos, rows, columns)`."""
    block, found, masks, start = model.plan.depth - 2, [], [], 0
    for images, _ in batches:
        with record(model) as tape:
            logits = model(images)
        norms = tape.norms(block)
        lengths, long = norms[PATCHES].flatten(1), long_patches(norms[PATCHES])
        at = long if places is None else places[start : start + len(images)]
        layouts = [model.plan.layout(number) for number in range(model.plan.depth)]
        rows = [tape.row(number).mean(dim=1) for number in range(model.plan.depth)]
        found.append(
            Seen(
                logits.argmax(dim=1),
                long.flatten(1).sum(dim=1),
                lengths.quantile(0.98, dim=1) / lengths.median(dim=1).values,
                lengths.amax(dim=1) / lengths.median(dim=1).values,
                norms[NAME].amax(dim=1) if NAME in norms else lengths.new_zeros(len(images)),
                torch.stack([(row[:, one[PATCHES]] * at.flatten(1)).sum(dim=1) for row, one in zip(rows, layouts)]),
                torch.stack([row[:, one.get(NAME, slice(0))].sum(dim=1) for row, one in zip(rows, layouts)]),
            )
        )
        masks.append(long)
        start += len(images)
    fields = Seen.__dataclass_fields__
    return Seen(*(torch.cat([getattr(one, name) for one in found], dim=-1) for name in fields)), torch.cat(masks)


def values_of(seen: Seen, right: Tensor, usual: Tensor, labels: Tensor) -> dict:
    """A record's values; `right` and `usual` are the untouched model's correct photos and classes."""
    now = seen.classes == labels
    values = {
        "right": now.int().tolist(),
        **interval("accuracy", wilson(int(now.sum()), len(now))),
        **interval("difference", compare(now, right)),
        **interval("agreement", wilson(int((seen.classes == usual).sum()), len(now))),
        "at_long": seen.at_long.mean(dim=1).tolist(),
        "at_token": seen.at_token.mean(dim=1).tolist(),
    }
    for name in ("long", "ratio", "longest", "token"):
        of = getattr(seen, name).double()
        values |= interval(name, mean(float(of.sum()), float(of.square().sum()), len(of)))
    return values


def compare(one: Tensor, other: Tensor):
    """The difference of two shares of the same photos, with its interval."""
    return paired(int((one & ~other).sum()), int((~one & other).sum()), len(one))


def interval(name: str, found) -> dict[str, float]:
    """A value and its two ends, by name."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def quantise(model: ViT, way: Callable, scale: str, batches: Sequence, labels: Tensor) -> dict:
    """How far int8 is from the same model in float."""
    errors, same, right, start = [], [], [], 0
    with way() as changed:
        exact = [changed(images) for images, _ in batches]
        with int8(changed, scale):
            for (images, _), wanted in zip(batches, exact):
                logits = changed(images)
                spread = (wanted - wanted.mean(dim=1, keepdim=True)).norm(dim=1)
                errors.append((logits - wanted).norm(dim=1) / spread)
                same.append(logits.argmax(dim=1) == wanted.argmax(dim=1))
                right.append(logits.argmax(dim=1) == labels[start : start + len(images)])
                start += len(images)
    error, same, right = torch.cat(errors).double(), torch.cat(same), torch.cat(right)
    return {
        "errors": [round(value, 6) for value in error.tolist()],
        "right": right.int().tolist(),
        **interval("error", mean(float(error.sum()), float(error.square().sum()), len(error))),
        **interval("agreement", wilson(int(same.sum()), len(same))),
        **interval("accuracy", wilson(int(right.sum()), len(right))),
    }


@torch.no_grad()
def measure(model: ViT, own: Tensor, batches: Sequence, folder: str | None) -> Iterator[ledger.Record]:
    """Every row that has no record, one by one."""
    done = {(one.what, one.seed) for one in ledger.read(EXPERIMENT, folder, missing_ok=True)}
    labels = torch.cat([y for _, y in batches])

    def add(what: str, values: dict, seed: int = 0, n: int = len(labels)) -> ledger.Record:
        return ledger.add(
            EXPERIMENT, what, COMMAND, "cpu", values, n=n, seed=seed, config=config, folder=folder
        )  # fmt: skip

    config, found = model.config.to_dict(), find(model, own)
    made, (untouched, places) = ways(model, found), look(model, batches)
    right = untouched.classes == labels
    if ("neurons", 0) not in done:
        kept = ("block", "neuron", "share", "high", "usual", "sign")
        yield add("neurons", {name: [getattr(one, name) for one in found] for name in kept}, n=len(own))
    for (what, seed), way in made.items():
        if (what, seed) not in done:
            with way() as changed:
                seen, _ = look(changed, batches, places)
            yield add(what, values_of(seen, right, untouched.classes, labels), seed)
    for scale, what in QUANTISED:
        if (title := f"int8, scale {scale}: {what}", 0) not in done:
            yield add(title, quantise(model, made[what, 0], scale, batches, labels))
    of = {one.what: torch.tensor(one.get("right")).bool() for one in ledger.read(EXPERIMENT, folder) if one.seed == 0
          and "right" in one.values}  # fmt: skip
    for one, other in COMPARED:
        if (title := f"{one} less {other}", 0) not in done:
            yield add(title, interval("difference", compare(of[one], of[other])))


def claims(folder: str | None) -> Iterator[ledger.Record]:
    """The registers paper's claims as they are without training, by the rules in `book/predictions.md`."""
    of = {one.what: one for one in ledger.read(EXPERIMENT, folder)}
    before, after = of["untouched"], of["1 neuron moved"]
    long, token = after.get("long"), after.get("token")
    low, high = after.get("difference_low"), after.get("difference_high")
    late = range(len(after.get("at_long")) * 2 // 3, len(after.get("at_long")))
    share = max(after.get("at_long")[block] / before.get("at_long")[block] for block in late)
    found = {
        "registers take the high norms from the patches": (
            long < 0.1 and token > after.get("longest"),
            {"long_before": before.get("long"), "long": long, "token": token},
        ),
        "registers do not lower the accuracy of classification": (
            low <= 0 <= high and low > -0.06,
            {"difference": after.get("difference"), "low": low, "high": high},
        ),
        "registers take the artefacts from the maps of attention": (
            share < 0.25,
            {"before": before.get("at_long"), "after": after.get("at_long"), "largest_ratio": share},
        ),
    }
    done = {one.what for one in ledger.read("registers_paper", folder, missing_ok=True)}
    for claim, (holds, values) in found.items():
        what = f"{claim}, without training: {'reproduced' if holds else 'null at this scale'}"
        if what not in done:
            about = {"n": after.n, "seed": 0, "config": after.config, "folder": folder}
            yield ledger.add("registers_paper", what, COMMAND, "cpu", values, **about)


def main(arguments: Sequence[str] | None = None) -> None:
    """All of it, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", metavar="DIR", help="the folder of the photos (default: imagenet under DTL_DATA)")
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_pretrained(VIT)
    batches = photos(options.photos or str(data_folder() / "imagenet"), model, None)
    for one in measure(model, bundled(model), batches, options.folder):
        shown = [name for name in ("accuracy", "difference", "long", "error") if name in one.values]
        print(f"{one.what}, seed {one.seed}:", *(f"{name} {one.get(name):.3f}" for name in shown), flush=True)
    for one in claims(options.folder):
        print(one.what, flush=True)


if __name__ == "__main__":
    main()
