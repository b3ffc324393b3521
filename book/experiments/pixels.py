"""How far a linear classifier comes on CIFAR-10's pixels, for chapter 07: what the atlas's accuracies are held against.

    DTL_DATA=… python -m book.experiments.pixels

fits multinomial logistic regression to the 3,072 numbers of each of the 45,000 images to train on, until it has
converged, once for each strength of its penalty (experiment `cifar10_pixels`). The penalty to report is the one of
highest held-out accuracy. Nothing is random. A penalty that has a record is not repeated, so an interrupted command
goes on where it stopped; a few minutes each on one core.
"""

import argparse

import torch
from einops import rearrange
from sklearn.linear_model import LogisticRegression

from dtl_lib import data, ledger

EXPERIMENT, COMMAND = "cifar10_pixels", "python -m book.experiments.pixels"
STRENGTHS = (1e-4, 1e-3, 1e-2)  # of what scikit-learn calls C: the smaller, the stronger the penalty
TOLERANCE, ITERATIONS = 1e-3, 2000


def pixels(images) -> tuple:
    """Every image as one row of numbers, and its class: arrays `(images, channels · height · width)`, `(images,)`."""
    x, labels = images.batch(torch.arange(len(images)))
    return rearrange(x, "n c h w -> n (c h w)").numpy(), labels.numpy()


def fitted(strength: float, sets: data.Sets) -> dict:
    """The accuracies of one penalty, and how many iterations it took to converge."""
    model = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=ITERATIONS).fit(*pixels(sets.train))
    parts = {"train_accuracy": sets.train, "held_out": sets.held_out, "accuracy": sets.test}
    values = {name: float(model.score(*pixels(part))) for name, part in parts.items()}
    return values | {"strength": strength, "iterations": int(model.n_iter_.max())}


def main(arguments: list[str] | None = None) -> None:
    """The penalties that have no record yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    done = {record.get("strength") for record in ledger.read(EXPERIMENT, options.folder, missing_ok=True)}
    sets = data.load("cifar10")
    for strength in STRENGTHS:
        if strength not in done:
            values, what = fitted(strength, sets), f"logistic regression on pixels, C = {strength:g}"
            ledger.add(EXPERIMENT, what, COMMAND, "cpu", values, n=len(sets.test), seed=None, folder=options.folder)
            print(f"{what}: {values['held_out']:.2%} held out, {values['accuracy']:.2%} test", flush=True)


if __name__ == "__main__":
    main()
