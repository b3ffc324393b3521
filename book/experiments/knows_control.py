"""What does moving the neuron do to patches that were never long? The control of `book.experiments.knows`.

    python -m book.experiments.knows_control

The same model, photos, places and probes: beside long tokens and their twins stand tokens that are not long, each as
it is and with the neuron moved. It needs `DTL_DATA` as `knows` does. A record keeps of each image what its answers
gained and what they could have, so any interval can be computed again, as `contrast` does. What was expected is in
`book/predictions.md`, committed before the first run.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from book.experiments import knows
from book.experiments.knows_states import States, real
from dtl_lib import ledger, probes
from dtl_lib.probes.entry_rows import Interval
from dtl_lib.probes.knows import DRAWS, Score

EXPERIMENT, COMMAND = "knows_control", "python -m book.experiments.knows_control"
AFTER = (7, 9, 11)  # blocks; the last of `knows.ASKED`
PHOTOS = knows.PHOTOS | {"not long, moved": ("twin", "not long"), "inside, moved": ("inside moved", "long")}
CIFAR = {"outlier": "outlier", "twin": "twin", "inside": "inside", "inside, moved": "inside moved"}
PAIRS = {  # as it is, and with the neuron moved: long tokens first, then others
    "photos": (("long", "twin"), ("inside", "inside, moved"), ("not long", "not long, moved")),
    "CIFAR-10": (("outlier", "twin"), ("inside", "inside, moved")),
}
QUESTIONS = {"photos": ("animal", "pixels", "place"), "CIFAR-10": ("class", "colour")}
DIGITS = 5


def rows_of(title: str, photos: States, cifar: States) -> knows.Rows:
    """Tokens of every kind, after the blocks of `AFTER`, for a question."""
    name, _, question = title.partition(", ")
    if name == "photos":
        made = knows.photo_rows(photos, question, PHOTOS)
    else:
        found = knows.image_rows(cifar, question, tuple(CIFAR.values()))
        made = {kind: found[of] for kind, of in CIFAR.items()}
    return {kind: (tokens[:, -len(AFTER) :], *rest) for kind, (tokens, *rest) in made.items()}


def parts_of(scores: Sequence[Score]) -> dict:
    """A record's values: each image's part of the score after every block, rounded to five digits."""
    values = {"value": [round(one.value, 5) for one in scores], "tokens": scores[0].tokens}
    values["images"] = [int(name) for name in scores[0]._names]
    for block, one in zip(AFTER, scores):
        for name, part in zip(("gained", "possible"), one._parts.T):
            values[f"{name} after {block}"] = [short(value) for value in part]
    return values


def short(value: float) -> float | int:
    """Rounded; whole where it is a count."""
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def contrast(terms: Sequence[tuple[int, ledger.Record]], block: int, draws: int = DRAWS, seed: int = 0) -> Interval:
    """A sum of scores, each with its sign, with a 95 % bootstrap interval; images are drawn for all terms together."""
    names = np.unique(np.concatenate([one.get("images") for _, one in terms]))
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    value, drawn = 0.0, np.zeros(draws)
    for sign, one in terms:
        parts, at = np.zeros((2, len(names))), np.searchsorted(names, one.get("images"))
        parts[:, at] = [one.get(f"{name} after {block}") for name in ("gained", "possible")]
        value += sign * parts[0].sum() / parts[1].sum()
        drawn += sign * (counts @ parts[0]) / (counts @ parts[1])
    return Interval(float(value), *map(float, np.percentile(drawn, (2.5, 97.5))))


def differences(of: Mapping[str, ledger.Record]) -> dict[str, list[Interval]]:
    """What moving takes from long tokens, what it takes from others, and the first less the second, by block."""
    found = {}
    for name, question in ((name, question) for name, some in QUESTIONS.items() for question in some):
        title, (long, *others) = f"{name}, {question}", PAIRS[name]
        sums = {" less ".join(pair): ((1, pair[0]), (-1, pair[1])) for pair in (long, *others)}
        for one, two in others:
            both = f"({' less '.join(long)}) less ({one} less {two})"
            sums[both] = ((1, long[0]), (-1, long[1]), (-1, one), (1, two))
        for what, terms in sums.items():
            signed = [(sign, of[f"{title}: {kind}"]) for sign, kind in terms]
            found[f"{title}: {what}"] = [contrast(signed, block) for block in AFTER]
    return found


def measure(photos: States, cifar: States, folder: str | None) -> None:
    """A record of each kind and question, as they come; then one of each difference."""
    for title in (f"{name}, {question}" for name, some in QUESTIONS.items() for question in some):
        for kind, (tokens, targets, images) in rows_of(title, photos, cifar).items():
            what = f"{title}: {kind}"
            if what in {one.what for one in ledger.read(EXPERIMENT, folder, missing_ok=True)}:
                continue
            scores = [probes.token_probe(part, targets, images, shuffles=0) for part in tokens.unbind(dim=1)]
            add(what, parts_of(scores), scores[0].images, folder)
    of = {one.what: one for one in ledger.read(EXPERIMENT, folder)}
    for what, each in differences(of).items():
        if what not in of:
            values = {name: [round(getattr(one, name), 5) for one in each] for name in ("value", "low", "high")}
            add(what, values, of[what.partition(":")[0] + ": twin"].n, folder)


def add(what: str, values: dict, n: int, folder: str | None) -> None:
    ledger.add(EXPERIMENT, what, COMMAND, "cpu", values, n=n, seed=0, folder=folder)
    print(what, values["value"], flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Every record that is not there."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--states", metavar="DIR", help="keep the tokens there, and take them from there")
    parser.add_argument("--folder", metavar="DIR", help="where records go: the library's ledger by default")
    flags = parser.parse_args(arguments)
    torch.set_num_threads(1)
    measure(*real(Path(flags.states) if flags.states else None), flags.folder)


if __name__ == "__main__":
    main()
