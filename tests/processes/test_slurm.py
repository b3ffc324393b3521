"""Tasks as srun starts them: no torchrun, and what they find each other through ends with the first."""

import platform
import signal
import subprocess
import sys

from dtl_lib import checkpoint
from dtl_lib.train.distributed import processes as distributed
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
    assert not distributed.launched()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # srun -n 1, or an interactive shell
    assert not distributed.launched()
