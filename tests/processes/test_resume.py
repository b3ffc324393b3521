"""A run goes on with another number of processes, with copies or with shards, as one that was left alone."""

import re

import pytest

from dtl_lib import checkpoint
from dtl_lib.__main__ import main
from tests.processes import several
from tests.processes.compared import NEAR, TRAIN, assert_near, log, runs


@pytest.fixture(scope="module")
def undisturbed(folder):
    assert main(["train", *TRAIN.split(), "--output-dir", str(folder / "undisturbed")]) == 0
    return folder / "undisturbed"


@pytest.fixture(scope="module")
def two_processes(folder):
    """What two processes print that begin the runs `chain`, `cut` and `spoilt`, and leave the first of them undone."""
    return runs(
        2, folder / "two", f"STOP:20 {TRAIN} --output-dir {folder / 'chain'}",
        f"STOP:38 --resume {folder / 'chain'} --shard",
        f"STOP:30 {TRAIN} --shard --output-dir {folder / 'cut'}", f"--resume {folder / 'cut'}",
        f"SPOIL:20 {TRAIN} --on-nan skip --output-dir {folder / 'spoilt'}",
    )  # fmt: skip


def test_copies_then_shards(folder, undisturbed, two_processes):
    out, error = two_processes
    stops = re.findall(
        r"process (\d): stopped at step (\d+) of 60, saved; go on with: dtl train --resume .* \(0\)", out
    )
    assert sorted(stops) == sorted((rank, step) for step in ("21", "39", "31") for rank in "01")
    assert out.count("test accuracy") == 2 and "saved by" not in error  # the number of processes has not changed
    assert_near(folder / "cut", undisturbed)


@pytest.mark.usefixtures("two_processes")
def test_the_rest_on_one_process_says_so_once(folder, undisturbed, caplog):
    assert main(["train", "--resume", str(folder / "chain")]) == 0
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, said
    assert said[0].startswith("saved by 2 processes, goes on with 1: the same batches of 24 in the same order, 24 im")
    assert_near(folder / "chain", undisturbed)


def test_one_process_then_four(folder, undisturbed):
    one = folder / "one"
    (folder / "alone").write_text(f"STOP:33 {TRAIN} --output-dir {one}")
    several.main(str(folder / "alone"))
    out, error = runs(4, folder / "four", f"--resume {one}")
    assert error.count("saved by 1 process, goes on with 4: the same batches of 24 in the same order, 6 images ") == 1
    assert "60 steps of 24 images on 4 processes" in out and out.count("test accuracy") == 1
    assert_near(one, undisturbed)
    assert checkpoint.read(one / "state.safetensors")[1]["processes"] == 4


@pytest.mark.usefixtures("two_processes")
def test_what_is_no_number_on_one_process_is_skipped_by_all(folder, undisturbed):
    (folder / "spoil").write_text(f"SPOIL:20 {TRAIN} --on-nan skip --output-dir {folder / 'spoilt-alone'}")
    several.main(str(folder / "spoil"))
    assert_near(folder / "spoilt", folder / "spoilt-alone")
    skipped = [[row.get("skipped", 0) for row in log(folder / name)] for name in ("spoilt", "spoilt-alone")]
    assert skipped[0] == skipped[1] and skipped[0][:3] == [0, 0, 1] and skipped[0][-1] == 3  # once in each epoch
    weights, others = (checkpoint.read(place / "state.safetensors")[0] for place in (folder / "spoilt", undisturbed))
    assert any((weights[name] - others[name]).abs().max() > 10 * NEAR for name in weights)
