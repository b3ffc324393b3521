"""One JSON row a line: where a run stands, with everything needed to know what it was."""

import json
from collections.abc import Mapping
from pathlib import Path

from .. import checkpoint

NAME = "log.jsonl"


class Log:
    """Rows in memory, and where there is a folder in `log.jsonl` (and in TensorBoard's file when asked).

    Args:
        folder: of the run; None keeps rows in memory alone.
        about: plan, recipe, seed, library version, …: every row in the file carries them.
        step: rows of the file after this step belong to steps that a killed run has lost, and are dropped.
        tensorboard: whether curves are written as well.
    """

    def __init__(self, folder: Path | None, about: Mapping, step: int = 0, tensorboard: bool = False):
        self.about = dict(about)
        self.path = None if folder is None else folder / NAME
        self.rows = self._before(step) if self.path else []
        self._curves = self._open_curves(folder, step) if tensorboard else None

    def write(self, row: Mapping) -> None:
        """Add one row; its numbers become curves. A ValueError where the file cannot be written."""
        self.rows.append(dict(row))
        if self.path:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(json.dumps({**row, **self.about}, ensure_ascii=False) + "\n")
            except OSError as error:
                raise ValueError(
                    f"{self.path} could not be written ({error.strerror}): make room, and go on with "
                    f"--resume {self.path.parent}"
                ) from None
        if self._curves:
            for name, value in row.items():
                for part, number in value.items() if isinstance(value, Mapping) else ((None, value),):
                    if isinstance(number, int | float):
                        self._curves.add_scalar(name if part is None else f"{name}/{part}", number, row["step"])

    def close(self) -> None:
        """Flush what TensorBoard holds back."""
        if self._curves:
            self._curves.close()

    def _before(self, step: int) -> list[dict]:
        """The rows up to `step` that the file holds; the file is cut to them. A ValueError where it is damaged."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path} is damaged (byte {error.start} is no UTF-8): repair it, or move it away and go on without"
            ) from None
        kept = [(line, row) for line in lines if (row := _parsed(line)) and row["step"] <= step and step]
        if lines:
            checkpoint.replace(self.path, lambda file: file.write_text("".join(f"{line}\n" for line, _ in kept)))
        return [{name: value for name, value in row.items() if name not in self.about} for _, row in kept]

    @staticmethod
    def _open_curves(folder: Path | None, step: int):
        if folder is None:
            raise ValueError("tensorboard writes files: give an output_dir")
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=step or None)


def _parsed(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:  # the line a killed process was writing
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
