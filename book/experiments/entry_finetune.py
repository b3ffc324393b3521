"""What comes back when a trained model whose class token enters late is fine-tuned, with the untouched one as teacher?

    python -m book.experiments.entry_finetune --photos DIR

Photos and weights are those of `book.experiments.entry`, in three folds. A run learns from two folds, from the
teacher's logits alone, and is judged on the third: so each photo is judged once, by a model that has not seen it. A run
that has a record is not repeated, and one that was stopped goes on. What was expected is in `book/predictions.md`,
committed before the first run. On photos in folders named by WordNet ids one command trains in this way, with more
augmentation:

    dtl train --finetune NAME --cls-pos 4 --distill-from NAME --distill soft --distill-weight 1 --data imagenet …
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from book.experiments.entry import SIZE, VIT
from dtl_lib import atomic, data, ledger
from dtl_lib.data.files import ImageFiles
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.pretrained import load_pretrained
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe, fit

EXPERIMENT, COMMAND = "entry_finetune", "python -m book.experiments.entry_finetune"
FOLDS, MARKS, BATCH = 3, (0, 50, 100, 200), 40
EVERY = 25  # steps between states of an unfinished run
RECIPE = Recipe(
    max_steps=200, batch_size=8, lr=1e-4, warmup_steps=20, crop=1, scale=0.35, flip=True, distill="soft",
    distill_from=VIT, distill_weight=1.0, eval_every=200,
)  # fmt: skip
ALL_BUT_THE_TOKEN = "patch_embed.*,positions,blocks.*,norm.*,classifiers.*"


@dataclass(frozen=True)
class Condition:
    """Where the class token enters, and what is other than in `RECIPE`."""

    cls_pos: int
    changes: dict


CONDITIONS = {
    "late": Condition(4, {}),
    "control": Condition(0, {}),
    "token": Condition(4, {"freeze": ALL_BUT_THE_TOKEN, "lr": 0.02}),
}


class Files:
    """The photos of a data set, of whichever part, as one source for `ImageFiles`."""

    def __init__(self, sets: data.Sets):
        parts = sets.train, sets.held_out, sets.test
        self.samples = [(part.source, int(number)) for part in parts for number in part.members]

    def __len__(self):
        return len(self.samples)

    def __call__(self, number: int):
        source, sample = self.samples[number]
        return source(sample)


def fold(sets: data.Sets, number: int, config) -> tuple[data.Sets, ImageFiles]:
    """What the run of a fold learns from, and the photos that it is judged on."""
    source = Files(sets)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    judged = order[number::FOLDS].sort().values
    learned = order[torch.isin(order, judged, invert=True)].sort().values
    parts = {"train": learned, "held_out": learned[:8], "test": learned[:8]}  # no weights are chosen
    made = {
        name: ImageFiles(f"photos {name}", sets.train.classes, source, members, config, SIZE)
        for name, members in (parts | {"judged": judged}).items()
    }
    return data.Sets(made["train"], made["held_out"], made["test"]), made["judged"]


@torch.no_grad()
def classes(model: ViT, photos: ImageFiles) -> Tensor:
    """The class that a model gives each photo."""
    model.eval()
    numbers = torch.arange(len(photos)).split(BATCH)
    return torch.cat([model(photos.batch(some)[0]).argmax(dim=1) for some in numbers])


def run(sets: data.Sets, name: str, number: int, folder: Path) -> tuple[dict, int, ViT, Recipe]:
    """Train one condition on one fold, from where it was stopped: values for a record, and of how many photos."""
    condition, marks = CONDITIONS[name], folder / "marks.json"
    recipe = replace(RECIPE, seed=number, **condition.changes)
    untouched = load_pretrained(RECIPE.distill_from)
    model = load_pretrained(RECIPE.distill_from, plan=TokenPlan.of(untouched.plan.depth, condition.cls_pos))
    learns, judged = fold(sets, number, model.config)
    usual, labels = classes(untouched, judged), judged.labels(range(len(judged)))
    values: dict = {"learned_from": len(learns.train), "was_right": (usual == labels).int().tolist()}
    values |= json.loads(marks.read_text("utf8")) if marks.exists() else {}

    def look(step: int, loss: Tensor | None, model: ViT) -> None:
        if step in MARKS and f"same_{step}" not in values:
            found = classes(model, judged)
            for key, share, other in (("same", "agreement", usual), ("right", "accuracy", labels)):
                values[f"{key}_{step}"] = (found == other).int().tolist()
                values[share] = float((found == other).double().mean())  # in the end, of the last step
            values.update({} if loss is None else {f"loss_{step}": float(loss)})
            atomic.replace(marks, lambda part: part.write_text(json.dumps(values), "utf8"))
            print(f"{what(name, number)}, step {step}: {values['agreement']:.3f} the same", flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    look(0, None, model)
    begun = (folder / "state.safetensors").exists()
    fit(model, learns, recipe, folder, resume=begun, checkpoint_every=EVERY, progress=False, workers=0, on_step=look)
    return values, len(judged), model, recipe


def what(name: str, number: int) -> str:
    """What a record is called."""
    return f"{name}, fold {number}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Every run that has no record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", metavar="DIR", help="the folder of the photos (default: imagenet under DTL_DATA)")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument(
        "--runs", default="runs/entry_finetune", metavar="DIR", help="where a run is kept until it ends"
    )
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sets = data.load("imagenet", options.photos or str(data_folder() / "imagenet"), SIZE)
    for number in range(FOLDS):
        for name in options.conditions:
            done = {record.what for record in ledger.read(EXPERIMENT, options.folder, missing_ok=True)}
            if (title := what(name, number)) in done:
                continue
            kept = Path(options.runs) / title.replace(", fold ", "_")
            values, n, model, recipe = run(sets, name, number, kept)
            about = {"config": model.config.to_dict(), "recipe": recipe.to_dict(), "folder": options.folder}
            ledger.add(EXPERIMENT, title, COMMAND, "cpu", values, n=n, seed=number, **about)
            shutil.rmtree(kept)


if __name__ == "__main__":
    main()
