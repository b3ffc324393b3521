"""Tasks as srun starts them: no torchrun, and what they find each other through ends with the first."""

import platform
import signal
import socket
import subprocess
import sys

import pytest
import torch

from dtl_lib import checkpoint
from dtl_lib.train.distributed import environment, processes
from tests.processes import launch
from tests.processes.compared import TRAIN

LONG = (*TRAIN.split(), "--quiet", "--checkpoint-every", "1", "--max-steps", "5000")


COUNT = """
import os, torch
from dtl_lib.train.distributed.processes import joined
with joined(torch.device("cpu"), 60):
    print(os.environ["LOCAL_WORLD_SIZE"])
"""


def tasks(count: int, *flags, program=("-m", "dtl_lib", "train"), **more) -> list:
    """`dtl train` with srun's variables, which every task gets."""
    line = [sys.executable, *program, *flags]
    every = {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_JOB_ID": "7", "SLURM_STEP_TASKS_PER_NODE": f"{count}", **more}
    place = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(count)]
    return [launch.start(line, **every, **here) for here in place]


def training(folder) -> list:
    """Two tasks that have saved a step."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(launch.free_port())}
    both = tasks(2, *LONG, "--output-dir", folder, **place)
    launch.wait_for(lambda: (folder / "state.before.safetensors").is_file(), "second save", both[1])
    return both


def test_sigterm_to_all_tasks_saves_and_every_task_exits_with_0(tmp_path):
    both = training(tmp_path / "run")
    for one in both:
        one.send_signal(signal.SIGTERM)
    (first, out, error), (second, nothing, silence) = (launch.finished(one) for one in both)
    assert (first, second, nothing, silence) == (0, 0, "", ""), error
    step = checkpoint.read_card(tmp_path / "run/state.safetensors")["progress"]["step"]
    saved = f"stopped at step {step} of 5000, saved; go on with: dtl train --resume {tmp_path}/run"
    assert error.startswith(f"dtl: {saved} ") and error.count("\n") == 1 and "on 2 processes" in out
    assert error.endswith(", under the same torchrun or srun line\n")


def test_tasks_know_how_many_share_their_host():
    """And with it /dev/shm, in which their workers hand pictures over."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(launch.free_port())}
    ends = [launch.finished(one) for one in tasks(2, program=("-c", COUNT), **place)]
    assert [(status, out) for status, out, _ in ends] == [(0, "2\n")] * 2, ends


def test_a_log_file_says_at_once_what_is_trained(tmp_path):
    line = [sys.executable, "-m", "dtl_lib", "train", *LONG, "--output-dir", str(tmp_path / "run")]
    with open(tmp_path / "log", "w") as log:
        one = subprocess.Popen(line, cwd=launch.ROOT, env=launch.environment(PYTHONUNBUFFERED=""), stdout=log)
    try:
        launch.wait_for(lambda: (tmp_path / "run/state.before.safetensors").is_file(), "second save", one)
        assert "5,000 steps of 24 images on " in (tmp_path / "log").read_text()
    finally:
        launch.end(one)
        one.wait()


def test_the_first_task_killed_is_named_by_the_rest(tmp_path):
    first, second = training(tmp_path / "run")
    first.kill()
    status, _, error = launch.finished(second)
    launch.finished(first)
    host = platform.node()
    words = f"dtl: the host of process 0 ({host}) does not answer any more: process 0 or its launcher was killed there"
    assert status == 1 and error.strip() == words, error


def test_without_an_address_one_line_says_what_to_export(tmp_path):
    ends = [launch.finished(one) for one in tasks(2, *LONG, "--output-dir", tmp_path / "run")]
    assert [status for status, _, _ in ends] == [2, 1]  # srun's is the largest
    said = "".join(error for _, _, error in ends)
    assert said.count("dtl: ") == 1 and "export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST" in said


def test_a_batch_script_s_own_process_waits_for_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    batch = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "16", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}
    for name, value in batch.items():
        monkeypatch.setenv(name, value)
    assert not environment.launched()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # srun -n 1, or an interactive shell
    assert not environment.launched()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--checkpoint-every", "2"), "--checkpoint_every 2 and process 0"),
        (("--resume",), "--resume True and process 0"),
        (("--seed", "5"), "--seed 5 and process 0"),
        (("--compile",), "--compile True and process 0"),
        (("--record", "other"), "--record 'other' and process 0"),
    ],
)
def test_a_task_with_another_flag_is_named_at_once(tmp_path, flags, named):
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(launch.free_port())}
    line = (*LONG[:-4], "--max-steps", "2", "--output-dir", tmp_path / "run")
    (one,) = tasks(1, *line, **place, SLURM_STEP_NUM_TASKS="2")
    more = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", **place}
    other = launch.start([sys.executable, "-m", "dtl_lib", "train", *line, *flags], **more)
    (status, _, error), (other_status, _, silence) = (launch.finished(each, limit=60) for each in (one, other))
    assert (status, other_status) == (2, 1) and f"dtl: process 1 of 2 on {platform.node()} has {named}" in error
    assert "Traceback" not in error + silence and not (tmp_path / "run").exists()


def test_an_unknown_flag_of_one_task_is_said_by_it(tmp_path):
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    more = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", **place}
    line = [sys.executable, "-m", "dtl_lib", "train", "--no-such"]
    status, _, error = launch.finished(launch.start(line, **more), limit=60)
    assert status == 2 and error.lstrip().startswith("dtl: process 1: train has no flag --no-such")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID"),
        ({"SLURM_STEP_NUM_TASKS": "many", "SLURM_PROCID": "0"}, "SLURM_STEP_NUM_TASKS"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "SLURM_LOCALID"),
        ({"WORLD_SIZE": "2"}, "RANK"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "-1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, "MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"}, "MASTER_PORT"),
    ],
)
def test_variables_that_are_missing_or_wrong_are_named(variables, named, monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", *environment.PLACE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{named} "), processes.joined(torch.device("cpu"), 5):
        pass


def test_a_port_that_is_taken_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (first,) = tasks(1, *LONG, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), SLURM_STEP_NUM_TASKS="2")
        status, _, error = launch.finished(first, limit=120)
    assert (status, error) == (
        2,
        f"dtl: another program uses the port of 127.0.0.1:{port}: choose another MASTER_PORT\n",
    )
