"""An audit as pages of A4."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from ..figures.style import STYLE
from ..figures.timeline import draw_timeline
from ..probes.audited import Audit
from .audit_charts import Chart, Rows, charts, pictured, places, tables
from .audit_page import HOW

PAGE = 8.27, 11.69  # inches, A4
LEFT, RIGHT, LINE = 0.75, 7.6, 0.17
SMALL = 8.5  # points


def audit_pages(audit: Audit, name: str, images: str, notes: Sequence[str] = ()) -> dict[str, Figure]:
    """Pages of A4, by name, for `save_pages`: curves, tables, pictures; arguments as of `audit_html`."""
    with plt.rc_context(STYLE):
        pages = {"curves": _curves(audit, name, images, notes), "tables": _tables(audit)}
        return pages | ({"pictures": _pictures(audit)} if audit.pictures else {})


def _page() -> Figure:
    return Figure(figsize=PAGE, layout="none")


def _axis(figure: Figure, left: float, top: float, width: float, height: float):
    """An axis whose place is in inches from the top left corner."""
    return figure.add_axes((left / PAGE[0], 1 - (top + height) / PAGE[1], width / PAGE[0], height / PAGE[1]))


def _write(figure: Figure, top: float, text: str, size: float = SMALL, width: int = 108, **style) -> float:
    """Lines of text under `top` inches; where they end."""
    lines = textwrap.wrap(text, width)
    line = size * 1.4 / 72
    for number, words in enumerate(lines):
        figure.text(LEFT / PAGE[0], 1 - (top + line * number) / PAGE[1], words, va="top", size=size, **style)
    return top + line * len(lines)


def _curves(audit: Audit, name: str, images: str, notes: Sequence[str]) -> Figure:
    figure, config = _page(), audit.config
    top = _write(figure, 0.55, f"Audit of {name}", 15, 62, weight="bold")
    about = f"{audit.n:,} image{'s' * (audit.n > 1)}, {images}, at {config.size[0]} × {config.size[1]} pixels: "
    about += f"{config.grid[0]} × {config.grid[1]} patches. {' '.join(notes)}"
    top = _write(figure, top + 0.05, about, color="#555555")
    top = _write(figure, top + 0.15, audit.verdict, 12, 84)
    high = 0.2 * (len(config.plan.groups) + 1)
    with plt.rc_context(
        {"font.size": SMALL, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "axes.labelsize": SMALL}
    ):
        draw_timeline(_axis(figure, LEFT + 0.75, top + 0.35, RIGHT - LEFT - 0.75, high), config.plan)
    top += high + 1.05
    shown = [*charts(audit)]
    height = min(2.0, (PAGE[1] - 0.5 - top) / -(-(len(shown) + 1) // 2) - 1.15)
    for number, chart in enumerate(shown):
        _draw(figure, chart, LEFT + 0.15 + 3.6 * (number % 2), top + (height + 1.15) * (number // 2), height)
    if (image := places(audit)) is not None and (found := audit.blocks[audit.shown].outliers):
        place = LEFT + 0.15 + 3.6 * (len(shown) % 2), top + (height + 1.15) * (len(shown) // 2)
        axis = _axis(figure, *place, height * image.shape[1] / image.shape[0], height)
        axis.imshow(image)
        axis.set_axis_off()
        title = (
            f"Where outliers are after block {audit.shown}:\n0 (dark) to {found.places.max():.0%} of images (bright)"
        )
        axis.set_title(title, size=SMALL, loc="left")
    return figure


def _draw(figure: Figure, chart: Chart, left: float, top: float, height: float) -> None:
    axis = _axis(figure, left, top, 2.95, height)
    for number, (name, (blocks, values)) in enumerate(chart.curves.items()):
        line = "--" if number % 2 else "-"
        axis.plot(
            blocks, values, line, color=chart.colours[name], label=name, marker="o", markersize=2.5, linewidth=1.4
        )
    axis.set_title(chart.title, size=SMALL + 1, loc="left", weight="bold")
    axis.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axis.tick_params(labelsize=SMALL)
    axis.set_xlabel("block", size=SMALL)
    if chart.log:
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        axis.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 1e3 * low else (1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    else:
        axis.set_ylim(bottom=0)
    if chart.percent:
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    columns = 2 if len(chart.curves) > 2 else len(chart.curves)
    axis.legend(
        loc="upper left", bbox_to_anchor=(-0.12, -0.42 / height), ncols=columns, fontsize=SMALL - 1, borderpad=0
    )


def _tables(audit: Audit) -> Figure:
    figure, top = _page(), 0.55
    blocks = len(audit.blocks)
    size = min(SMALL, SMALL * 36 / (2 * blocks + 6))  # of a deep model smaller, so that they stay on the page
    for rows in tables(audit):
        top = _write(figure, top, rows.title, 12, weight="bold")
        top = _write(figure, top + 0.03, rows.note, color="#555555") + 0.08
        top = _table(figure, rows, top, size) + 0.3
    _write(figure, top, HOW, 8, 114, color="#555555")
    return figure


def _table(figure: Figure, rows: Rows, top: float, size: float) -> float:
    cells = [rows.header, *rows.rows]
    widths = [max(len(row[column]) for row in cells) + 2 for column in range(len(rows.header))]
    step = min(size / 72 * 0.6, (RIGHT - LEFT) / sum(widths))
    for number, row in enumerate(cells):
        left = LEFT
        for cell, width in zip(row, widths):
            figure.text(
                left / PAGE[0], 1 - top / PAGE[1], cell, va="top", size=size, weight="normal" if number else "bold"
            )
            left += width * step
        top += size * 1.45 / 72
    return top


def _pictures(audit: Audit) -> Figure:
    figure = _page()
    top = _write(figure, 0.55, "Pictures", 12, weight="bold") + 0.3
    tall = min(2.25 * audit.config.size[0] / audit.config.size[1], (PAGE[1] - 1.4) / len(audit.pictures) - 0.35)
    for picture in audit.pictures:
        for column, (title, image) in enumerate(pictured(audit, picture).items()):
            width = tall * image.shape[1] / image.shape[0]
            axis = _axis(figure, LEFT + 2.35 * column, top, width, tall)
            axis.imshow(image)
            axis.set_axis_off()
            axis.set_title(title, size=SMALL - 1)
        top += tall + 0.35
    return figure
