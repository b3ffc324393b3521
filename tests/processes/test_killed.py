"""Two processes train as one does; killed or stopped, they go on to the weights of a run left alone."""

import os
import re
import signal
from pathlib import Path

import pytest

from dtl_lib import checkpoint
from dtl_lib.__main__ import main
from dtl_lib.checkpoint import load_model
from tests.processes import hosts, launch
from tests.processes.compared import TRAIN, assert_near, assert_same, runs

DTL = ("-m", "dtl_lib", "train")


@pytest.fixture(scope="module")
def two(folder):
    """Folder and output of two processes with copies of the model."""
    status, out, error = launch.run(2, *DTL, *TRAIN.split(), "--output-dir", folder / "two")
    assert status == 0, error
    return folder / "two", out, error


def started(folder: Path, *flags, step: int = 20, restarts: int = 0):
    """torchrun with two processes that train, once they have saved that step."""
    process = launch.torchrun(2, *DTL, *TRAIN.split(), "--quiet", "--output-dir", folder, *flags, restarts=restarts)
    launch.wait_for(lambda: step_of(folder) >= step, f"step {step}", process)
    return process


def step_of(folder: Path) -> int:
    """Of the state that was saved last; 0 where there is none yet."""
    path = folder / "state.safetensors"
    return checkpoint.read_card(path)["progress"]["step"] if path.is_file() else 0


def test_two_processes_train_as_one_and_the_first_one_prints(folder, two):
    assert main(["train", *TRAIN.split(), "--output-dir", str(folder / "one")]) == 0
    place, out, error = two
    assert_near(place, folder / "one")
    for once in ("M parameters", "60 steps of 24 images on 2 processes", "test accuracy", "(n = 10,000)", "saved in"):
        assert out.count(once) == 1, out
    assert "%|" not in error  # no bar in a log, for less than a minute
    assert load_model(place / "best.safetensors").card["test"]["n"] == 10_000


def test_shards_are_the_same_run(folder, two):
    status, out, error = launch.run(2, *DTL, *TRAIN.split(), "--shard", "--output-dir", folder / "shards")
    assert status == 0 and out.count("test accuracy") == 1, error
    assert_near(folder / "shards", two[0])
    weights, same = (load_model(place / "best.safetensors").state_dict() for place in (folder / "shards", two[0]))
    assert all(value.shape == same[name].shape for name, value in weights.items())


def test_a_worker_killed_is_started_again_and_the_weights_are_the_same(folder, two):
    place = folder / "restarted"
    process = started(place, restarts=1)
    os.kill(launch.worker(process, 1), signal.SIGKILL)
    status, out, error = launch.finished(process)
    assert status == 0, error
    assert out.count(f"restart 1 of at most 1: resuming {place}") == 1 and out.count("test accuracy") == 1
    assert_same(place, two[0])


@pytest.mark.parametrize("lost", [0, 1])
def test_a_worker_killed_on_one_of_two_hosts_is_started_again_on_both(folder, two, lost):
    place = folder / f"host {lost}"
    with hosts.two_hosts() as pair:
        line = (*DTL, *TRAIN.split(), "--quiet", "--output-dir", place)
        both = [pair.torchrun(host, 1, *line, restarts=3) for host in (0, 1)]
        launch.wait_for(lambda: step_of(place) >= 20, "step 20", both[0])
        os.kill(launch.worker(both[lost], lost), signal.SIGKILL)
        (status, out, error), (other, silent, said) = map(launch.finished, both)
    assert (status, other, silent) == (0, 0, ""), error + said
    assert out.count(f"restart 1 of at most 3: resuming {place}") == 1 and out.count("test accuracy") == 1
    assert_same(place, two[0])


def test_all_killed_or_stopped_and_resumed_the_weights_are_the_same(folder, two):
    killed, stopped, interrupted = (folder / name for name in ("killed", "stopped", "interrupted"))
    launch.end(started(killed))
    for place, number in ((stopped, signal.SIGTERM), (interrupted, signal.SIGINT)):
        process = started(place, step=10)
        workers = [launch.worker(process, rank) for rank in range(2)]
        if number == signal.SIGINT:  # a terminal sends it to all in its foreground; torchrun passes it on as well
            for pid in workers:
                os.kill(pid, number)
        process.send_signal(number)
        status, out, error = launch.finished(process)
        assert status == 1 and "SignalException" in error  # torchrun's own way to end: its processes have exited with 0
        said = re.findall(r"^dtl: .*", error, re.MULTILINE)
        step = checkpoint.read_card(place / "state.safetensors")["progress"]["step"]
        words = f"dtl: stopped at step {step} of 60, saved; go on with: dtl train --resume {place} "
        assert len(said) == 1 and said[0].startswith(words), error
        assert said[0].endswith("under the same torchrun or srun line"), error
        assert 10 <= step < 60
    runs(2, folder / "lines", *(f"--resume {place}" for place in (killed, stopped, interrupted)))
    for place in (killed, stopped, interrupted):
        assert_same(place, two[0])


def test_two_hosts_are_two_processes(folder, two):
    place = folder / "hosts"
    with hosts.two_hosts() as pair:
        both = [pair.torchrun(host, 1, *DTL, *TRAIN.split(), "--output-dir", place) for host in (1, 0)]
        (quiet, silent, error), (status, out, _) = map(launch.finished, both)
    assert (status, quiet, silent) == (0, 0, ""), error
    assert "60 steps of 24 images on 2 processes on host-a, host-b, 12 images each" in out
    assert_same(place, two[0])
