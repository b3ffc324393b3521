"""What `dtl probe outliers` says: which patches are far longer than the others, and what for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ... import probes
from .answers import Answer

if TYPE_CHECKING:
    from ...models import ViT
    from ...probes.audited import Audit

HEADER = ("block", "outliers", "images", "share", "cut", "ratio", "alike", "channels", "attention", "low", "high")
KINDS = ("no-op", "broadcast", "content", "ignored")  # as probes.sinks has them, which needs torch


def outliers(model: ViT, batches: Iterable) -> Answer:
    """Of all images together: histograms of lengths by block, where outliers are, and what they do as sinks."""
    import numpy as np

    from ... import figures

    found = probes.audit(model, batches, pictures=0, columns=0)
    trunk = found.blocks[: found.plan.depth]
    cuts = [block.outliers.cut if block.outliers else None for block in trunk]
    names = [str(number) for number in range(len(trunk))]
    counts = np.stack([block.counts for block in trunk])
    figure = figures.show_modes(counts, found.edges, names, "length of a patch's token, after each block", cuts)
    none = np.zeros(found.config.grid)
    arrays = {
        "n": found.n,
        "start": -1 if found.start is None else found.start,
        "counts": counts,
        "edges": np.array(found.edges),
        "cuts": np.array([np.nan if cut is None else cut for cut in cuts]),
        "places": np.stack([block.outliers.places if block.outliers else none for block in trunk]),
    }
    return Answer(figure, arrays, (*HEADER, "gives", *KINDS), [*_rows(found)], [*_lines(found)])


def _rows(found: Audit):
    for number, block in enumerate(found.blocks[: found.plan.depth]):
        these, sinks = block.outliers, block.sinks
        row = [number, 0, 0, 0, *[""] * 4]
        if these:
            numbers = (these.share, these.cut, these.ratio, these.alike)
            row = [number, these.n, these.images, *(f"{value:.6g}" for value in numbers), len(these.channels)]
        given = [""] * (4 + len(KINDS))
        if sinks:
            given = [f"{value:.6g}" for value in (sinks.share, sinks.low, sinks.high, sinks.output)]
            given += [sinks.kinds[kind] for kind in KINDS]
        yield row + given


def _lines(found: Audit):
    images = f"{found.n:,} image{'s' * (found.n > 1)}"
    if found.start is None:
        yield f"no outliers in {images}"
    else:
        yield from _kinds(found, images)
    if found.left_out:
        yield found.left_out


def _kinds(found: Audit, images: str):
    from ...figures import table

    kind = found.kind or "unknown, since no block comes after"
    yield f"outliers from block {found.start} on, in {images}; as sinks: {kind}"
    rows = []
    for number, block in enumerate(found.blocks[: found.plan.depth]):
        if block.outliers or block.sinks:
            these, sinks = block.outliers, block.sinks
            cells = [f"{these.n / found.n:.2f}", f"{these.ratio:.3g}"] if these else ["0", ""]
            rows.append([number, *cells, f"{sinks.share:.1%}" if sinks else ""])
    yield repr(table(rows, ["block", "an image", "times as long", "attention"]))
