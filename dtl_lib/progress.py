"""The progress of long work: a bar on a terminal or in a notebook, a line a minute in a log."""

import sys

from tqdm.asyncio import tqdm as text_bar
from tqdm.auto import tqdm

LOG_INTERVAL = 60.0  # seconds


def progress_bar(total: int, unit: str, *, shown: bool = True, **options) -> tqdm:
    """A tqdm bar that is redrawn in place, or, where standard error is a file or a pipe, written as lines.

    There work shorter than `LOG_INTERVAL` leaves no line. An update, of zero too, redraws whatever is due: call no
    `refresh`, which would write a line at once.

    Args:
        total: the count at which the work is done, in `unit`s.
        shown: whether anything is shown at all.
        options: tqdm's own.
    """
    options = {"total": total, "unit": unit, "unit_scale": True, "disable": not shown, "miniters": 0} | options
    if tqdm is text_bar and not sys.stderr.isatty():
        pace = dict.fromkeys(("mininterval", "maxinterval", "delay"), LOG_INTERVAL)
        return tqdm(file=_Lines(), position=0, **options, **pace)
    if hasattr(sys.stderr, "unfiltered"):  # a command's; a bar steers the terminal
        options["file"] = sys.stderr.unfiltered
    return tqdm(dynamic_ncols=True, **options)


class _Lines:
    """Standard error, on which a bar that tqdm draws over the last one is a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
