"""What `dtl probe` writes: a figure, its numbers, and a table."""

from __future__ import annotations

import csv
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...atomic import replace
from ...checks import one_line
from ...paths import require_writable, user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
ODD = re.compile(r"[^\w.+-]+")
LETTER = 120  # points of a line's letters fit side by side into an inch
SMALL, LARGE = 7, 9  # points of a heading
MARGIN = 0.08  # inches around a figure
SAID = 3  # files, and images, of which something is said one by one


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        figure: to look at.
        arrays: numbers by name, for an NPZ file.
        header, rows: of a table, for a CSV file; without rows there is none.
        lines: for the terminal.
    """

    figure: Figure
    arrays: dict
    header: Sequence[str] = ()
    rows: Sequence[Sequence] = ()
    lines: Sequence[str] = field(default=())


class Files:
    """The files of one run, all in one folder; nothing that is there is overwritten without `--force`.

    Args:
        args: with `output_dir`, `format`, `force` and `question`.
        names: of the answers to come, without the question.
        table: whether they have tables.

    Raises:
        ValueError: where a file is in the way, or cannot be written: before any work is done.
    """

    def __init__(self, args: Namespace, names: Iterable[str], table: bool):
        self.folder, self.question, self.format = user_path(args.output_dir), args.question, args.format
        self.table, self.force, self.written = table, args.force, []
        self.model = model_called(args), model_called(args, "\n")
        paths = [path for name in names for path in self._paths(name)]
        there = [path for path in paths if path.exists() or path.is_symlink()]
        if there and not args.force:
            others = len(there) - 1
            which = f"{there[0]} and {others} more file{'s' * (others > 1)} are" if others else f"{there[0]} is"
            them = "them" if others else "it"
            raise ValueError(f"{which} there already: --force replaces {them}, --output-dir DIR writes elsewhere")
        require_writable(paths[0], "an answer")

    def save(self, name: str, answer: Answer) -> None:
        """Write the files of one answer, each whole or not at all."""
        import numpy as np

        from ...figures.pages import without_middle
        from ...figures.style import LINE
        from ...outputs.pages import DPI

        figure, numbers, *table = self._paths(name)
        name, title = self.model
        drawn = answer.figure
        room = LETTER * drawn.get_figwidth()
        most = int(room / SMALL)
        lines = [line if len(line) <= most else without_middle(line, most - 1) for line in title.split("\n")]
        drawn.set_figheight(drawn.get_figheight() + LINE * len(lines))
        size = min(LARGE, room / max(map(len, lines)))
        drawn.suptitle("\n".join(lines), fontsize=size, parse_math=False)
        how = {"format": self.format, "dpi": DPI, "bbox_inches": "tight", "pad_inches": MARGIN}
        replace(figure, lambda path: drawn.savefig(path, **how), force=self.force)
        replace(numbers, lambda path: np.savez_compressed(path, **answer.arrays, model=name), force=self.force)
        for path in table:
            replace(path, lambda path: _write_table(path, answer), force=self.force)
        self.written += [figure, numbers, *table]

    def lines(self) -> Iterator[str]:
        """What was written, for the terminal."""
        for path in self.written[:SAID]:
            yield f"written: {path}"
        if len(self.written) > SAID:
            more = len(self.written) - SAID
            yield f"and {more:,} more file{'s' * (more > 1)} in {self.folder}"

    def _paths(self, name: str) -> list[Path]:
        stem = f"{self.question}_{ODD.sub('_', name)}"
        endings = (self.format, "npz", "csv") if self.table else (self.format, "npz")
        return [self.folder / f"{stem}.{ending}" for ending in endings]


def model_name(model: str) -> str:
    """What a model is called in the name of a file: without its folder and ending; `model` may be its weights' file."""
    path = Path(model)
    return path.stem if path.suffix in (".safetensors", ".pth", ".pt") else path.name


def model_called(args: Namespace, between: str = ", ") -> str:
    """A model as figures and numbers name it: what was asked for, and whose weights it has where a file says."""
    from ...data.images import plain_name

    if path := getattr(args, "model_path", None) or (args.model if Path(args.model).is_file() else None):
        names = [Path(path).name]
    else:
        weights = getattr(args, "weights", None)
        names = [args.model, f"weights: {Path(weights).name}"] if weights else [args.model]
    return between.join(one_line(plain_name(name)) for name in names)


def _write_table(path: Path, answer: Answer) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([answer.header, *answer.rows])
