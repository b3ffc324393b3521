"""Records that travel: another machine gives back one folder, and knows of the ledger what came with the project."""

from pathlib import Path

from dtl_lib import ledger
from dtl_lib.host import device_name
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import followup

from .. import atlas_followup, one_gpu
from . import beside, correctness, sizes, times, training

EXPERIMENTS = (
    correctness.EXPERIMENT, times.EXPERIMENT, one_gpu.SPEED, one_gpu.STEPS, training.EXPERIMENT,
    atlas.grids()["gpu"].experiment, beside.EXPERIMENT, *(grid.experiment for grid in followup.large().values()),
    *(study.experiment for study in atlas_followup.on_a_gpu()), *(made("gpu").experiment for made in sizes.STUDIES),
)  # fmt: skip


def bring(folder: str, device: str) -> int:
    """Put what the ledger has of a device into a folder, so that it is not measured again; how many records."""
    return _carry(None, folder, lambda record: record.device == device_name(device))


def take(folder: str) -> int:
    """Put what a folder has into the ledger; how many records were new.

    Raises:
        ValueError: where there is no such folder, or one of its lines is no record: nothing is taken then.
    """
    if not any((Path(folder) / f"{name}.jsonl").is_file() for name in EXPERIMENTS):
        raise ValueError(f"--take {folder}: no records of {', '.join(EXPERIMENTS)} are there")
    return _carry(folder, None, lambda record: True)


def _carry(source: str | None, target: str | None, wanted) -> int:
    read = {name: ledger.read(name, source, missing_ok=True) for name in EXPERIMENTS}
    there = {record.id for name in EXPERIMENTS for record in ledger.read(name, target, missing_ok=True)}
    new = [record for records in read.values() for record in records if wanted(record) and record.id not in there]
    for record in new:
        ledger.append(record, target)
    return len(new)
