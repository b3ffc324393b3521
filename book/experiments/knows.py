"""What one token knows: linear probes on long patches, others at the same places, class tokens and registers.

    python -m book.experiments.knows

It needs `DTL_DATA` with the weights of ViT-Ti/16, ImageNet's photos (`imagenet`) and CIFAR-10. Which tokens are asked
is in `book.experiments.knows_states`; what was expected is in `book/predictions.md`, committed before the first run. A
record that is there is not made again. With `--states DIR` the tokens are kept, and an interrupted command finds them.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from book.experiments.knows_states import BLOCKS, OWN, States, kept, of_shapes, real
from dtl_lib import ledger, probes
from dtl_lib.probes.entry_rows import Interval
from dtl_lib.probes.knows import Score

EXPERIMENT, PAPER, COMMAND = "knows", "registers_paper", "python -m book.experiments.knows"
ASKED = ("input", 1, 5, 7, 9, 11)
MANY = 10  # numbers to predict
OURS = ("shapes_depth6", "shapes_depth6_reg4")
Rows = dict[str, tuple[Tensor, Tensor, Tensor]]  # kind → (tokens, blocks, dim), targets, images
PHOTOS = {  # kind → which states, at the places of which tokens
    "long": ("border", "long"),
    "not long": ("border", "not long"),
    "twin": ("twin", "long"),
    "inside": ("inside", "long"),
}
CIFAR = ("class token", "outlier", "twin", "inside", "new token")


def matched(states: States, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Views and places of the long tokens, and of as many at the same places that are not long."""
    draw, chosen = torch.Generator().manual_seed(seed), {"long": [], "not long": []}
    for place in range(states["long"].shape[1]):
        sides = {"long": states["long"][:, place], "not long": ~states["ever"][:, place]}
        fewer = min(int(side.sum()) for side in sides.values())
        for kind, side in sides.items():
            views = side.nonzero().flatten()
            views = views[torch.randperm(len(views), generator=draw)[:fewer]]
            chosen[kind].append(torch.stack([views, torch.full_like(views, place)]))
    return {kind: tuple(torch.cat(parts, dim=1)) for kind, parts in chosen.items()}


def photo_rows(states: States, question: str, kinds: Mapping[str, tuple[str, str]] = PHOTOS) -> Rows:
    """The four kinds at places, as many tokens of each; of the animals the class token and the new token too."""
    chosen, rows = matched(states), {}
    for kind, (source, tokens) in kinds.items():
        views, places = chosen[tokens]
        targets = {
            "place": places,
            "pixels": states["inner pixels" if source.startswith("inside") else "pixels"][views, places],
            "animal": states["animal"][views],
        }
        rows[kind] = some(states[source][views, places]), targets[question], states["photo"][views]
    if question == "animal" and kinds == PHOTOS:
        views, _ = chosen["long"]
        for kind in ("class token", "new token"):
            rows[kind] = some(states[kind][views]), states["animal"][views], states["photo"][views]
    return rows


def some(tokens: Tensor) -> Tensor:
    """After those of `ASKED` that there are: a new token is there in later blocks alone. Of our own models the last."""
    if tokens.shape[1] == len(OWN):
        return tokens[:, -1:]
    places = [BLOCKS.index(block) - len(BLOCKS) for block in ASKED]
    return tokens[:, [place for place in places if place >= -tokens.shape[1]]]


def image_rows(states: States, question: str, kinds: Sequence[str] | None = None) -> Rows:
    """One token of each kind an image; of all kinds where None."""
    images = torch.arange(len(states["class"]))
    kinds = [kind for kind in states if kind not in ("class", "colour", "middle")] if kinds is None else kinds
    return {kind: (some(states[kind]), states[question], images) for kind in kinds}


def asked(rows: Rows) -> dict[str, list[Score]]:
    """A probe of each kind after each block; with shuffled labels too, of many numbers only after the last."""
    found: dict[str, list[Score]] = {}
    for kind, (tokens, targets, images) in rows.items():
        often = [targets.ndim == 1 or targets.shape[1] < MANY] * tokens.shape[1]
        often[-1] = True
        parts = zip(tokens.unbind(dim=1), map(int, often))
        found[kind] = [probes.token_probe(part, targets, images, shuffles=times) for part, times in parts]
        print(f"  {kind}", flush=True)
    return found


def values_of(scores: Sequence[Score]) -> dict:
    values = {name: [round(getattr(one, name), 5) for one in scores] for name in ("value", "low", "high", "chance")}
    return values | {"chance": [one for one in values["chance"] if not math.isnan(one)]}


def add(what: str, values: dict, n: int, folder: str | None) -> None:
    ledger.add(EXPERIMENT, what, COMMAND, "cpu", values, n=n, seed=0, folder=folder)
    end = {name: values[name][-1] for name in ("value", "low", "high", "chance") if isinstance(values.get(name), list)}
    print(what, end or values, flush=True)


def differences(found: dict[str, list[Score]], pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, dict]]:
    """One kind less another, after the blocks that both have."""
    for one, other in pairs:
        if one in found and other in found:
            both = min(len(found[one]), len(found[other]))
            apart: list[Interval] = [a.less(b) for a, b in zip(found[one][-both:], found[other][-both:])]
            yield f"{one} less {other}", {name: [round(getattr(each, name), 5) for each in apart]
                                          for name in ("value", "low", "high")}  # fmt: skip


def measure(title: str, rows: Callable[[], Rows], pairs: Sequence[tuple[str, str]], folder: str | None) -> None:
    """Records of a question: one a kind, one a difference; none where they are all there."""
    done = {one.what for one in ledger.read(EXPERIMENT, folder, missing_ok=True)}
    if f"{title}: end" in done:
        return
    these = rows()
    found = asked(these)
    for kind, scores in found.items():
        if f"{title}: {kind}" not in done:
            values = values_of(scores) | {"tokens": scores[0].tokens}
            if title.endswith("pixels"):
                values["deviation of pixels"] = float(these[kind][1].std())
            add(f"{title}: {kind}", values, scores[0].images, folder)
    for name, values in differences(found, pairs):
        if f"{title}: {name}" not in done:
            add(f"{title}: {name}", values, next(iter(found.values()))[0].images, folder)
    add(f"{title}: end", {"kinds": float(len(found))}, 1, folder)


def claims(of: dict[str, ledger.Record]) -> dict[str, tuple[int, dict]]:
    """The registers paper's claims by the rules of `book/predictions.md`: n and values by claim."""

    def end(what: str) -> tuple[float, float, float]:
        return tuple(of[what].get(name)[-1] for name in ("value", "low", "high"))

    def says(*ends: tuple[float, float, float], wanted: int, part: bool = False, turned: bool = True) -> str:
        signs = [1 if low > 0 else -1 if high < 0 else 0 for _, low, high in ends]
        if all(sign == wanted for sign in signs):
            return "reproduced"
        if part and wanted in signs and -wanted not in signs:
            return "reproduced in part"
        return "the opposite" if turned and all(sign == -wanted for sign in signs) else "null at this scale"

    place, fresh, twin = end("photos, place: long less not long"), *(
        end(f"photos, pixels: long less {other}") for other in ("not long", "twin")
    )  # fmt: skip
    other, inner = (end(f"CIFAR-10, class: outlier less {name}") for name in ("twin", "inside"))
    n, m = of["photos, place: long"].n, of["CIFAR-10, class: outlier"].n
    model, less = "in ViT-Ti/16", says(place, wanted=-1, turned=False)
    return {
        f"outliers hold less of where they are (Table 1), {model}, at the same places: {less}": (
            n, {"long less not long": list(place)}),
        f"outliers hold less of their pixels (Table 1), {model}, at the same places: {says(fresh, twin, wanted=-1)}": (
            n, {"long less not long": list(fresh), "long less twin": list(twin)}),
        f"outliers hold more of the class than normal patches (Table 1), {model} on CIFAR-10: "
        f"{says(other, inner, wanted=1, part=True)}": (
            m, {"outlier less twin": list(other), "outlier less inside": list(inner)}),
        "the table's models, and its data sets Aircraft, CUB, Cars and the rest: out of reach. Neither is here": (
            1, {"rows measured": 0.0}),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--states", metavar="DIR", help="keep the tokens there, and take them from there")
    parser.add_argument("--folder", metavar="DIR", help="where records go: the library's ledger by default")
    flags = parser.parse_args(arguments)
    states = Path(flags.states) if flags.states else None
    photos, cifar = real(states)
    if "photos: long" not in {one.what for one in ledger.read(EXPERIMENT, flags.folder, missing_ok=True)}:
        values = {"long at each place": photos["long"].sum(dim=0).tolist(), "views": len(photos["long"])}
        add("photos: long", values, len(photos["photo"].unique()), flags.folder)
    pairs = [("long", other) for other in ("twin", "not long", "inside")]
    for question in ("place", "animal", "pixels"):
        measure(f"photos, {question}", lambda q=question: photo_rows(photos, q), pairs, flags.folder)
    pairs = [("outlier", "twin"), ("outlier", "inside"), ("new token", "twin"), ("class token", "inside")]
    for question in ("class", "colour"):
        measure(f"CIFAR-10, {question}", lambda q=question: image_rows(cifar, q, CIFAR), pairs, flags.folder)
    pairs = [(f"register {number}", "class token") for number in range(4)]
    for name in OURS:
        ours = kept(states and states / f"{name}.pt", lambda name=name: of_shapes(name))
        for question in ("class", "middle"):
            measure(f"{name}, {question}", lambda o=ours, q=question: image_rows(o, q), pairs, flags.folder)
    of = {one.what: one for one in ledger.read(EXPERIMENT, flags.folder)}
    done = {one.what for one in ledger.read(PAPER, flags.folder, missing_ok=True)}
    for claim, (n, values) in claims(of).items():
        if claim not in done:
            ledger.add(PAPER, claim, COMMAND, "cpu", values, n=n, seed=0, folder=flags.folder)
            print(claim, flush=True)


if __name__ == "__main__":
    main()
