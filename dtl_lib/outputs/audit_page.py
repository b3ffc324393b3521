"""An audit as one page of HTML, which needs nothing beside it, and as pages for a PDF."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from ..figures import draw_curves
from ..figures.drawing import SMALL, Drawing
from ..figures.style import token_colours
from ..probes.audited import Audit
from ..tokens import PATCHES, Group, TokenPlan
from .audit_charts import Chart, Rows, charts, pictured, places, tables

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #59626e; --line: #d5dae0; --card: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --ink: #e8ebee; --soft: #a3adb8; --line: #363d46; --card: #1d2127; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 10px 48px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 36px 0 10px; }
h3 { font-size: 1rem; margin: 0 0 8px; }
p { margin: 0 0 8px; max-width: 76ch; }
.verdict { font-size: 1.2rem; line-height: 1.45; margin: 16px 0; padding-left: 14px; border-left: 4px solid #D55E00; }
.soft, figcaption { color: var(--soft); font-size: 0.875rem; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
.card { margin: 0; padding: 12px 10px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.facts { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin: 0; }
.facts div { padding: 10px 12px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.facts dt { color: var(--soft); font-size: 0.875rem; }
.facts dd { margin: 0; font-size: 1.3rem; font-weight: 600; }
svg { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
caption { text-align: left; color: var(--soft); font-size: 0.875rem; padding-bottom: 6px; }
.row { max-width: 900px; display: grid; gap: 10px; grid-template-columns: repeat(3, minmax(0, 1fr)); margin: 0 0 14px; }
.row figure { margin: 0; }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: 4px; }
.map { max-width: 300px; }
.plan { max-width: 400px; }
@media (max-width: 560px) { .row { gap: 5px; } .row figcaption { font-size: 0.75rem; line-height: 1.3; } }
@media print { .card, .row { break-inside: avoid; } }
"""
HOW = (
    "Outliers are found without a threshold: a second mode of the patches' log-lengths, more than twice as long, "
    "and not told by what the input shows: where the most similar patch at the input is long as well, long patches "
    "are left out, which can be wrong where images resemble each other. A sink is a no-op where what it gives back, "
    "per unit of attention, is less than half as long as a normal patch's; it broadcasts where it is longer and the "
    "same in all images. Shares of attention are means over heads and images; intervals are over images. The "
    "effective rank is the exponential of the entropy of the singular values' shares. What is not listed was not "
    "measured; another set of images may differ."
)


def audit_html(audit: Audit, name: str, images: str, notes: Sequence[str] = ()) -> str:
    """One page of HTML, with all that it shows inside.

    Args:
        audit: from `probes.audit`.
        name: of the model.
        images: where they are from, such as `the photos of holiday/`.
        notes: what else is to be said of them, such as which could not be read.
    """
    config = audit.config
    about = f"{audit.n:,} image{'s' * (audit.n > 1)}, {images}, at {config.size[0]} × {config.size[1]} pixels: "
    about += f"{config.grid[0]} × {config.grid[1]} patches of {config.patch_size}. {config.depth} blocks, "
    about += f"{config.dim} channels, {config.heads} heads."
    parts = [
        f"<h1>Audit of {escape(name)}</h1>",
        *(f'<p class="soft">{escape(line)}</p>' for line in (about, *notes)),
        f'<p class="verdict">{escape(audit.verdict)}</p>',
        _facts(audit),
        "<h2>Token plan</h2>",
        f'<figure class="card plan">{_timeline(audit.plan)}<figcaption>Which tokens are in the sequence in each block.'
        "</figcaption></figure>",
        "<h2>Block by block</h2>",
        f'<div class="grid">{"".join(map(_chart, charts(audit)))}{_places(audit)}</div>',
        *(_table(rows) for rows in tables(audit)),
        _pictures(audit),
        f'<h2>How this was measured</h2><p class="soft">{escape(HOW)}</p>',
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    title = f"<title>Audit of {escape(name)}</title><style>{STYLE}</style>"
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}{title}</head>\n<body><main>\n{body}\n</main></body></html>\n'


def _facts(audit: Audit) -> str:
    cards = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts(audit))
    return f'<dl class="facts">{"".join(cards)}</dl>'


def facts(audit: Audit) -> list[tuple[str, str]]:
    """The numbers that matter, in a few words each."""
    cost = next((one for one in audit.costs if one.registers == 4), None)
    found = [("images", f"{audit.n:,}"), ("outliers", "none")]
    if audit.start is not None and (outliers := audit.blocks[audit.shown].outliers):
        found = [("images", f"{audit.n:,}"), ("outliers from block", f"{audit.start}")]
        found.append((f"outliers an image, after block {audit.shown}", f"{outliers.n / audit.n:.2g}"))
        found.append((f"times as long, after block {audit.shown}", f"{outliers.ratio:.2g}"))
    if audit.strongest is not None and (sinks := audit.blocks[audit.strongest].sinks):
        found += [("of the attention, at most", f"{sinks.share:.0%}"), ("type", audit.kind or "")]
    return found + ([("cost of four registers", f"+{cost.multiply_adds:.1%}")] if cost else [])


def _timeline(plan: TokenPlan) -> Drawing:
    """A bar for each group of tokens, from the block it enters to the one it leaves."""
    groups, left, width = [*plan.groups, Group(PATCHES, 1)], 78, 340
    said = [f"{group.name} ×{group.tokens}" for group in plan.groups] + [PATCHES]
    spans = [(group.enter, plan.blocks if group.leave is None else group.leave) for group in groups]
    alt = "; ".join(f"{name} in blocks {start} to {end - 1}" for name, (start, end) in zip(said, spans))
    drawing = Drawing(26 * len(groups) + 38, f"Token plan: {alt}", width)
    step = (width - left - 6) / plan.blocks
    for row, (name, (start, end)) in enumerate(zip(said, spans)):
        colour = token_colours(group.name for group in groups)[groups[row].name]
        drawing.text(left - 8, 26 * row + 13, name, "end", SMALL)
        drawing.box(left + step * start, 26 * row + 4, step * (end - start), 18, colour=colour)
    for block in range(0, plan.blocks, -(-plan.blocks // 16)):
        drawing.text(left + step * (block + 0.5), 26 * len(groups) + 12, str(block), size=SMALL)
    drawing.text(left + (width - left) / 2, 26 * len(groups) + 30, "block", size=SMALL)
    if plan.class_blocks:
        drawing.line((left + step * plan.depth, 0), (left + step * plan.depth, 26 * len(groups) + 4), dashed=True)
        drawing.text(left - 8, 26 * len(groups) + 30, f"class attention from {plan.depth}", "end", SMALL)
    return drawing


def _chart(chart: Chart) -> str:
    alt = f"{chart.title} by block. {chart.note}"
    drawing = draw_curves(chart.curves, "block", alt, chart.colours, chart.log, chart.percent)
    said = f"<figcaption>{escape(chart.note)}</figcaption>"
    return f'<figure class="card"><h3>{escape(chart.title)}</h3>{drawing}{said}</figure>'


def _places(audit: Audit) -> str:
    image, found = places(audit), audit.blocks[audit.shown].outliers
    if image is None or found is None:
        return ""
    said = f"After block {audit.shown}: the share of images in which a patch is an outlier, from 0 (dark) to "
    said += f"{found.places.max():.0%} (bright)."
    return (
        f'<figure class="card"><h3>Where outliers are</h3>{_image(image, said, "map")}'
        f"<figcaption>{escape(said)}</figcaption></figure>"
    )


def _table(rows: Rows) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows.header)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows.rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    shown = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(rows.title)}">{table}</div>'
    return f'<h2>{escape(rows.title)}</h2><p class="soft">{escape(rows.note)}</p>{shown}'


def _pictures(audit: Audit) -> str:
    shown = []
    for number, picture in enumerate(audit.pictures):
        panels = (
            f"<figure>{_image(image, f'Image {number + 1}: {title}')}<figcaption>{escape(title)}</figcaption></figure>"
            for title, image in pictured(audit, picture).items()
        )
        shown.append(f'<div class="row">{"".join(panels)}</div>')
    first = f"The first {len(shown)} images: outliers framed" if len(shown) > 1 else "The first image: outliers framed"
    about = f"{first}, the length of each patch, and what is read in the last block, whose map begins at 0."
    return f'<h2>Pictures</h2><p class="soft">{about}</p>{"".join(shown)}' if shown else ""


def _image(pixels: np.ndarray, alt: str, kind: str = "") -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    data, kind = base64.b64encode(file.getvalue()).decode(), f' class="{kind}"' if kind else ""
    height, width = pixels.shape[:2]
    return f'<img{kind} alt="{escape(alt)}" width="{width}" height="{height}" src="data:image/png;base64,{data}">'
