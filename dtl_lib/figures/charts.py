"""Curves as SVG, in the colours of the page that they stand on."""

import math
from collections.abc import Mapping, Sequence

from .drawing import SMALL, Drawing

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BELOW = 340, 190, 44, 8, 8, 34
ROW = 18  # of the legend


def draw_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    alt: str,
    colours: Mapping[str, str],
    log: bool = False,
    percent: bool = False,
) -> Drawing:
    """Named curves over whole numbers, such as blocks; every point is marked, the names stand below.

    Args:
        curves: name → (x values, y values); what is not finite is left out.
        x: what the horizontal axis is.
        alt: what is to be seen.
        colours: one a curve.
        log: a logarithmic vertical axis; it begins at 0 otherwise.
        percent: the values are shares.
    """
    values = [y for _, up in curves.values() for y in up if math.isfinite(y) and (y > 0 or not log)]
    ticks = _powers(min(values, default=1), max(values, default=1)) if log else _round(max(values, default=1) or 1)
    last = max((place for across, _ in curves.values() for place in across), default=1) or 1
    drawing = Drawing(TOP + HEIGHT + BELOW + ROW * len(curves), alt, WIDTH)
    height = (lambda y: math.log(y / ticks[0]) / math.log(ticks[-1] / ticks[0])) if log else lambda y: y / ticks[-1]

    def place(across: float, up: float) -> tuple[float, float]:
        return LEFT + 6 + (WIDTH - LEFT - RIGHT - 12) * across / last, TOP + HEIGHT * (1 - height(up))

    for tick in ticks:
        level = place(0, tick)[1]
        drawing.line((LEFT, level), (WIDTH - RIGHT, level), width=0.7, faint=True)
        drawing.text(LEFT - 5, level, _said(tick, percent), "end", SMALL)
    for block in range(0, int(last) + 1, -(-(int(last) + 1) // 13)):
        drawing.text(place(block, ticks[-1])[0], TOP + HEIGHT + 12, str(block), size=SMALL)
    drawing.text((LEFT + WIDTH - RIGHT) / 2, TOP + HEIGHT + 27, x, size=SMALL)
    for number, (name, (across, up)) in enumerate(curves.items()):
        points = [place(a, y) for a, y in zip(across, up) if math.isfinite(y) and (y > 0 or not log)]
        level = TOP + HEIGHT + BELOW + ROW * (number + 0.6)
        drawing.line((LEFT, level), (LEFT + 24, level), colour=colours[name], width=2.5, dashed=number % 2 == 1)
        drawing.text(LEFT + 31, level, name, "start", SMALL)
        if points:
            drawing.line(*points, colour=colours[name], width=2, dashed=number % 2 == 1)
        for point in points:
            drawing.dot(*point, colour=colours[name])
    return drawing


def _said(tick: float, percent: bool) -> str:
    return f"{100 * tick:.3g}%" if percent else f"{tick:,.0f}" if tick >= 10 else f"{tick:.3g}"


def _round(most: float) -> list[float]:
    """Three to six ticks from 0 to what is not below the largest value."""
    step = 10.0 ** math.floor(math.log10(most))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if most <= 5 * step * part)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Ticks at 1, 2, 5 times powers of ten, or at powers alone where there are many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1, 2, 5), (1,)):
        ticks = [part * 10.0**exponent for exponent in exponents for part in parts]
        first = max((number for number, tick in enumerate(ticks) if tick <= low), default=0)
        last = next((number for number, tick in enumerate(ticks) if tick >= high), len(ticks) - 1)
        ticks = ticks[first : max(last, first + 1) + 1]
        if len(ticks) <= 8:
            break
    return ticks
