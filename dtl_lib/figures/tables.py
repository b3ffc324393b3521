"""Rows of numbers and words as a table: HTML on a page, columns of text elsewhere."""

import re
from collections.abc import Iterable, Sequence
from html import escape

NUMBER = re.compile(r"(< )?[+−-]?[\d.,]+(e[+-]?\d+)?[^a-zA-Z]*")  # with a unit sign, ± or interval, and no words
SIGN = re.compile(r"(?<![\w.)\]])-(?=\.?\d)")  # before a number, and neither in a word nor in a range
ZERO = re.compile(r"(?<![\w.)\]])-(?=0?\.?0+(?![\d.e]))")
EXPONENT = re.compile(r"(?<=\de)([+-]?)0+(?=\d)")
CELL = "padding: 0.15em 0.4em; white-space: {space}; text-align: {side}; vertical-align: top"


class Table:
    """What `table` returns: a notebook shows it as HTML, `print` as text; `str` of it is the text."""

    def __init__(self, rows: Iterable[Sequence], header: Sequence[str], note: str = ""):
        self.header, self.note = tuple(map(str, header)), note
        self.rows = [tuple(map(str, row)) for row in rows]
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row has {len(row)} cells, and the header {len(self.header)}: {row}")
        columns = zip(*self.rows) if self.rows else [()] * len(self.header)
        self._right = [any(column) and all(not cell or NUMBER.fullmatch(cell) for cell in column) for column in columns]

    def __repr__(self) -> str:
        every = [self.header, *self.rows] if self.header else []
        widths = [max(map(len, column)) for column in zip(*every)]
        lines = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, self._right)
            ).rstrip()
            for row in every
        ]
        return "\n".join([*lines, *[self.note] * bool(self.note)])

    def _repr_html_(self) -> str:
        head = "".join(self._cell("th", name, right) for name, right in zip(self.header, self._right))
        body = "".join(
            f"<tr>{''.join(self._cell('td', cell, right) for cell, right in zip(row, self._right))}</tr>"
            for row in self.rows
        )
        shown = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>" if self.header else ""
        table = f'<table class="dtl-table" style="font-size: 0.85em; max-width: 100%">{shown}</table>' if shown else ""
        return table + (f'<p style="font-size: 0.85em">{escape(self.note)}</p>' if self.note else "")

    @staticmethod
    def _cell(tag: str, text: str, right: bool) -> str:
        """Words wrap, numbers do not: the last column stays in sight on a telephone."""
        space = "nowrap" if right and tag == "td" else "normal"
        style = CELL.format(space=space, side="right" if right else "left")
        scope = ' scope="col"' if tag == "th" else ""
        return f'<{tag}{scope} style="{style}">{escape(typeset(text))}</{tag}>'


def typeset(text: str) -> str:
    """Numbers in a text as a page shows them: a minus and no hyphen, no sign before 0.00, and 1e-5 for 1e-05."""
    return EXPONENT.sub(r"\1", SIGN.sub("−", ZERO.sub("", text)))


def table(rows: Iterable[Sequence], header: Sequence[str], note: str = "") -> Table:
    """A table with a header, for the last line of a notebook's cell.

    Columns of numbers are set to the right and never wrap; columns of words wrap. On a page, numbers are typeset: −0.5.

    Args:
        rows: one sequence of cells a row, shown by `str`: format numbers yourself.
        header: the names of the columns.
        note: a line below, such as the device and the command.

    Raises:
        ValueError: where a row has more or fewer cells than the header.
    """
    return Table(rows, header, note)
