"""What GPUs have said so far, from the ledger, for chapters that are built without one."""

from pathlib import Path

from .. import ledger
from ..figures.tables import Table, table

NO_GPU = "no GPU was at hand: `python -m book.experiments.gpu` measures this on one"


def gpu_report(experiment: str, *names: str, only: str = "", folder: str | Path | None = None) -> Table:
    """What the records of GPUs say, a row each; `NO_GPU` alone where there are none.

    Args:
        experiment: its name.
        names: of the values to show; a record without one leaves its column empty.
        only: words that a record's `what` holds.
        folder: as in `read`.
    """
    found = [record for record in ledger.read(experiment, folder, missing_ok=True, on="gpu") if only in record.what]
    if not found:
        return table([], [], NO_GPU)
    rows = [
        [record.what + f", seed {record.seed}" * (record.seed is not None)]
        + [_shown(record.values.get(name)) for name in names]
        for record in found
    ]
    devices = ", ".join(dict.fromkeys(record.device for record in found))
    return table(rows, ["what", *names], f"on {devices}; {found[-1].command}")


def _shown(value) -> str:
    """Three digits; of a list of three a value with its interval."""
    if isinstance(value, list):
        return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]" if len(value) == 3 else f"{len(value)} numbers"
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
