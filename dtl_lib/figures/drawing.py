"""Drawings of boxes and arrows, as SVG: text takes the page's colour, so that they are right in light and dark.

A drawing that is shown alone, as an image, has no page to take it from, and has a ground of its own.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

FONT = "system-ui, sans-serif"
CODE = "ui-monospace, monospace"
TEXT = 14  # units; a drawing is at most WIDTH of them wide, so that its text can be read on a telephone
SMALL = 12
WIDTH = 440
# Shown as an image, as in JupyterLab, a drawing does not get the page's colour: it has white paper of its own then.
ALONE = "<style>svg:root{background:#fff;color:#1b1f24}</style>"


class Drawing:
    """An SVG drawing that a notebook shows; `str(drawing)` is its source.

    Coordinates are in units of the view box, from the top left corner. `alt` says in words what is to be seen.
    """

    def __init__(self, height: float, alt: str, width: float = WIDTH):
        if width > WIDTH:
            raise ValueError(
                f"a drawing is at most {WIDTH} units wide, not {width:g}: wider ones cannot be read at 360 px"
            )
        self.width, self.height, self.alt = width, height, alt
        self._parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, label: str = "", colour: str = "", dashed: bool = False
    ) -> None:
        """A rectangle with a label in its middle: outlined, or filled with a colour that white text stands out from."""
        fill, ink = (colour, "white") if colour else ("none", "currentColor")
        line = ' stroke-dasharray="4 3"' if dashed else ""
        stroke = colour or "currentColor"
        self._add(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" '
            f'fill="{fill}" stroke="{stroke}"{line}/>'
        )
        if label:
            self.text(x + width / 2, y + height / 2, label, ink=ink)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        anchor: str = "middle",
        size: float = TEXT,
        ink: str = "currentColor",
        code: bool = False,
    ) -> None:
        """A line of text whose middle is at the height `y`; `anchor` is start, middle or end."""
        self._add(
            f'<text x="{x:g}" y="{y:g}" dy=".35em" text-anchor="{anchor}" font-size="{size:g}" fill="{ink}" '
            f'font-family="{CODE if code else FONT}">{escape(words)}</text>'
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False, colour: str = "currentColor") -> None:
        """A line through the points, with a head at the last one."""
        (x0, y0), (x1, y1) = points[-2:]
        length = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1e-9)
        dx, dy = (x1 - x0) / length * 7, (y1 - y0) / length * 7
        base = (x1 - dx, y1 - dy)
        self.line(*points[:-1], base, dashed=dashed, colour=colour)
        head = [(x1, y1), (base[0] - dy / 2, base[1] + dx / 2), (base[0] + dy / 2, base[1] - dx / 2)]
        self._add(f'<polygon points="{_points(head)}" fill="{colour}"/>')

    def line(
        self,
        *points: tuple[float, float],
        dashed: bool = False,
        colour: str = "currentColor",
        width: float = 1.5,
        faint: bool = False,
    ) -> None:
        """A line through the points; a faint one lets others show through."""
        style = (' stroke-dasharray="4 3"' if dashed else "") + (' stroke-opacity="0.45"' if faint else "")
        self._add(
            f'<polyline points="{_points(points)}" fill="none" stroke="{colour}" stroke-width="{width:g}"{style}/>'
        )

    def dot(self, x: float, y: float, colour: str = "currentColor", radius: float = 2.5) -> None:
        """A filled circle."""
        self._add(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{colour}"/>')

    def sign(self, x: float, y: float, mark: str = "+") -> None:
        """An operation in a circle."""
        self._add(f'<circle cx="{x:g}" cy="{y:g}" r="10" fill="none" stroke="currentColor" stroke-width="1.5"/>')
        self.text(x, y, mark)

    def save(self, path) -> None:
        """Write the drawing as an SVG file."""
        Path(path).write_text(str(self), "utf8")

    def __str__(self) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'width="{self.width:g}" height="{self.height:g}" role="img" aria-label="{escape(self.alt)}" '
            f'data-drawing="dtl">{ALONE}{"".join(self._parts)}</svg>'
        )

    def _repr_svg_(self) -> str:
        return str(self)

    def _add(self, part: str) -> None:
        self._parts.append(part)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
