"""What chapter 10's teacher says of the images that its students learn from, and how that differs from the labels.

    python -m book.experiments.distillation_teacher --scale gpu

reads the teacher that `book.experiments.distillation` has kept at that scale. It was run after the students' results
were known, to explain them.
"""

import argparse
from collections.abc import Sequence

import torch

from dtl_lib import ledger

from .distillation import BATCH, EXPERIMENT, SCALES, saved_teacher, sets_at

IMAGES = 5000


def measure(scale: str) -> dict:
    """How often it names the label, and the mean share that it gives it at temperatures 1 and 3.

    Of training images as students see them, augmented, and of test images.
    """
    sets, teacher, augment = sets_at(scale, "cpu"), saved_teacher(scale, "cpu"), SCALES[scale].recipe.augment()
    values: dict = {}
    for name, images, how in (("train", sets.train, augment), ("test", sets.test, None)):
        numbers = torch.arange(min(IMAGES, len(images))).split(BATCH)
        right, shares = [], {1: [], 3: []}
        for some in numbers:
            pixels, labels = images.batch(some, augment=how, key=(0, 0))
            with torch.no_grad():
                logits = teacher(pixels)
            right.append(logits.argmax(dim=1) == labels)
            for temperature, found in shares.items():
                found.append((logits / temperature).softmax(dim=1).gather(1, labels[:, None]))
        values[f"accuracy_{name}"] = torch.cat(right).double().mean().item()
        values |= {f"share_{name}_{t}": torch.cat(found).double().mean().item() for t, found in shares.items()}
    return values | {"n": min(IMAGES, len(sets.test))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="gpu")
    parser.add_argument("--folder", help="where the record goes; the library's ledger where left out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    values, command = measure(options.scale), f"python -m book.experiments.distillation_teacher --scale {options.scale}"
    n = values.pop("n")
    ledger.add(
        f"{EXPERIMENT}_teacher",
        "teacher, on training and test images",
        command,
        "cpu",
        values,
        n=n,
        seed=None,
        folder=options.folder,
    )
    print(values)


if __name__ == "__main__":
    main()
