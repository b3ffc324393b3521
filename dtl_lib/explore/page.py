"""A page of the explorer that needs no kernel: what `explore` shows of models and pictures, stored, and the models."""

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..figures.overlay import OPACITY
from ..models import ViT
from ..outputs.looking import TITLES
from ..tokens import PATCH, PATCHES, READ_BY_HEAD
from . import browser
from .recording import Recording, class_labels, recording
from .state import BY_QUERY, SHOWS

LEVELS = 255
HEAVIEST = 1_000_000  # bytes of what is stored of one model and one picture
SCRIPTS = ("vit.js", "values.js", "live.js", "parts.js", "panel.js", "page.js", "page.css")
THUMB = 96  # pixels


@dataclass(frozen=True)
class Shown:
    """A model on the page.

    Attributes:
        name: a short title.
        model: a `ViT`.
        says: what it was trained on, and how well it does, in a sentence or two.
        kind: of the pictures it was trained on, such as "shapes"; other pictures are said to be unlike these.
    """

    name: str
    model: ViT
    says: str
    kind: str


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Attributes:
        name: what it shows.
        pixels: uint8 (height, width, 3), or a function from a model to its input, float32 (1, channels, height, width).
        kind: as in `Shown`.
    """

    name: str
    pixels: np.ndarray | Callable[[ViT], Tensor]
    kind: str


def write(
    folder: Path, models: Sequence[Shown], pictures: Sequence[Picture], start: int | None = None,
    done: Callable[[int], object] = lambda count: None,
) -> None:  # fmt: skip
    """Write the page's scripts and data into a folder; `page()` is the HTML that loads them.

    Args:
        folder: made where missing.
        models, pictures: what can be chosen; the first of each is shown first.
        start: the block shown first; the last of the trunk by default.
        done: called with 1 after each picture of each model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCRIPTS:
        shutil.copyfile(browser.WEB / name, folder / name)
    about = []
    for at, shown in enumerate(models):
        about.append(_about(folder, f"m{at}", shown))
        for number, picture in enumerate(pictures):
            data = seen(shown.model, picture)
            text = f'dtlSeen("m{at}_p{number}",{_json(data)});\n'
            (folder / f"seen_m{at}_p{number}.js").write_text(text, "utf8")
            done(1)
    index = {
        "models": about,
        "pictures": [
            {"name": each.name, "kind": each.kind, "thumb": _thumb(each, models[0].model)} for each in pictures
        ],
        "start": start,
        "overlay": OPACITY,
        "units": SHOWS,
        "titles": TITLES,
    }
    (folder / "index.js").write_text(f"window.dtlExplorer = {_json(index)};\n", "utf8")


def fragment(folder: str) -> str:
    """The HTML of the explorer, whose scripts lie in a folder, an address that ends in `/` or nothing."""
    text = (browser.WEB / "fragment.html").read_text("utf8")
    return text.replace("FOLDER/", folder)


def page(title: str) -> str:
    """A whole page, to lie in the folder that `write` fills."""
    text = (browser.WEB / "page.html").read_text("utf8")
    title = title.replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("TITLE", title).replace("FRAGMENT", fragment(""))


def seen(model: ViT, picture: Picture) -> dict:
    """What a model makes of a picture: every row that `explore` can show, as roots in uint8, with where to find it.

    A row's values are those of the tokens in its layout. A value is off by at most 1/255 of the largest of its row.
    Patches that ask are left out, in steps, where there are so many that a page would be heavy.
    """
    pixels = picture.pixels(model) if callable(picture.pixels) else picture.pixels
    recorded = recording(model, pixels)
    for detail in range(3):
        entries, rows, highs = _entries(recorded, detail)
        if 4 / 3 * sum(len(codes) + 8 for codes, _, _ in rows) <= HEAVIEST:
            break
    header = np.array([[factor, off] for _, factor, off in rows], "<f4")
    return {
        "photo": _uri(recorded.photo, "PNG"),
        "answers": [[name, round(value, 5)] for name, value in recorded.answers],
        "entries": entries,
        "highs": highs,
        "header": base64.b64encode(header.tobytes()).decode(),
        "codes": base64.b64encode(b"".join(codes for codes, _, _ in rows)).decode(),
    }


Coded = tuple[bytes, float, float]  # a row as roots: uint8, the factor that gives them back, the share off the patches


def _entries(recorded: Recording, detail: int) -> tuple[list[dict], list[Coded], dict]:
    """For each thing to show, block, and group of tokens that ask: where its rows begin, or why there are none; the
    rows; and where a shared scale ends."""
    entries, rows, at, highs = [], [], 0, {}
    for show in SHOWS:
        for group, tokens in _asking(recorded, show):
            for block in range(recorded.tape.plan.blocks):
                heads = _heads(recorded, show, block, group, detail)
                entry = {"show": show, "block": block, "group": group}
                try:
                    values = [recorded.row(show, block, head, of) for head in heads for of in tokens]
                except ValueError as error:
                    entries.append(entry | {"says": _sentence(error)})
                    continue
                if not values:
                    continue
                layout = values[0][1]
                lengths = {name: _length(where, recorded) for name, where in layout.items()}
                entries.append(entry | {"heads": len(heads), "row": len(rows), "at": at, "layout": [*lengths.items()]})
                highs.setdefault(show, {})[group] = [_short(recorded.largest(show, of)) for of in tokens]
                rows += [_coded(row.float().cpu().numpy(), layout[PATCHES], show) for row, _ in values]
                at += len(values) * sum(lengths.values())
    return entries, rows, highs


def _heads(recorded: Recording, show: str, block: int, group: str, detail: int) -> list[int | None]:
    """The mean over heads and each of them, where there are any; less of patches where the page would be heavy."""
    heads = [None, *range(recorded.heads(block))] if show == "attention" else [None]
    return heads if group != PATCH or not detail else heads[: detail == 1 and show == "attention"]


def _asking(recorded: Recording, show: str) -> Iterator[tuple[str, list]]:
    """The groups of tokens that ask, with their tokens; one without a name where it does not matter who asks."""
    rows, columns = recorded.grid
    if show not in BY_QUERY:
        yield "", ["cls"]
        return
    for group in recorded.tape.plan.groups:
        one = group.name in READ_BY_HEAD
        yield group.name, [group.name] if one else [(group.name, number) for number in range(group.tokens)]
    yield PATCHES, [PATCHES]
    yield PATCH, [(PATCH, row, column) for row in range(rows) for column in range(columns)]


def _coded(values: np.ndarray, patches: slice, show: str) -> Coded:
    factor = float(np.sqrt(values.max(initial=0))) / LEVELS
    codes = np.rint(np.sqrt(values.clip(min=0)) / (factor or 1)).astype(np.uint8)
    off = max(0.0, 1 - float(values[patches].sum(dtype=np.float64))) if show in ("attention", "rollout") else 0.0
    return codes.tobytes(), factor, off


def _length(where: slice, recorded: Recording) -> int:
    return recorded.grid[0] * recorded.grid[1] if where.stop is None else where.stop - where.start


def why_not(model: ViT) -> str:
    """Why a model does not run in the browser; nothing where it does."""
    try:
        browser.packed_to_fit(model)
    except ValueError as error:
        return str(error)
    return ""


def _about(folder: Path, key: str, shown: Shown) -> dict:
    """What the page has to know of a model; its weights are written beside, where the browser can run it."""
    model, config = shown.model, shown.model.config
    about = {
        "name": shown.name,
        "says": shown.says,
        "kind": shown.kind,
        "plan": asdict(config.plan),
        "grid": list(config.grid),
        "heads": config.heads,
        "classes": class_labels(model) if config.classes else [],
    }
    try:
        packed = browser.packed_to_fit(model)
    except ValueError as error:
        return about | {"runs": None, "why": _sentence(error)}
    parts = list(packed.files(key))
    for name, text in parts:
        (folder / f"weights_{name}").write_text(text, "utf8")
    change = browser.error(packed, model, _noise(model))
    runs = packed.spec | {"parts": len(parts), "bytes": sum(len(text) for _, text in parts)}
    return about | {"runs": runs | {"change": _short(change["logit"]), "largest": _short(change["largest logit"])}}


def _noise(model: ViT) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(4, model.config.channels, *model.config.size, generator=draw)


def _thumb(picture: Picture, model: ViT) -> str:
    pixels = picture.pixels
    if callable(pixels):
        pixels = Recording(model, pixels(model)).photo
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    image = Image.fromarray(pixels[top : top + side, left : left + side])
    return _uri(np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BICUBIC)), "JPEG")


def _uri(pixels: np.ndarray, kind: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _sentence(error: ValueError) -> str:
    text = str(error)
    return f"{text[0].upper()}{text[1:]}."


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
