"""Are high-norm tokens where patches are like their neighbours, or on the background? Place held fixed, and not.

    python -m book.experiments.high_norm_neighbours

It needs `DTL_DATA` with ViT-Ti/16's weights, ImageNet's photos (`imagenet`) and DAVIS with its masks. Likeness is
`probes.neighbour_likeness` of the patch embedding before positions are added; beside it stand two others (`MEASURES`).
A record that is there is not made again; it keeps enough of each photo to compute its intervals again. At the end
comes the registers paper's claim (2.1, Fig. 5a), as a row of `registers_paper`. What was expected is in
`book/predictions.md`, committed before the first run.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from book.experiments import lost
from book.experiments.entry import VIT
from book.experiments.knows_states import eight
from dtl_lib import data, ledger, load_pretrained, probes, record
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.probes.entry_rows import Interval
from dtl_lib.tokens import PATCHES

EXPERIMENT, PAPER = "high_norm_neighbours", "registers_paper"
COMMAND = "python -m book.experiments.high_norm_neighbours"
CLAIM = (
    "they are where patches are like their neighbours (2.1, Fig. 5a), in ViT-Ti/16 at 320 pixels, at the same places: "
)
SIZES, LARGE, BLOCK, BATCH, DRAWS = (224, 320), 320, 9, 40, 2000
MEASURES = ("embedding", "with positions", "less the mean")  # the first is the paper's, and is what counts
PAPERS, PLACE, BORDER = "long less all others", "border less inside, none long", "long less the border, none long"
BETWEEN, SAME, BOTH = "long border less the border", "same places", "same places and photos"
WINDOWS = (3, 5)  # rows and columns of windows in a frame


def on_border(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Which patches are corners, and which are on the border between them: bool, `(rows, columns)`."""
    border, corners = torch.ones(rows, columns, dtype=torch.bool), torch.zeros(rows, columns, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return corners, border & ~corners


def at_eight(values: Tensor) -> Tensor:
    """Those of the corners' neighbours along the border: `(batch, rows, columns)` → `(batch, 8)`."""
    rows, columns = zip(*eight(*values.shape[1:]))
    return values[:, list(rows), list(columns)]


def by_photo(likeness: Tensor, some: Tensor, others: Tensor) -> Tensor:
    """The mean likeness of some patches less that of others, of each photo that has both."""
    likeness, some, others = (values.double().flatten(1) for values in (likeness, some, others))
    both = (some.sum(dim=1) > 0) & (others.sum(dim=1) > 0)
    means = [(likeness * which).sum(dim=1)[both] / which.sum(dim=1)[both] for which in (some, others)]
    return means[0] - means[1]


def student(values: Tensor) -> Interval:
    """A mean over photos with Student's 95 % interval."""
    over = probes.RunningMean()
    over.add(values)
    found = over.estimate()
    return Interval(float(found.mean), float(found.low), float(found.high))


def same_places(likeness: np.ndarray, long: np.ndarray) -> float:
    """At each place, photos in which it is long less photos in which it is not; the mean over places.

    Args:
        likeness, long: `(photos, places)`.
    """
    sums = [((likeness * which).sum(axis=0), which.sum(axis=0)) for which in (long, ~long)]
    both = (sums[0][1] > 0) & (sums[1][1] > 0)
    (a, n), (b, m) = ((total[both], count[both]) for total, count in sums)
    return float((a / n - b / m).mean()) if both.any() else float("nan")


def same_places_and_photos(likeness: np.ndarray, long: np.ndarray) -> float:
    """What being long adds to likeness when every place and every photo may have a likeness of its own.

    Least squares: from both tables the means of rows and columns are taken off.
    """
    y, x = (
        table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        for table in (likeness, long.astype(float))
    )
    return float((x * y).sum() / np.square(x).sum()) if np.square(x).sum() > 1e-9 else float("nan")


def bootstrap(statistic: Callable, likeness: Tensor, long: Tensor, seed: int = 0) -> Interval:
    """A statistic of photos and places, with a 95 % interval over photos drawn again."""
    y, x = likeness.double().numpy(), long.numpy()
    draws = np.random.default_rng(seed).integers(len(y), size=(DRAWS, len(y)))
    drawn = [statistic(y[of], x[of]) for of in draws]
    return Interval(statistic(y, x), *map(float, np.nanpercentile(drawn, (2.5, 97.5))))


def contrasts(likeness: Tensor, long: Tensor) -> dict[str, Interval]:
    """Every comparison that these photos allow, by name; those of border patches need some that are long.

    Args:
        likeness: `(photos, rows, columns)`.
        long: bool, the same shape.
    """
    corners, between = on_border(*long.shape[1:])
    normal = ~long
    pairs = {
        PAPERS: (long, normal),
        PLACE: (normal & between, normal & ~between & ~corners),
        BORDER: (long, normal & between),
        BETWEEN: (long & between, normal & between),
    }
    found = {name: by_photo(likeness, *pair) for name, pair in pairs.items()}
    values = {name: student(one) for name, one in found.items() if len(one) > 1}
    if BETWEEN in values:
        table, which = at_eight(likeness), at_eight(long)
        values[SAME] = bootstrap(same_places, table, which)
        values[BOTH] = bootstrap(same_places_and_photos, table, which)
    return values


@torch.inference_mode()
def seen(model: ViT, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The patch embedding and the stream before block 0, `(batch, rows, columns, dim)`; which patches are long, by
    `find_outliers` and by length alone, `lost.LONG` medians of their image."""
    with record(model) as tape:
        model(images)
    embedded = model.patch_embed(images)
    placed = tape.tokens("input")[:, tape.plan.layout(0)[PATCHES]]
    lengths = tape.norms(BLOCK)[PATCHES]
    longer = lengths > lost.LONG * lengths.flatten(1).median(dim=1).values[:, None, None]
    return embedded, placed.view_as(embedded), probes.find_outliers(tape).mask(BLOCK), longer


def in_batches(model: ViT, images: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """`seen` of any number of images."""
    parts = [seen(model, torch.as_tensor(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
    return [torch.cat(part) for part in zip(*parts)]


def photos(model: ViT, size: int) -> Tensor:
    """ImageNet's photos, by name, as the model is tested on them."""
    files = sorted((data_folder() / "imagenet").glob("*/n*/*.JPEG"), key=lambda file: file.name)
    if not files:
        raise ValueError(f"there are no photos in {data_folder() / 'imagenet'}")
    return torch.cat([data.prepare(data.open_image(file), size=size, config=model.config) for file in files])


def on_photos(model: ViT, size: int) -> tuple[dict, int]:
    """A record's values for one image size, and how many photos."""
    images = photos(model, size)
    embedded, placed, long, _ = in_batches(model, images)
    tokens = (embedded, placed, embedded - embedded.mean(dim=(0, 1, 2)))
    return of_photos({name: probes.neighbour_likeness(one) for name, one in zip(MEASURES, tokens)}, long), len(images)


def of_photos(likeness: dict[str, Tensor], long: Tensor) -> dict:
    """Counts, means and contrasts; and of the first measure what each photo gives."""
    corners, between = on_border(*long.shape[1:])
    first = likeness[MEASURES[0]].double()
    groups = {"long": long, "others": ~long, "border, not long": ~long & between}
    groups |= {"inside, not long": ~long & ~between & ~corners}
    values = {
        "found": int(long.sum()),
        "on the corners": int((long & corners).sum()),
        "on the border between": int((long & between).sum()),
        "long at each of the eight places": at_eight(long).sum(dim=0).tolist(),
        "spread": float(first.flatten(1).std(dim=1).mean()),
        **{f"likeness: {name}": float(first[which].mean()) for name, which in groups.items()},
    }
    for name, one in likeness.items():
        values |= {f"{name}: {what}": list(astuple(found)) for what, found in contrasts(one, long).items()}
    pairs = {PAPERS: (long, ~long), BETWEEN: (long & between, ~long & between)}
    values |= {f"photos: {name}": short(by_photo(first, *pair)) for name, pair in pairs.items()}
    if (long & between).any():
        values["photos: likeness at the eight places"] = short(at_eight(first))
        values["photos: long at the eight places"] = at_eight(long).int().flatten().tolist()
    return {name: value for name, value in values.items() if value != []}


def short(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.flatten().tolist()]


def windows(video: str, model: ViT) -> tuple[Tensor, Tensor]:
    """Windows of `LARGE` pixels of a video's frames, every fifth, and the object's pixels in them."""
    folder, images, masks = data_folder() / "davis", [], []
    for file in sorted((folder / "JPEGImages" / video).glob("*.jpg"))[:: lost.EVERY]:
        frame = np.asarray(Image.open(file).convert("RGB"))
        mask = torch.from_numpy(np.asarray(Image.open(folder / "Annotations" / video / f"{file.stem}.png")) > 0)
        starts = [np.linspace(0, side - LARGE, count).astype(int) for side, count in zip(mask.shape, WINDOWS)]
        for top, left in np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2):
            part = slice(top, top + LARGE), slice(left, left + LARGE)
            images.append(data.prepare(frame[part], size=LARGE, crop=1.0, config=model.config))
            masks.append(mask[part])
    return torch.cat(images), torch.stack(masks)


def on_objects(model: ViT, video: str, by_length: bool = False) -> tuple[dict, int]:
    """Where long patches are, by true masks: whole frames, and windows whose border the object may cross.

    By length is post hoc: frames of a video are so alike at their corners that `find_outliers` takes the long patches
    of some batches for what the frames show (its third rule).
    """
    values = {}
    for name, (images, masks) in {"whole": lost.frames(video, model), "windows": windows(video, model)}.items():
        *_, found_long, longer = in_batches(model, images)
        long = longer if by_length else found_long
        found = of_objects(long, lost.of_objects(masks, model.config.patch_size))
        values |= {f"{name}: {what}": value for what, value in found.items()} | {f"{name}: images": len(images)}
    return values, values["whole: images"]


def of_objects(long: Tensor, objects: Tensor) -> dict:
    """Long patches on the object, its share of all patches and of the border's, and how often a place is long on it."""
    corners, between = on_border(*long.shape[1:])
    values = {
        "long": int(long.sum()),
        "long, on the object": int((long & objects).sum()),
        "long, on the border": int((long & (corners | between)).sum()),
        "share of the object, all patches": float(objects.double().mean()),
        "share of the object, border": float(objects[:, corners | between].double().mean()),
    }
    places = {"corners": (long[:, corners], objects[:, corners]), "eight places": (at_eight(long), at_eight(objects))}
    for name, (is_long, on) in places.items():
        for where, which in (("on the object", on), ("beside it", ~on)):
            values |= {f"{name} {where}": int(which.sum()), f"{name} {where}, long": int((is_long & which).sum())}
    return values


def verdict(values: dict) -> str:
    """By the rule in `book/predictions.md`."""
    found = [values[f"{MEASURES[0]}: {name}"] for name in (SAME, BOTH)]
    above, below = [low > 0 for _, low, _ in found], [high < 0 for *_, high in found]
    if all(above) or all(below):
        return "reproduced" if all(above) else "the opposite"
    return "reproduced in part" if any(above) and not any(below) else "null at this scale"


def jobs() -> Iterator[tuple[str, Callable[[ViT], tuple[dict, int]]]]:
    """What has a record, and what makes its values and n."""
    for size in SIZES:
        yield f"likeness, {size} pixels", lambda model, size=size: on_photos(model, size)
    for video in lost.VIDEOS:
        yield f"objects, {video}", lambda model, video=video: on_objects(model, video)
    for video in lost.VIDEOS:
        yield f"objects by length, {video}", lambda model, video=video: on_objects(model, video, by_length=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Every record that is not there, and the claim's row."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the records go; the library's ledger where left out")
    folder = parser.parse_args(arguments).folder
    there = {one.what for one in ledger.read(EXPERIMENT, folder, missing_ok=True)}
    left = [(what, measure) for what, measure in jobs() if what not in there]
    model = load_pretrained(VIT).eval() if left else None
    for what, measure in left:
        values, n = measure(model)
        about = {"n": n, "seed": 0, "config": model.config.to_dict(), "folder": folder}
        ledger.add(EXPERIMENT, what, COMMAND, "cpu", values, **about)
        print(what, flush=True)
    (large,) = (one for one in ledger.read(EXPERIMENT, folder) if one.what == f"likeness, {LARGE} pixels")
    if not any(one.what.startswith(CLAIM) for one in ledger.read(PAPER, folder, missing_ok=True)):
        values = {name: large.get(f"{MEASURES[0]}: {name}") for name in (BETWEEN, SAME, BOTH)}
        row = CLAIM + verdict(large.values)
        ledger.add(PAPER, row, COMMAND, "cpu", values, n=large.n, seed=0, folder=folder)


if __name__ == "__main__":
    main()
