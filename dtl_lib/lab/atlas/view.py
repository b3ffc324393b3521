"""The interactive view of the location atlas: records and maps → a plain state, the state → one HTML fragment."""

import base64
import html
import io
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image

from ...config import ViTConfig
from ...data.photos import PHOTOS, centre, photo
from ...ledger import Record
from ...tokens import PATCHES, TokenPlan
from . import Cell, Grid
from .analysis import number, surface
from .maps import Maps
from .strata import Strata, crossed, strata

HERE = Path(__file__).parent
LEVELS = 255
TOP = 0.99  # quantile of all shares at which the maps’ colours end: a few patches would darken all others
GROUPS = {"cls": "class token", "dist": "distillation token", "reg": "registers", PATCHES: "patches"}
LAST = "of the class token’s attention in the last block"
RATIO = "of the patch tokens’ lengths after the last block: 98th percentile over median"


@dataclass(frozen=True)
class Measure:
    """A value of every cell, and how to write it.

    Attributes:
        name: what is measured.
        values: by cell; a cell may be left out.
        unit: as it is written after the number.
        digits: after the decimal point.
        half: half of the 95 % interval of a cell's mean against the mean of all; None where nothing varies.
        apart: the same of the difference of two cells of one row, of one column, and of neither; None where unknown.
        says: one line more.
        standard: the standard plan's value, where the ratio to it is of interest.
        runs: each seed's value, by cell.
    """

    name: str
    values: Mapping[Cell, float]
    unit: str = ""
    digits: int = 2
    half: float | None = None
    apart: tuple[float | None, ...] | None = None
    says: str = ""
    standard: float | None = None
    runs: Mapping[Cell, list[float]] | None = None


@dataclass(frozen=True)
class Html:
    """A fragment that a notebook displays."""

    text: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.text


def state(
    grid: Grid, records: Mapping[tuple[Cell, int], Record], maps: Maps | None = None, extra: Iterable[Measure] = ()
) -> dict:
    """What the view shows, as plain values for JSON.

    Args:
        grid: whose surface it is.
        records: by cell and seed, as `dtl_lib.lab.atlas.read` gives them; those of no cell of the surface are left out.
        maps: what each cell's class token looks at.
        extra: measures that are not in the records, such as step time.

    Raises:
        ValueError: where a cell or one of its seeds has no record.
    """
    cells = grid.cells()
    ours = {(cell, seed): record for (cell, seed), record in records.items() if cell in cells}
    if empty := [cell for cell in cells if cell not in {cell for cell, _ in ours}]:
        raise ValueError(f"{len(empty)} cells have no record, such as {empty[0]}: run dtl atlas run first")
    measures = [*_measured(grid, ours), *extra]
    number = f"{grid.num_reg} register{'s' * (grid.num_reg > 1)}"
    return {
        "rows": {"title": "class token from block", "names": [str(cls) for cls in grid.cls]},
        "columns": {
            "title": f"{number} from block",
            "names": ["none" if reg is None else str(reg) for reg in grid.reg],
        },
        "seeds": sorted({seed for _, seed in ours}),
        "measures": [_plain(measure, cells) for measure in measures],
        "cells": [{"name": str(cell), **_timeline(cell.config(grid.config))} for cell in cells],
        "start": cells.index(Cell(0)) if Cell(0) in cells else 0,
        "maps": _packed(maps, cells, grid.config) if maps else None,
    }


def view(state: Mapping) -> Html:
    """The state as one fragment: style, script, values and a plain table for readers without JavaScript."""
    name = f"dtl-atlas-{uuid.uuid4().hex[:8]}"
    values = json.dumps(state, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = "\n".join((HERE / name).read_text("utf8") for name in ("view_parts.js", "view.js"))
    # A copied output has the same id: the script starts every fragment that has not been started.
    start = f"document.querySelectorAll('[id=\"{name}\"]:not([data-ready])').forEach(start);"
    return Html(
        f'<div class="dtl-atlas" id="{name}">\n<style>\n{(HERE / "view.css").read_text("utf8")}</style>\n'
        f'<div class="dtl-atlas-plain">\n{_table(state)}\n</div>\n'
        f'<script type="application/json">{values}</script>\n'
        f"<script>\n(() => {{\n{script}\n{start}\n}})();\n</script>\n</div>"
    )


def _measured(grid: Grid, records: Mapping[tuple[Cell, int], Record]) -> list[Measure]:
    """The measures that the records hold; multiply–adds are the same in every run of a cell."""
    standard = grid.config.with_plan(TokenPlan.of(grid.config.depth)).cost().total / 1e6
    measures = [
        _measure(records, "accuracy", "accuracy", "%", 1, 100, "of the test images"),
        _measure(records, "multiply_adds", "multiply–adds", "M", 2 if standard < 100 else 0, 1e-6, "of one image"),
        _measure(records, "entropy", "entropy", "nats", 2, 1, f"{LAST}: high where it looks everywhere"),
        _measure(records, "on_registers", "share on registers", "%", 1, 100, LAST),
        _measure(records, "norm_ratio", "norm ratio", "", 2, 1, RATIO),
    ]
    return [replace(measure, standard=standard if measure.unit == "M" else None) for measure in measures if measure]


def _measure(records, value: str, name: str, unit: str, digits: int, scale: float, says: str) -> Measure | None:
    """One value over the cells that have it; None where fewer than two do."""
    having = {key: record for key, record in records.items() if number(record, value) is not None}
    cells = list(dict.fromkeys(cell for cell, _ in having))
    if len(cells) < 2:
        return None
    level = (strata if crossed(cells) else surface)(having, value, scale)
    runs = {cell: [scale * number(having[cell, seed], value) for seed in level.seeds] for cell in cells}
    if all(min(values) == max(values) for values in runs.values()):
        return Measure(name, level.mean, unit, digits, says=says, runs=runs)
    apart = _apart(level) if isinstance(level, Strata) else None
    return Measure(name, level.mean, unit, digits, level.half, apart, says, runs=runs)


def _apart(level: Strata) -> tuple[float | None, ...]:
    """Half of the interval of the difference of two cells: of one row, of one column, of neither; as `Measure` has."""
    first, places = level.rows[0][0], ((0, 1), (1, 0), (1, 1))
    tall, wide = len(level.rows), len(level.rows[0])
    others = [level.rows[row][at] if row < tall and at < wide else None for row, at in places]
    return tuple(other and level.estimate({first: 1, other: -1}).half for other in others)


def _plain(measure: Measure, cells: list[Cell]) -> dict:
    def rounded(value):
        return None if value is None else round(value, measure.digits + 2)

    return {
        "name": measure.name,
        "unit": measure.unit,
        "digits": measure.digits,
        "half": rounded(measure.half),
        "apart": measure.apart and [rounded(half) for half in measure.apart],
        "says": measure.says,
        "standard": rounded(measure.standard),
        "values": [rounded(measure.values.get(cell)) for cell in cells],
        "runs": measure.runs and [[rounded(run) for run in measure.runs.get(cell, ())] for cell in cells],
    }


def _timeline(config: ViTConfig) -> dict:
    """Who is in the sequence: `[name, tokens, enter, leave]` a group, registers and class token first."""
    plan = config.plan
    rows, columns = config.grid
    present = [[group.name, group.tokens, group.enter, group.leave or plan.blocks] for group in plan.groups]
    absent = [[name, 0, 0, 0] for name in ("cls", "reg") if plan.group(name) is None]
    groups = sorted([*present, *absent], key=lambda group: list(GROUPS).index(group[0]))
    groups = [[GROUPS[name], *rest] for name, *rest in [*groups, [PATCHES, rows * columns, 0, plan.blocks]]]
    return {"depth": plan.depth, "class_blocks": plan.class_blocks, "groups": groups}


def _packed(maps: Maps, cells: list[Cell], config: ViTConfig) -> dict:
    """Roots of shares as uint8 in base64, 255 for the scale's top, one for all cells; null where there is no map."""
    by_cell = [maps.by_cell.get(cell) for cell in cells]
    present = [cell_maps for cell_maps in by_cell if cell_maps is not None]
    if not present:
        raise ValueError("the maps are of no cell of this grid: make them from its weights")
    top = torch.cat([cell_maps.flatten() for cell_maps in present]).quantile(TOP).item()
    _, heads, rows, columns = present[0].shape

    def text(cell_maps):
        codes = (LEVELS * (cell_maps / top).clamp(0, 1).sqrt()).round().byte()
        return base64.b64encode(codes.numpy().tobytes()).decode()

    return {
        "photos": [{"name": PHOTOS[name].shows, "uri": _picture(name, config)} for name in maps.photos],
        "heads": heads,
        "rows": rows,
        "columns": columns,
        "top": round(top, 4),
        "seed": maps.seed,
        "of": [None if cell_maps is None else text(cell_maps) for cell_maps in by_cell],
    }


def _picture(name: str, config: ViTConfig) -> str:
    """A bundled photo as the model sees it, as a data URI."""
    pixels = centre(photo(name), config.image_size, config.crop, config.interpolation).permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _table(state: Mapping) -> str:
    """The first measure as a table without script."""
    measure, rows, columns = state["measures"][0], state["rows"], state["columns"]
    digits, width = measure["digits"], len(columns["names"])

    def line(scope: str, name: str, values: Iterable[str], tag: str = "td") -> str:
        rest = "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)
        return f'<tr><th scope="{scope}">{html.escape(name)}</th>{rest}</tr>'

    half = "" if measure["half"] is None else f" ± {measure['half']:.{digits}f}"
    caption = f"{measure['name']}{half} {measure['unit']}: {rows['title']} (rows), {columns['title']} (columns)"
    shown = ["–" if value is None else f"{value:.{digits}f}" for value in measure["values"]]
    body = [line("row", name, shown[at * width : (at + 1) * width]) for at, name in enumerate(rows["names"])]
    head = line("col", "", columns["names"], "th")
    return f"<table><caption>{html.escape(caption)}</caption>\n{head}\n{''.join(body)}\n</table>"
