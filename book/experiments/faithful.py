"""Is a clean map a true map? Patches go in its order, tokens are replaced, and one is put into another image.

    python -m book.experiments.faithful --photos DIR

Models: ViT-Ti/16 on 40 of 200 ImageNet photos, with the other 160 for reference, and two small ones on `shapes`. The
saliency-tuned ViT-S/14 has no classifier and is left out. What has a record is not measured again. What was expected is
in `book/predictions.md`, committed before the first run.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor

from book.experiments.asked import RESAMPLED, Asked, Subject, interval, resampled, rounded
from book.experiments.entry import VIT, photos
from book.experiments.test_time import bundled
from dtl_lib import data, ledger
from dtl_lib.host import data_folder
from dtl_lib.pretrained import load_pretrained
from dtl_lib.probes import insertion_deletion, iou, pointing_game, untrained
from dtl_lib.probes.replacing import REPLACEMENTS
from dtl_lib.registers import NAME, test_time_registers
from dtl_lib.stored.faithful import LAST, TEST_TIME, long_patches, maps_of, neurons_of

EXPERIMENT, COMMAND = "faithful", "python -m book.experiments.faithful"
STEPS, DRAWS = 5, 2
ZOO = ("shapes_depth6", "shapes_depth6_reg4")
REPLACED = {"ViT-Ti/16": (8, 11), "shapes_depth6": (2, 5), "shapes_depth6_reg4": (2, 5)}  # at which blocks
SWAPPED = {"ViT-Ti/16": (1, 4, 6, 8, 9, 10, 11)}
CENTRE, RANDOM = "a blob in the centre", "random rankings"


def blob(rows: int, columns: int) -> Tensor:
    """A round hill in the middle, `(rows, columns)`."""
    down, across = (torch.linspace(-1, 1, size) for size in (rows, columns))
    return torch.exp(-2 * (down[:, None] ** 2 + across**2))


def all_maps(subject: Subject) -> dict[str, Tensor]:
    """The maps of the model, of one with re-drawn weights, a fixed one, and random ones, by name."""
    fresh, found = untrained(subject.model), {}
    for start, images in subject.batches():
        with torch.no_grad():
            target = subject.model(images).argmax(dim=1)
        maps = maps_of(subject.model, images, target, subject.neurons)
        maps.pop(TEST_TIME[1], None)
        maps |= {f"{name}, re-drawn weights": one for name, one in maps_of(fresh, images, target).items()}
        shape = maps[LAST].shape
        maps[CENTRE] = blob(*shape[1:]).expand(shape)
        for draw in range(DRAWS):
            drawn = torch.Generator().manual_seed(1000 * draw + start)
            maps[f"{RANDOM} {draw}"] = torch.rand(shape, generator=drawn)
        for name, one in maps.items():
            found.setdefault(name, []).append(one.detach())
    return {name: torch.cat(parts) for name, parts in found.items()}


def curves(subject: Subject, maps: dict[str, Tensor], by: str) -> dict[str, dict]:
    """By map: the gap of each image, and the mean curves."""
    stacked, parts = torch.stack([*maps.values()]), []
    for start, images in subject.batches():
        chosen = stacked[:, start : start + len(images)]
        parts.append(insertion_deletion(subject.model, images, chosen, None, by, subject.reference, STEPS, start))
    gap, deletion, insertion = (
        torch.cat([getattr(one, name) for one in parts], dim=1) for name in ("gap", "deletion", "insertion")
    )
    return {
        name: {"gaps": gap[i], "deletion": deletion[i].mean(dim=0), "insertion": insertion[i].mean(dim=0)}
        for i, name in enumerate(maps)
    }


def random_means(gaps: Tensor) -> Tensor:
    """Mean gaps of many random maps: each takes for each image one of its rankings, as it is or reversed.

    Args:
        gaps: of random rankings, `(draws, images)`.
    """
    drawn, (draws, images) = torch.Generator().manual_seed(0), gaps.shape
    which = torch.randint(draws, (RESAMPLED, images), generator=drawn)
    sign = 2 * torch.randint(2, (RESAMPLED, images), generator=drawn) - 1
    return (sign * gaps[which, torch.arange(images)]).mean(dim=1)


def league(found: dict[str, dict]) -> Iterator[tuple[str, dict]]:
    """Rows of one model and one replacement: each map, its gap and how far it is from the plain one; random maps."""
    own = found[LAST]["gaps"]
    for name, one in found.items():
        if not name.startswith(RANDOM):
            yield (
                name,
                {
                    **interval("gap", one["gaps"]),
                    **interval("less_last", one["gaps"] - own),
                    **{curve: rounded(one[curve]) for curve in ("deletion", "insertion")},
                    "gaps": rounded(one["gaps"]),
                },
            )
    gaps = torch.stack([one["gaps"] for name, one in found.items() if name.startswith(RANDOM)])
    means = random_means(gaps.double())
    low, high = means.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    yield RANDOM, {"gap_low": low, "gap_high": high, "spread": float(means.std()), "gaps": rounded(gaps.flatten())}


def tau(one: Tensor, other: Tensor) -> float:
    """Kendall's tau-b of two lists of scores."""
    from scipy.stats import kendalltau

    return float(kendalltau(one.numpy(), other.numpy()).statistic)


def agreement(one: Tensor, other: Tensor) -> dict[str, float]:
    """Whether two replacements put the methods into the same order; gaps are `(methods, images)`."""
    chosen = resampled(one.shape[1])[:500]
    taus = torch.tensor([tau(one[:, rows].mean(dim=1), other[:, rows].mean(dim=1)) for rows in chosen])
    low, high = taus.quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"tau": tau(one.mean(dim=1), other.mean(dim=1)), "tau_low": low, "tau_high": high}


def groups(subject: Subject) -> dict[str, Tensor | str]:
    """Which tokens are replaced together: masks of patches `(images, rows, columns)`, or the name of a group."""
    found: dict[str, Tensor | str] = {}
    maps, long = [], []
    for _, images in subject.batches():
        maps.append(maps_of(subject.model, images)[LAST])
        long.append(long_patches(subject.model, images))
    ranking, long = torch.cat(maps), torch.cat(long)
    if subject.neurons:
        found["the long patches"] = long
    drawn = torch.rand(ranking.shape, generator=torch.Generator().manual_seed(0))
    for count in (4, ranking[0].numel() // 10):
        for name, values in (("top", ranking), ("random", drawn)):
            values = values.masked_fill(long, -1) if subject.neurons else values
            least = values.flatten(1).topk(count, dim=1).values[:, -1]
            found[f"{count} {name}"] = values >= least[:, None, None]
    if subject.model.plan.group("reg"):
        found["registers"] = "reg"
    return found


@torch.no_grad()
def measure(subject: Subject, folder: str | None) -> Iterator[ledger.Record]:
    """Every row of a model that has no record, one by one."""
    n, name, config = len(subject.images), subject.name, subject.model.config.to_dict()

    def is_there(what: str) -> bool:  # asked each time: another process may add rows meanwhile
        return any(one.what == what for one in ledger.read(EXPERIMENT, folder, missing_ok=True))

    def add(what: str, values: dict) -> ledger.Record:
        return ledger.add(EXPERIMENT, what, COMMAND, "cpu", values, n=n, seed=0, config=config, folder=folder)

    maps, sets, asked = all_maps(subject), groups(subject), Asked.of(subject)
    tokens = {"class token": "cls"} | {what: sets[what] for what in ("the long patches", "registers") if what in sets}
    tokens["4 random patches"] = sets["4 random"]
    for block in SWAPPED.get(name, range(1, subject.model.plan.blocks)):
        for token, which in tokens.items():
            if not is_there(what := f"{name}: {token} of another image at block {block}"):
                yield add(what, asked.swapped(which, block))
    for block in REPLACED.get(name, (1, subject.model.plan.blocks - 1)):
        for group, which in sets.items():
            for by in REPLACEMENTS:
                if not is_there(what := f"{name}: {group}, block {block}, {by}"):
                    yield add(what, asked.replaced(which, block, by))
    if subject.masks is not None:
        for one, found in maps.items():
            if not is_there(what := f"{name}: {one}, on the object"):
                scores = {"pointing": pointing_game(found, subject.masks), "iou": iou(found, subject.masks)}
                yield add(what, {k: v for title, each in scores.items() for k, v in interval(title, each).items()})
    for by in REPLACEMENTS:
        if not is_there(f"{name}: {RANDOM}, {by}"):
            for one, values in league(curves(subject, maps, by)):
                if not is_there(what := f"{name}: {one}, {by}"):
                    yield add(what, values)
    methods = [one for one in maps if "re-drawn" not in one and one != CENTRE and not one.startswith(RANDOM)]
    rows = {one.what: one for one in ledger.read(EXPERIMENT, folder)}
    gaps = {by: torch.tensor([rows[f"{name}: {one}, {by}"].get("gaps") for one in methods]) for by in REPLACEMENTS}
    for one, other in combinations(REPLACEMENTS, 2):
        if not is_there(what := f"{name}: agreement of {one} and {other}"):
            yield add(what, agreement(gaps[one].double(), gaps[other].double()))


@torch.no_grad()
def token_of_the_moved(subject: Subject, folder: str | None) -> Iterator[ledger.Record]:
    """The token to which one neuron has moved, replaced in the model that has it."""
    done = {one.what for one in ledger.read(EXPERIMENT, folder, missing_ok=True)}
    about = {"n": len(subject.images), "seed": 0, "config": subject.model.config.to_dict(), "folder": folder}
    with test_time_registers(subject.model, subject.neurons[:1]):
        asked = Asked.of(subject)
        for block in REPLACED.get(subject.name, (subject.model.plan.blocks - 1,)):
            for by in REPLACEMENTS:
                if (what := f"{subject.name}: test-time register, block {block}, {by}") not in done:
                    yield ledger.add(EXPERIMENT, what, COMMAND, "cpu", asked.replaced(NAME, block, by), **about)


def of_photos(folder: str, n: int = 40) -> Subject:
    """ViT-Ti/16 and the photos."""
    model = load_pretrained(VIT).eval()
    every = torch.cat([images for images, _ in photos(folder, model, None)])
    asked = torch.zeros(len(every), dtype=torch.bool)
    asked[torch.linspace(0, len(every) - 1, n).round().long()] = True
    return Subject("ViT-Ti/16", model, every[asked], every[~asked], neurons_of(model, bundled(model)))


def of_shapes(name: str, n: int = 100) -> Subject:
    """A small model and test images of `shapes`; the 200 after them for reference."""
    test = data.load("shapes").test
    images, reference = (test.batch(range(*ends))[0] for ends in ((0, n), (n, n + 200)))
    masks = test.masks(torch.arange(n)) > 0.5
    return Subject(name, load_pretrained(f"zoo/{name}").eval(), images, reference, (), masks)


def main(arguments: Sequence[str] | None = None) -> None:
    """All of it, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", metavar="DIR", help="the folder of the photos (default: imagenet under DTL_DATA)")
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    subject = of_photos(options.photos or str(data_folder() / "imagenet"))
    for one in measure(subject, options.folder):
        print(one.what, flush=True)
    for one in token_of_the_moved(subject, options.folder):
        print(one.what, flush=True)
    for name in ZOO:
        for one in measure(of_shapes(name), options.folder):
            print(one.what, flush=True)


if __name__ == "__main__":
    main()
