"""What an audit's page shows: curves by block, tables, and pictures, for a screen and for paper alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.photos import undo
from ..figures.overlay import enlarged, scale_colours
from ..figures.style import COLOURS, MARK, token_colours
from ..probes.audited import Audit, Picture
from ..tokens import PATCHES

PIXELS = 224  # a picture's longer side, at least
READERS = {"cls": "class token's map", "pool": "map of attention pooling", PATCHES: "mean map of all tokens"}


@dataclass(frozen=True)
class Chart:
    """Curves by block.

    Attributes:
        title: what they are, with their unit.
        curves: name → (blocks, values).
        colours: one a curve.
        log, percent: of the values' axis.
        note: how to read it, and what is to be seen.
    """

    title: str
    curves: dict[str, tuple[Sequence[float], Sequence[float]]]
    colours: dict[str, str]
    note: str
    log: bool = False
    percent: bool = False


@dataclass(frozen=True)
class Rows:
    """A table."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str


def charts(audit: Audit) -> list[Chart]:
    """Norms, outliers, attention and rank, each by block."""
    found = [_norms(audit)]
    trunk = range(audit.plan.depth)
    if audit.start is not None:
        shares = [block.outliers.share if block.outliers else 0.0 for block in audit.blocks[: audit.plan.depth]]
        most = f"Most after block {audit.shown}, {max(shares):.1%} of all patches."
        found.append(
            Chart("Outliers, share of patches", {"outliers": (trunk, shares)}, {"outliers": MARK}, most, percent=True)
        )
    found.append(_attention(audit))
    every, without = ([getattr(audit.blocks[block], name) for block in trunk] for name in ("rank", "rank_without"))
    curves = {"all patches": (trunk, every)}
    if audit.start is not None:
        curves["without outliers"] = (trunk, without)
    note = f"How many of {audit.config.dim} directions the patches of all images use, after each block: from "
    note += f"{min(every):.0f} to {max(every):.0f}."
    found.append(Chart("Effective rank", curves, dict(zip(curves, (COLOURS[0], COLOURS[4]))), note))
    return found


def _norms(audit: Audit) -> Chart:
    groups = list(dict.fromkeys(name for block in audit.blocks for name in block.norms))
    colours, curves = token_colours(groups), {}
    for part, said in (("largest", "patches, largest"), ("p98", "98th percentile"), ("median", "patches, median")):
        curves[said] = _by_block(audit, PATCHES, part)
    curves |= {name: _by_block(audit, name, "median") for name in groups if name != PATCHES}
    shades = {"patches, largest": MARK, "98th percentile": COLOURS[4], "patches, median": colours[PATCHES]}
    last = audit.blocks[audit.plan.depth - 1].norms[PATCHES]
    note = f"Lengths of tokens; of the patches after the trunk: median {last.median:.3g}, 98th percentile "
    note += f"{last.p98:.3g}, largest {last.largest:.3g}."
    return Chart("Norms", curves, {**shades, **colours}, note, log=True)


def _by_block(audit: Audit, name: str, part: str) -> tuple[list[int], list[float]]:
    there = [number for number, block in enumerate(audit.blocks) if name in block.norms]
    return there, [getattr(audit.blocks[number].norms[name], part) for number in there]


def _attention(audit: Audit) -> Chart:
    groups = [name for name in dict.fromkeys(n for block in audit.blocks for n in block.received) if name != PATCHES]
    curves, colours = {}, token_colours(groups)
    if audit.strongest is not None:
        shares = [block.sinks.share if block.sinks else 0.0 for block in audit.blocks[: audit.plan.depth]]
        curves["outliers that enter the block"] = (range(audit.plan.depth), shares)
    for name in groups:
        there = [number for number, block in enumerate(audit.blocks) if name in block.received]
        curves[name] = (there, [audit.blocks[number].received[name] for number in there])
    if not curves:
        curves[PATCHES] = (range(len(audit.blocks)), [block.received[PATCHES] for block in audit.blocks])
    colours = {**token_colours([PATCHES]), **colours, "outliers that enter the block": MARK}
    note = "Shares of all attention, mean over heads and images; the rest goes to patches."
    if audit.strongest is not None and (sinks := audit.blocks[audit.strongest].sinks):
        ends = "" if audit.n == 1 else f" ({sinks.low:.0%} to {sinks.high:.0%}, 95 %)"
        note = f"Outliers get most in block {audit.strongest}: {sinks.share:.0%}{ends} of the other tokens' attention, "
        note += f"where an even share is {sinks.even:.1%}."
    return Chart("Attention goes to", curves, colours, note, percent=True)


def tables(audit: Audit) -> list[Rows]:
    """Outliers and sinks by block, tokens that get most attention, what registers cost."""
    found = []
    if audit.start is not None:
        found.append(_outliers(audit))
    columns = [
        (str(number), *(f"{one.token} ×{one.times:.1f}" for one in block.columns), str(block.half), str(block.even))
        for number, block in enumerate(audit.blocks)
    ]
    head = ("block", *("first", "second", "third")[: len(audit.blocks[0].columns)], "half", "evenly")
    note = "The tokens that get most attention over all images, with how many times an even share; how many tokens "
    found.append(
        Rows(
            "Attention sinks",
            head,
            columns,
            note + "hold half of the attention, and how many would if all got the same.",
        )
    )
    costs = [
        (f"+{one.registers}", f"+{one.multiply_adds:.2%}", f"+{one.parameters:,}", f"+{one.activation_bytes:.2%}")
        for one in audit.costs
    ]
    note = (
        "Counted from the configuration, for registers that enter at block 0 and stay; memory is what training keeps "
    )
    note += "of an image's activations."
    found.append(Rows("What registers would cost", ("registers", "multiply–adds", "parameters", "memory"), costs, note))
    return found


def _outliers(audit: Audit) -> Rows:
    rows = []
    for number, block in enumerate(audit.blocks):
        found, sinks = block.outliers, block.sinks
        if not found and not sinks:
            continue
        kinds = [kind for kind in sinks.kinds if sinks.kinds[kind]] if sinks else []
        said = (
            ", ".join(f"{sinks.kinds[kind] / sum(sinks.kinds.values()):.0%} {kind}" for kind in kinds) if sinks else ""
        )
        rows.append((
            str(number),
            f"{found.n / audit.n:.2f}" if found else "0",
            f"{found.images / audit.n:.0%}" if found else "0%",
            f"{found.ratio:.1f}" if found else "",
            _channels(found.channels) if found else "",
            f"{sinks.share:.1%}" if sinks else "",
            f"{sinks.output:.2f}" if sinks else "",
            said,
        ))  # fmt: skip
    head = ("block", "an image", "images", "times", "energy in", "attention", "gives", "type")
    note = (
        "After each block: outliers an image, images that have some, how many times as long as others, and which "
        "channels hold half of their energy. Of those that enter it: the attention that they get, what they give back "
        "per unit of attention over a normal patch's, and the types of sink."
    )
    return Rows("Outliers and their type", head, rows, note)


def _channels(channels: Sequence[int]) -> str:
    """By their numbers where they are few; how many otherwise. Both are said, since either is a number."""
    if len(channels) > 3:
        return f"{len(channels)} channels"
    return f"channel{'s' * (len(channels) > 1)} {', '.join(map(str, channels))}"


def places(audit: Audit) -> np.ndarray | None:
    """Where outliers are, a pixel a patch: the share of images in which it is one, from 0 to the largest."""
    found = audit.blocks[audit.shown].outliers
    return None if found is None else _coloured(found.places, found.places.max())


def pictured(audit: Audit, picture: Picture) -> dict[str, np.ndarray]:
    """A picture with its outliers framed, the lengths of its patches, and the map of what the head reads, by title."""
    shown, block = undo(picture.image, audit.config.mean, audit.config.std), audit.shown
    shown = np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown
    photo, lengths = enlarged(shown, PIXELS, 2 * PIXELS), picture.lengths[block]
    logs = np.log(lengths.clip(min=1e-30))
    framed, long = photo.copy(), int(picture.long[block].sum())
    for row, column in np.argwhere(picture.long[block]):
        _frame(framed, int(row), int(column), audit.config.grid)
    said = f"{long} outlier{'s' * (long != 1)} after block {block}"
    return {
        said: framed,
        f"lengths, {lengths.min():.3g} to {lengths.max():.3g}, logarithmic": _coloured(logs - logs.min(), np.ptp(logs)),
        f"{READERS[audit.reader]}, to {picture.look.max():.2g}": _coloured(picture.look, picture.look.max()),
    }


def _frame(photo: np.ndarray, row: int, column: int, grid: tuple[int, int]) -> None:
    height, width = photo.shape[:2]
    rows, columns = (np.linspace(0, side, count + 1).round().astype(int) for side, count in zip((height, width), grid))
    (top, bottom), (left, right) = rows[row : row + 2], columns[column : column + 2]
    inner, wide = photo[top:bottom, left:right].copy(), max(2, round(max(height, width) / 110))
    photo[top:bottom, left:right] = tuple(int(MARK[at : at + 2], 16) for at in (1, 3, 5))
    photo[top + wide : bottom - wide, left + wide : right - wide] = inner[wide:-wide, wide:-wide]


def _coloured(values: np.ndarray, high: float) -> np.ndarray:
    """A pixel for each patch."""
    return scale_colours()[np.clip(values * (255 / high if high > 0 else 0), 0, 255).astype(np.uint8)]
