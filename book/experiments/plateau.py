"""Chapter 04's question: does a run sit at chance because its class token averages, until attention finds the object?

    python -m book.experiments.plateau --seeds 0 1 2

trains one small model four times from each seed, with the same first weights and the same images in the same order;
what queries and keys begin with is all that differs. A run that has a record is not repeated, so an interrupted command
continues where it stopped. One thread: the numbers do not depend on how many cores there are. What was expected, and
how it is judged, is in `book/predictions.md`, committed before the first run.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from einops import reduce
from torch import Tensor

from dtl_lib import data, ledger, record
from dtl_lib.data import Shapes
from dtl_lib.data.shapes.generator import PARTS
from dtl_lib.models import ViT
from dtl_lib.probes import pointing_game
from dtl_lib.train import Recipe, fit

EXPERIMENT, MODEL, LEVEL = "plateau", "vit_shapes_patch8_32", 2
EVERY, SEEN = 50, 500  # steps between measurements, and held-out images that they are made on
LEFT = 0.2  # held-out accuracy above which a run has left the plateau: twice chance
RECIPE = Recipe(
    max_steps=1200, batch_size=16, lr=1.5e-4, min_lr=1.5e-4, warmup_steps=50, eval_every=EVERY, log_every=EVERY
)
PLAIN, AVERAGE, FOUND, SHUFFLED = CONDITIONS = (
    "plain",
    "attention frozen at the mean",
    "queries and keys of a trained model",
    "the same, shuffled",
)


def queries_and_keys(model: ViT) -> Iterator[Tensor]:
    """What makes queries and keys in each block: rows of the weights, and of the biases. Writing there changes them."""
    for block in model.blocks:
        for parameter in block.attention.qkv.parameters():
            yield parameter.detach()[: 2 * model.config.dim]


def average(model: ViT) -> None:
    """Freeze attention at the mean: without queries and keys all scores are 0, and neither gets a gradient."""
    for values in queries_and_keys(model):
        values.zero_()


def copy(model: ViT, donor: ViT, shuffled: bool = False) -> None:
    """Give `model` the queries and keys of `donor`; shuffled, the same values in places drawn at random."""
    generator = torch.Generator().manual_seed(0)
    for values, others in zip(queries_and_keys(model), queries_and_keys(donor)):
        order = torch.randperm(others.numel(), generator=generator) if shuffled else slice(None)
        values.copy_(others.flatten()[order].view_as(values))


def step_of_leaving(steps: Sequence[int], accuracies: Sequence[float], above: float = LEFT) -> int | None:
    """The first step whose accuracy is above `above`; None where there is none."""
    return next((step for step, accuracy in zip(steps, accuracies) if accuracy > above), None)


@dataclass
class Looks:
    """Where the class token looks, step after step: the mean of its maps over heads and blocks.

    Attributes:
        images, masks: it looks at.
        pointing: share of images whose most-attended patch lies on the object.
        on_object: share of the attention to patches that is on the object, patches counted by how much it covers.
    """

    images: Tensor
    masks: Tensor

    def __post_init__(self):
        self.pointing, self.on_object = [], []

    def look(self, model: ViT) -> None:
        """Measure once more."""
        with record(model.eval(), all_queries=False, stream=False) as tape, torch.no_grad():
            model(self.images)
        maps = torch.stack([tape.maps(block).mean(dim=1) for block in range(model.plan.blocks)]).mean(dim=0)
        pointing, on_object = self.score(maps)
        self.pointing.append(pointing)
        self.on_object.append(on_object)

    def score(self, maps: Tensor) -> tuple[float, float]:
        """The two shares, for maps `(batch, rows, columns)`."""
        size = self.masks.shape[-1] // maps.shape[-1]
        cover = reduce(self.masks.float(), "batch (rows h) (columns w) -> batch rows columns", "mean", h=size, w=size)
        inside = (maps * cover).sum(dim=(1, 2)) / maps.sum(dim=(1, 2))
        return float(pointing_game(maps, self.masks).mean()), float(inside.mean())


def train(condition: str, seed: int, recipe: Recipe, donor: ViT | None) -> tuple[ViT, dict]:
    """One run: the model, with its best weights, and what was measured on the way."""
    torch.manual_seed(seed)
    model = ViT.build(MODEL)
    if condition == AVERAGE:
        average(model)
    elif condition in (FOUND, SHUFFLED):
        copy(model, donor, shuffled=condition == SHUFFLED)
    held_out = Shapes(32, LEVEL, 0, PARTS["held_out"], SEEN, "shapes held out")
    sets = replace(data.load("shapes", level=LEVEL), held_out=held_out, test=held_out)
    everything = torch.arange(SEEN)
    looks = Looks(held_out.batch(everything)[0], held_out.masks(everything) > 0.5)
    looks.look(model)

    def on_step(step, loss, model):
        if step % recipe.eval_every == 0:
            looks.look(model)

    result = fit(model, sets, replace(recipe, seed=seed), progress=False, on_step=on_step)
    rows = [row for row in result.history if "accuracy" in row]
    steps, accuracies = [row["step"] for row in rows], [row["accuracy"] for row in rows]
    left = step_of_leaving(steps, accuracies)
    chance, area = looks.score(torch.ones(SEEN, *model.config.grid))
    return model, {
        "steps": steps, "loss": [row["loss"] for row in rows], "held_out": accuracies,
        "looked_at": [0, *steps], "pointing": looks.pointing, "on_object": looks.on_object,
        "pointing_chance": chance, "on_object_chance": area, "left": [] if left is None else left,
    }  # fmt: skip


def runs(seed: int, folder: str | None, recipe: Recipe) -> None:
    """The runs of a seed that have no record yet; the plain one is made again where another needs its weights."""
    done = {one.what for one in ledger.read(EXPERIMENT, folder, missing_ok=True) if one.seed == seed}
    donor = None
    for condition in CONDITIONS:
        if condition in done:
            continue
        if condition in (FOUND, SHUFFLED) and donor is None:
            donor, _ = train(PLAIN, seed, recipe, None)
        model, values = train(condition, seed, recipe, donor)
        donor = model if condition == PLAIN else donor
        about = {"config": model.config.to_dict(), "recipe": replace(recipe, seed=seed).to_dict(), "folder": folder}
        command = "python -m book.experiments.plateau"
        ledger.add(EXPERIMENT, condition, command, "cpu", values, n=SEEN, seed=seed, **about)
        print(f"{condition}, seed {seed}: left after {values['left']} steps", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Every run of these seeds that has no record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for seed in options.seeds:
        runs(seed, options.folder, RECIPE)


if __name__ == "__main__":
    main()
