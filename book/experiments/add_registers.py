"""Registers trained into a finished model: do they take the long patches away, and what does that cost?

    python -m book.experiments.add_registers --photos DIR

ViT-Ti/16 and the 200 ImageNet photos of `book.experiments.test_time`: three of four train, the fourth is looked at.
The targets are the patches of the same model with ten neurons moved, and its own class token; the neurons are found on
scikit-image's photos. What has a record is not measured again. What was expected is in `book/predictions.md`, committed
before the first run.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from book.experiments.entry import VIT, photos
from book.experiments.test_time import bundled, find, look, quantise, values_of
from dtl_lib import ledger
from dtl_lib.added import add_registers, logit_change
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.pretrained import load_pretrained
from dtl_lib.registers import NAME, move_to_registers, with_tokens
from dtl_lib.train.registers import RegisterRecipe, Teacher, clean_states, train_registers

EXPERIMENT, COMMAND = "add_registers", "python -m book.experiments.add_registers"
SEEDS, EVERY, COUNT = 3, 4, 4  # runs of each condition; one photo in so many is looked at; registers
RECIPE = RegisterRecipe(steps=80, batch_size=4)


@dataclass(frozen=True)
class Condition:
    """What is trained: registers that enter and perhaps leave, norms, or both."""

    at: int | None = None
    leave: int | None = None
    norms: bool = False


CONDITIONS = {
    "registers from block 0": Condition(0),
    "registers from block 0, and the norms": Condition(0, norms=True),
    "the norms, no registers": Condition(norms=True),
    "registers from block 4 to 9": Condition(4, 10),
}


class Remembered:
    """A teacher that is asked once about each image; an image is known by the sum of its pixels."""

    def __init__(self, teach: Teacher):
        self.teach, self.known = teach, {}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        keys = images.double().flatten(1).sum(dim=1).tolist()
        for key, image in zip(keys, images):
            if key not in self.known:
                self.known[key] = self.teach(image[None])
        return {name: torch.cat([self.known[key][name] for key in keys]) for name in self.known[keys[0]]}


def trained(model: ViT, condition: Condition, teach: Teacher, images: Tensor, recipe: RegisterRecipe):
    """A model of a condition, and the loss of each step."""
    if condition.at is None:
        made, groups = with_tokens(model, model.config), ()
    else:
        made, groups = add_registers(model, COUNT, condition.at, condition.leave, NAME, images[: 2 * EVERY]), (NAME,)
    losses = train_registers(made, teach, images, replace(recipe, norms=condition.norms), groups)
    return made, losses


@torch.no_grad()
def values(made: ViT, judged: Sequence, before: tuple, places: Tensor) -> dict:
    """A record's values: of `look`, how far the logits have moved, and int8's errors."""
    logits, right, labels = before
    seen, _ = look(made, judged, places)
    after = torch.cat([made(images) for images, _ in judged])
    found = values_of(seen, right, logits.argmax(dim=1), labels)
    found["change"] = float(logit_change(after, logits).mean())
    for scale in ("image", "own") if made.plan.group(NAME) else ("image",):
        rounded = quantise(made, lambda: nullcontext(made), scale, judged, labels)
        found |= {f"int8 {scale}{end}": rounded[f"error{end}"] for end in ("", "_low", "_high")}
    return found


def measure(
    model: ViT, own: Tensor, batches: Sequence, folder: str | None, recipe: RegisterRecipe = RECIPE, seeds: int = SEEDS
) -> Iterator[ledger.Record]:
    """Every row that has no record, one by one, a seed of each condition at a time."""
    done = {(one.what, one.seed) for one in ledger.read(EXPERIMENT, folder, missing_ok=True)}
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    chosen = torch.arange(len(x)) % EVERY == EVERY - 1
    judged, images = list(zip(x[chosen].split(25), y[chosen].split(25))), x[~chosen]
    with torch.no_grad():
        seen, places = look(model, judged)
        logits, neurons = torch.cat([model(images) for images, _ in judged]), find(model, own)
    before = logits, seen.classes == y[chosen], y[chosen]

    def add(what: str, made: ViT, seed: int = 0, losses: Sequence[float] = (), recipe=None) -> ledger.Record:
        found = values(made, judged, before, places)
        found |= {"losses": [round(loss, 4) for loss in losses]} if losses else {}
        about = {"config": made.config.to_dict(), "recipe": recipe and asdict(recipe), "folder": folder}
        return ledger.add(EXPERIMENT, what, COMMAND, "cpu", found, n=int(chosen.sum()), seed=seed, **about)

    moved = {f"{count} neuron{'s' * (count > 1)} moved": neurons[:count] for count in (1, len(neurons))}
    for what, some in {"untouched": (), **moved}.items():
        if (what, 0) not in done:
            yield add(what, move_to_registers(model, some) if some else model)
    teach = Remembered(clean_states(model, neurons))
    for seed in range(seeds):
        for what, condition in CONDITIONS.items():
            if (what, seed) not in done:
                now = replace(recipe, seed=seed, norms=condition.norms)
                made, losses = trained(model, condition, teach, images, now)
                yield add(what, made, seed, losses, now)


def claim(folder: str | None) -> ledger.Record | None:
    """The registers paper's claim on norms, for registers alone: reproduced where prediction 1 holds. Added once."""
    first = next(iter(CONDITIONS))
    runs = ledger.find(EXPERIMENT, folder, what=first)
    found = {"long": sum(one.get("long") for one in runs) / len(runs), "seeds": len(runs)}
    found["long_before"] = ledger.find(EXPERIMENT, folder, what="untouched")[0].get("long")
    said = "reproduced" if found["long"] < 1 else "null at this scale"
    asked = "registers take the high norms from the patches, four trained into a finished model, all else frozen: "
    if any(one.what.startswith(asked) for one in ledger.read("registers_paper", folder, missing_ok=True)):
        return None  # whatever later seeds say: two rows would contradict each other
    about = {"n": runs[0].n, "seed": None, "config": runs[0].config, "recipe": runs[0].recipe, "folder": folder}
    return ledger.add("registers_paper", asked + said, COMMAND, "cpu", found, **about)


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
        shown = ("agreement", "long", "ratio", "change", "int8 image")
        print(f"{one.what}, seed {one.seed}:", *(f"{name} {one.get(name):.3f}" for name in shown), flush=True)
    if row := claim(options.folder):
        print(row.what)


if __name__ == "__main__":
    main()
