"""One small run, and what another has to come to for being the same run."""

import json
from pathlib import Path

import pytest
import torch

from dtl_lib import checkpoint
from tests.processes import launch, several

TRAIN = (
    "--data shapes --samples 640 --image-size 16 --dim 16 --depth 2 --heads 2 --num-reg 1 --reg-pos 1 --max-steps 60 "
    "--batch-size 24 --accumulate 2 --crop 1 --flip --mixup 0.3 --ema 0.9 --eval-every 25 --log-every 7 "
    "--checkpoint-every 10 --device cpu"
)
NEAR = 1e-3  # of every tensor of the state, after 60 steps: sums are added in another order
FILES = ("state.safetensors", "best.safetensors")
ROWS = [7, 14, 21, 25, 28, 35, 42, 49, 50, 56, 60]


def runs(processes: int, path, *lines: str) -> tuple[str, str]:
    """What `several` prints when it has run these lines."""
    path.write_text("\n".join(lines))
    status, out, error = launch.run(processes, several.__file__, path)
    assert status == 0, out + error
    return out, error


def log(folder: Path) -> list[dict]:
    """Its rows."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_near(folder: Path, expected: Path) -> None:
    """The same run up to rounding: weights, averages, the optimiser's, best, and every row of the log."""
    for name in FILES:
        (found, card), (other, about) = (checkpoint.read(place / name) for place in (folder, expected))
        assert found.keys() == other.keys() and len(found) > 30
        for key, value in found.items():
            assert (value - other[key]).abs().max() <= NEAR * max(1, other[key].abs().max()), key
        best, other_best = (one.get("held_out") or one["progress"]["best"] for one in (card, about))
        assert best["step"] == other_best["step"]
        assert best["accuracy"] == pytest.approx(other_best["accuracy"], abs=0.002)
        assert card["config"] == about["config"] and card["recipe"] == about["recipe"]
    rows = log(folder)
    assert [row["step"] for row in rows] == ROWS
    for row, other in zip(rows, log(expected), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-4) and row["lr"] == other["lr"]
        assert row.get("n") == other.get("n")


def assert_same(folder: Path, expected: Path) -> None:
    """The same run to the last bit, and no row of the log missing or twice."""
    for name in FILES:
        (found, card), (other, about) = (checkpoint.read(place / name) for place in (folder, expected))
        assert found.keys() == other.keys() and len(found) > 30
        for key, value in found.items():
            assert torch.equal(value, other[key]), f"{key} of {name}"
    rows, others = ([without_time(row) for row in log(place)] for place in (folder, expected))
    assert rows == others


def without_time(row: dict) -> dict:
    """What does not depend on how fast the machine is."""
    return {name: value for name, value in row.items() if name not in ("seconds", "images_per_s", "processes")}
